//! Channels that a handle on a pattern has found and does not receive from yet: removed ones take turns, a few at a time,
//! so that those whose turn has not come can be given up where room runs out, whether their owner is stopped or not.
//! Promise: of two of one name, the one that came first leaves first.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use crate::cells::Cell;

/// A channel that has no receiver yet.
pub(crate) struct Found {
    /// Of two of one name, the later has more.
    pub order: u64,
    pub name: Arc<str>,
    pub cell: Cell,
}

/// Those that wait, the first in front.
#[derive(Default)]
pub(crate) struct Turns {
    queue: VecDeque<Found>,
    /// How many there are of each name.
    names: HashMap<Arc<str>, usize>,
    cells: HashSet<(u32, u64)>,
}

impl Turns {
    /// Nobody waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Does this channel wait?
    pub fn has(&self, cell: Cell) -> bool {
        self.cells.contains(&(cell.number(), cell.generation))
    }

    /// Does one of this name wait?
    pub fn has_name(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// Behind all others.
    pub fn push(&mut self, found: Found) {
        self.note(&found);
        self.queue.push_back(found);
    }

    /// Before all others: whose turn it was.
    pub fn push_front(&mut self, found: Found) {
        self.note(&found);
        self.queue.push_front(found);
    }

    fn note(&mut self, found: &Found) {
        *self.names.entry(found.name.clone()).or_default() += 1;
        self.cells.insert((found.cell.number(), found.cell.generation));
    }

    /// The one whose turn it is.
    pub fn pop(&mut self) -> Option<Found> {
        let found = self.queue.pop_front()?;
        if let Some(count) = self.names.get_mut(&found.name) {
            *count -= 1;
            if *count == 0 {
                self.names.remove(&found.name);
            }
        }
        self.cells.remove(&(found.cell.number(), found.cell.generation));
        Some(found)
    }

    /// The channels.
    pub fn cells(&self) -> impl Iterator<Item = Cell> {
        self.queue.iter().map(|found| found.cell)
    }
}
