//! The waitlists of a thread that foreign event loops watch, one a segment.

use std::cell::RefCell;
use std::sync::Arc;

use hypern_shm_core as core;
use pyo3::prelude::*;

use crate::errors::raise;

thread_local! {
    static LISTS: RefCell<Vec<Arc<core::Waitlist>>> = const { RefCell::new(Vec::new()) };
}

/// This thread's list for the segment of `source`.
pub fn own_list(source: &dyn core::Source) -> PyResult<Arc<core::Waitlist>> {
    LISTS.with_borrow_mut(|lists| {
        lists.retain(|list| !list.is_stale());
        if let Some(list) = lists.iter().find(|list| list.is_of(source.segment())) {
            return Ok(list.clone());
        }
        let list = core::Waitlist::new(source.segment()).map_err(raise)?;
        lists.push(list.clone());
        Ok(list)
    })
}
