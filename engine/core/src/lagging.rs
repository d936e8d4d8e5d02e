//! The keeper's look for handles that fall behind, every few seconds: told once when it begins and once when it is over.

use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashSet;

use crate::cells::{Cell, is_channel};
use crate::directory::Directory;
use crate::error::Result;
use crate::events::{self, Lagging};
use crate::handles::{key_client, shown};
use crate::layout::{Channel, state};
use crate::process::TAKEN;
use crate::reap::each_cell;
use crate::space::{Context, owner_slot};

/// Between two looks, in microseconds.
const PERIOD: u64 = 2_000_000;
/// Channels told of in one look: where everything lags, more tell nothing new.
const MOST: usize = 10;

/// Which share of its buffer a handle may be behind, in thousandths; 0: any.
static THRESHOLD: AtomicU64 = AtomicU64::new(500);

/// Sets which share of its channel's buffer a handle may be behind before the keeper tells of it; 0 or less: never.
pub fn warn_of_lag_above(share: f64) {
    THRESHOLD.store((share.clamp(0.0, 1.0) * 1000.0) as u64, Ordering::Relaxed);
}

/// What the keeper remembers between two looks.
#[derive(Default)]
pub(crate) struct Watcher {
    looked: u64,
    lagging: HashSet<(u32, u64)>,
}

/// The slowest handle of a channel that lags.
struct Slowest {
    client: String,
    owner: u64,
    lag: u64,
    handles: u64,
}

impl Watcher {
    /// Looks, if it is time.
    pub(crate) fn look(&mut self, cx: Context<'_>, name: Option<&str>, now: u64) {
        let share = THRESHOLD.load(Ordering::Relaxed);
        if share == 0 || now.saturating_sub(self.looked) < PERIOD || !log::log_enabled!(target: events::TARGET, log::Level::Warn) {
            return;
        }
        self.looked = now;
        let (mut still, mut news) = (HashSet::new(), Vec::new());
        // What cannot be read is `check`'s matter.
        let _ = each_cell(cx, |cell, back| {
            let key = (cell.number(), cell.generation);
            let before = self.lagging.contains(&key);
            // Half the threshold below which it counts as caught up: no flutter in the log.
            if let Some(slowest) = slowest(cx, cell, back, if before { share / 2 } else { share })? {
                still.insert(key);
                if !before {
                    news.push((cell, slowest));
                }
            } else if before && let Some(channel) = name_of(cx, cell) {
                events::caught_up(name, &channel);
            }
            Ok(())
        });
        self.lagging = still;
        for (cell, slowest) in news.iter().take(MOST) {
            let Some(channel) = name_of(cx, *cell) else {
                continue;
            };
            let slot = cx.space.slot(owner_slot(slowest.owner));
            let pid = (slot.owner() == slowest.owner && slot.state() == TAKEN).then(|| u64::from(cx.space.identity(slot.slot).pid));
            let buffer = 1 << (cx.view().get(cell.at() + Channel::config) & 0x1f);
            let Slowest { client, lag, handles, .. } = slowest;
            events::lagging(name, &Lagging { channel: &channel, client, pid, lag: *lag, buffer, handles: *handles });
        }
    }
}

/// The slowest of the handles that lag more than the share, in thousandths; `None`: none does.
fn slowest(cx: Context<'_>, cell: Cell, back: u64, share: u64) -> Result<Option<Slowest>> {
    if !is_channel(back) || cell.state(cx) != Some(state::LIVE) {
        return Ok(None);
    }
    let Some(ring) = cell.ring(cx)? else {
        return Ok(None);
    };
    let start = cx.view().get(cell.at() + Channel::start);
    let most = ring.len() * share / 1000;
    let mut slowest: Option<Slowest> = None;
    cell.trie(cx, Channel::handles).records(|entry, record| {
        let Some(cursor) = shown(cx, record, start).and_then(|shown| shown.cursor) else {
            return;
        };
        let lag = ring.head(cx).saturating_sub(cursor);
        if lag <= most || !entry.is_live() {
            return;
        }
        let handles = slowest.as_ref().map_or(0, |slowest| slowest.handles) + 1;
        match &mut slowest {
            Some(slower) if slower.lag >= lag => slower.handles = handles,
            _ => {
                let client = String::from_utf8_lossy(key_client(record.key())).into_owned();
                slowest = Some(Slowest { client, owner: record.owners.first().copied().unwrap_or(0), lag, handles });
            }
        }
    })?;
    Ok(slowest)
}

/// The name by which a directory leads to a cell.
fn name_of(cx: Context<'_>, cell: Cell) -> Option<String> {
    let root = (cx.view().get(cell.at() + Channel::back) >> 8) as usize;
    if !cx.space.may_be_root(root) {
        return None;
    }
    let mut name = None;
    let listed = Directory::new(cx, root).each(|found| {
        if found.cell == cell {
            name = Some(found.record.name());
        }
    });
    listed.ok().and(name)
}
