//! Slots: which processes are attached, and which of them the kernel says are dead.
//!
//! A slot's owner word is `incarnation:48 | state:4`. The process that holds the slot's byte of the
//! file under an OFD lock may take or settle it; the kernel drops the lock when the process dies,
//! before its zombie is reaped, in any pid namespace, and keeps it under SIGSTOP.
//! Promise: a living process's slot is never taken; a late process's neither.

use crate::error::{Error, Result};
use crate::layout::{Header, Slot};
use crate::os::{clock, locks, process};
use crate::points::point;
use crate::space::{Space, owner};
use crate::sync::Ordering;
use std::fs::File;

/// Nobody's.
pub const FREE: u64 = 0;
/// A process's.
pub const TAKEN: u64 = 1;
/// A process's that is detaching in order: what it leaves stays.
pub const LEAVING: u64 = 2;
/// Settled for a dead process, while its byte is still held by a descriptor it left to a child.
pub const SETTLED: u64 = 3;

/// What a slot's owner word says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotState {
    /// The slot.
    pub slot: u32,
    /// The word itself, for a compare-and-swap.
    pub word: u64,
}

impl SlotState {
    /// How often the slot was taken.
    pub const fn incarnation(&self) -> u64 {
        self.word >> 16
    }
    /// FREE, TAKEN, LEAVING or SETTLED.
    pub const fn state(&self) -> u64 {
        self.word & 0xf
    }
    /// The owner that entries of this incarnation carry.
    pub const fn owner(&self) -> u64 {
        owner(self.incarnation(), self.slot)
    }
}

impl Space {
    /// What a slot says now.
    pub fn slot(&self, slot: u32) -> SlotState {
        // SYNC slot.take (R): pairs with (W) in `take_slot`: who it is, once it is said that it is.
        let word = self.view.word(self.slot_at(slot) + Slot::owner).load(Ordering::Acquire);
        SlotState { slot, word }
    }

    /// Swaps a slot's owner word if it is still as seen.
    pub fn turn_slot(&self, seen: SlotState, state: u64) -> bool {
        let word = self.view.word(self.slot_at(seen.slot) + Slot::owner);
        let new = seen.word & !0xf | state;
        word.compare_exchange(seen.word, new, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// The byte of the file that stands for a slot.
    pub fn slot_byte(&self, slot: u32) -> u64 {
        self.slot_at(slot) as u64 * 8
    }

    /// Takes a free slot for this process: locks its byte, then writes who we are.
    pub fn take_slot(&self, file: &File) -> Result<SlotState> {
        for slot in 0..self.geometry.slots {
            let seen = self.slot(slot);
            if !matches!(seen.state(), FREE | SETTLED) || !locks::try_lock(file, self.slot_byte(slot))? {
                continue;
            }
            point!("attach.locked");
            // Locked, so nobody else takes it; but it may have been taken and lost since we looked.
            let seen = self.slot(slot);
            if !matches!(seen.state(), FREE | SETTLED) {
                locks::unlock(file, self.slot_byte(slot))?;
                continue;
            }
            let at = self.slot_at(slot);
            let me = process::current();
            self.view.set(at + Slot::pid, u64::from(me.pid));
            self.view.set(at + Slot::start_time, me.start_time);
            self.view.set(at + Slot::pid_namespace, me.pid_namespace);
            self.view.set(at + Slot::since, clock::monotonic_micros());
            let word = (seen.incarnation() + 1) << 16 | TAKEN;
            point!("attach.written");
            // SYNC slot.take (W): who we are before that we are; pairs with (R) in `slot`.
            self.view.word(at + Slot::owner).store(word, Ordering::Release);
            point!("attach.taken");
            self.view.word(Header::attaches).fetch_add(1, Ordering::Relaxed);
            return Ok(SlotState { slot, word });
        }
        Err(Error::Full {
            what: "the process slots are",
            used: u64::from(self.geometry.slots),
            capacity: u64::from(self.geometry.slots),
            setting: "max_processes",
        })
    }

    /// Who the process of a slot says it is.
    pub fn identity(&self, slot: u32) -> process::Identity {
        let at = self.slot_at(slot);
        process::Identity {
            pid: self.view.get(at + Slot::pid) as u32,
            start_time: self.view.get(at + Slot::start_time),
            pid_namespace: self.view.get(at + Slot::pid_namespace),
        }
    }

    /// Is the process of this slot dead? Stopped, slow and late are alive.
    pub fn is_dead(&self, file: &File, seen: SlotState) -> Result<bool> {
        let visible = process::visible(&self.identity(seen.slot));
        if locks::is_held(file, self.slot_byte(seen.slot))? {
            // A child that was cloned behind our back keeps a killed parent's lock as long as it lives.
            return Ok(matches!(visible, process::Visible::Gone) && self.slot(seen.slot) == seen);
        }
        // A daemoniser closes every descriptor and lives.
        Ok(!matches!(visible, process::Visible::Running) && self.slot(seen.slot) == seen)
    }

    /// Slots in use, ours included.
    pub fn slots_in_use(&self) -> u32 {
        (0..self.geometry.slots).filter(|&slot| matches!(self.slot(slot).state(), TAKEN | LEAVING)).count() as u32
    }
}
