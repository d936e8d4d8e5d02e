//! Which segments this user has, and what can be said of each without attaching.

use serde::Serialize;

use super::Inspector;
use crate::error::{Error, Result};
use crate::layout::LAYOUT_VERSION;
use crate::os::{clock, locks, shm};
use crate::process::{LEAVING, TAKEN};

/// One segment.
#[derive(Clone, Debug, Serialize)]
pub struct SegmentRow {
    /// Its name.
    pub name: String,
    /// Its file.
    pub path: String,
    /// Its layout version, from the file's name.
    pub layout: u32,
    /// Bytes; `None`: the file cannot be looked at.
    pub size: Option<u64>,
    /// When it was made, in seconds since 1970.
    pub created_at: Option<f64>,
    /// Seconds since then.
    pub age_seconds: Option<f64>,
    /// Processes attached and alive; `None`: it cannot be told.
    pub processes: Option<u64>,
    /// `in use`, `abandoned` (nobody alive is attached), `unfinished` (its creator is at work, or died), `damaged`
    /// or `refused`.
    pub state: &'static str,
    /// Why it cannot be looked into.
    pub problem: Option<String>,
}

/// The segments of this user, by name.
pub fn list() -> Result<Vec<SegmentRow>> {
    Ok(shm::list()?.into_iter().filter_map(row).collect())
}

/// What can be said of one; `None`: it has just gone.
fn row(listed: shm::Listed) -> Option<SegmentRow> {
    let path = listed.path.display().to_string();
    let mut row = SegmentRow {
        name: listed.name,
        path,
        layout: listed.layout,
        size: None,
        created_at: None,
        age_seconds: None,
        processes: None,
        state: "refused",
        problem: None,
    };
    let file = match shm::open_to_look(&row.name, row.layout) {
        Ok(file) => file,
        Err(Error::NotFound { .. }) => return None,
        Err(error) => {
            row.problem = Some(error.to_string());
            return Some(row);
        }
    };
    row.size = shm::size(&file).ok();
    row.created_at = shm::made_at(&file).ok();
    row.age_seconds = row.created_at.map(|made| (clock::realtime_micros() as f64 / 1e6 - made).max(0.0));
    // Of every layout the slots lie behind the first byte.
    let by_locks = || if locks::is_any_held(&file, 1).unwrap_or(false) { "in use" } else { "abandoned" };
    if row.layout != LAYOUT_VERSION {
        row.state = by_locks();
        return Some(row);
    }
    match Inspector::open(&row.name) {
        Ok(inspector) => {
            let alive = inspector.alive();
            row.processes = Some(alive);
            row.state = if alive > 0 { "in use" } else { "abandoned" };
        }
        Err(Error::NotFound { .. }) => row.state = "unfinished",
        Err(Error::Version { .. }) => {
            row.state = by_locks();
            row.problem = Some("made by another version".to_owned());
        }
        Err(error) => {
            row.state = if matches!(error, Error::Refused { .. }) { "refused" } else { "damaged" };
            row.problem = Some(error.to_string());
        }
    }
    Some(row)
}

impl Inspector {
    /// How many processes are attached and alive.
    pub fn alive(&self) -> u64 {
        let slots = (0..self.space.geometry.slots).map(|slot| self.space.slot(slot));
        slots.filter(|slot| matches!(slot.state(), TAKEN | LEAVING) && !self.is_dead(slot.slot)).count() as u64
    }
}
