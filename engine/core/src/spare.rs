//! Buffers that a thread uses over and over: what is read from the segment and what is written to it passes through
//! one, and most of them are small and short-lived.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};

/// Buffers that a thread keeps.
const KEPT: usize = 4;
/// What is larger is given back to the system.
const LARGEST: usize = 4 << 10;
/// Room of a new one: most records fit.
const ROOM: usize = 192;

thread_local! {
    static SPARE: [Cell<Vec<u8>>; KEPT] = const { [const { Cell::new(Vec::new()) }; KEPT] };
}

/// Bytes in a buffer that is used again by its thread, or by the one in which it is dropped.
#[derive(Debug, Default)]
pub struct Spare(Vec<u8>);

impl Spare {
    /// An empty one with room.
    #[inline]
    pub(crate) fn new() -> Spare {
        // A thread that ends has none left.
        let kept = SPARE.try_with(|spare| spare.iter().map(Cell::take).find(|buffer| buffer.capacity() > 0));
        Spare(kept.ok().flatten().unwrap_or_else(|| Vec::with_capacity(ROOM)))
    }
}

impl Drop for Spare {
    #[inline]
    fn drop(&mut self) {
        if !(1..=LARGEST).contains(&self.0.capacity()) {
            return;
        }
        let mut buffer = std::mem::take(&mut self.0);
        buffer.clear();
        let _ = SPARE.try_with(|spare| {
            for place in spare {
                buffer = place.replace(std::mem::take(&mut buffer));
                if buffer.capacity() == 0 {
                    break;
                }
            }
        });
    }
}

impl Clone for Spare {
    fn clone(&self) -> Spare {
        let mut copy = Spare::new();
        copy.extend_from_slice(self);
        copy
    }
}

impl Deref for Spare {
    type Target = Vec<u8>;

    #[inline(always)]
    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Spare {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}
