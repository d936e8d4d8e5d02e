//! The kernel's part of doorbells: finds what a sleeper waits on, and rings it.
//! Promise: it never blocks, and a bell that cannot be rung is left to the sweep of whoever waits.

use hashbrown::HashMap;

use crate::layout::{Bell, means};
use crate::os::bell::{self, Shelf};
use crate::os::kept::Kept;
use crate::os::lock::Lock;
use crate::space::{Ringer, Space};

/// Rings the bells of one segment; remembers the descriptors of those it has rung.
pub(crate) struct Kernel {
    shelf: Option<Shelf>,
    known: Lock<HashMap<u32, (u64, Kept)>>,
}

impl Kernel {
    /// For the bells of a shelf.
    pub(crate) fn new(shelf: Option<Shelf>) -> Kernel {
        Kernel { shelf, known: Lock::default() }
    }
}

impl Ringer for Kernel {
    fn ring(&self, space: &Space, bell: u32, generation: u64) {
        let Some(at) = space.geometry.bell(bell) else {
            return;
        };
        let field = |field: usize| space.view.get(at + field);
        let kind = field(Bell::kind);
        if kind == means::FUTEX {
            return bell::futex_wake(space.view.word(at + Bell::bell));
        }
        let open = || bell::ringing(self.shelf.as_ref(), kind, bell, generation, field(Bell::pid), field(Bell::descriptor));
        // Not waited for: ringing never waits.
        let Some(mut known) = self.known.try_lock() else {
            if let Some(descriptor) = open() {
                bell::ring(&descriptor);
            }
            return;
        };
        if let Some((life, descriptor)) = known.get(&bell)
            && *life == generation
            && bell::ring(descriptor)
        {
            return;
        }
        match open() {
            Some(descriptor) => {
                bell::ring(&descriptor);
                known.insert(bell, (generation, descriptor));
            }
            None => drop(known.remove(&bell)),
        }
    }

    fn rest(&self) {
        if let Some(mut known) = self.known.try_lock() {
            known.clear();
        }
    }

    fn freed(&self, bell: u32, generation: u64) {
        if let Some(mut known) = self.known.try_lock() {
            known.remove(&bell);
        }
        if let Some(shelf) = &self.shelf {
            shelf.remove(bell, generation);
        }
    }
}
