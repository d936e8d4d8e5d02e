//! Doorbells: waking whoever sleeps, without a system call when nobody does.
//!
//! A bell belongs to one waiting event loop or thread. Every cell has a row of bits, one a bell: who is
//! interested in its news. Every bell has dirty bits, one for several cells: where its news may be.
//!
//! ```text
//! waiter:    set the interest bit; FENCE; look for news once more
//!            bell = SLEEPING of a new epoch; FENCE; collect dirty bits, look there; wait in the kernel
//! publisher: publish; FENCE; for each interested bell: set the dirty bit; FENCE; by the bell's state
//!              AWAKE, RUNG: nothing     SLEEPING → RINGING, RINGING: ring in the kernel, then → RUNG
//! ```
//!
//! Promise: news that is published to its end wakes every interested sleeper, whoever else is killed or
//! stopped when. Of each pair of FENCEs one comes first: either the publisher sees the bit (or state), or
//! the waiter sees the news. A publisher stopped in mid-ring leaves RINGING, which others ring over; the
//! epoch keeps its late RUNG off a later sleep, where it would silence others. A publisher *killed*
//! between publishing and ringing is made up for by the sweep of whoever waits.
//!
//! The dirty bits make waking cost what has news, not what is waited for. Interest bits are set and
//! cleared by the bell's owner alone (and for the dead), so a bit is at worst stale: a spurious ring.

use crate::layout::{Bell as Words, DIRTY_WORDS, Header, state};
use crate::mutants::without;
use crate::points::point;
use crate::space::Context;
use crate::sync::{Ordering, fence, fence_after_swap};

/// Bits of a bell's word that are its state.
const STATE: u64 = 3;
/// Looks for news by itself; must not be rung.
const AWAKE: u64 = 0;
/// Must be rung.
const SLEEPING: u64 = 1;
/// Somebody is ringing, and may have been stopped while doing so.
const RINGING: u64 = 2;
/// Was rung: the kernel holds the wake-up.
const RUNG: u64 = 3;
const EPOCH: u64 = STATE + 1;

/// Dirty bits of a bell: several cells may share one.
pub const BUCKETS: u32 = DIRTY_WORDS as u32 * 64;

/// What a bell's word says of its owner.
pub fn owner_is(word: u64) -> &'static str {
    match word & STATE {
        AWAKE => "awake",
        SLEEPING => "asleep",
        RINGING => "being rung",
        _ => "rung",
    }
}

/// One life of a bell, in its owner's hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bell {
    /// Its number.
    pub number: u32,
    /// Its first word.
    pub at: usize,
    /// Which life it is.
    pub generation: u64,
}

impl Context<'_> {
    /// Claims a bell for a loop or thread of this process. `None`: all are in use.
    pub fn claim_bell(self) -> Option<Bell> {
        let bells = self.space.geometry.bells;
        let start = self.actor.bell_cursor.load(Ordering::Relaxed) as u32 % bells.max(1);
        for step in 0..bells {
            let number = (start + step) % bells;
            let at = self.space.geometry.bell(number)?;
            let free = self.word(at).load(Ordering::Relaxed);
            if state::of(free) != state::FREE {
                continue;
            }
            let held = self.actor.next_life(free);
            if self.word(at).compare_exchange(free, held, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                continue;
            }
            point!("bell.claimed");
            self.actor.bell_cursor.store(u64::from(number), Ordering::Relaxed);
            self.view().set(at + Words::owner, self.actor.owner);
            point!("bell.owned");
            self.word(Header::bells_top).fetch_max(u64::from(number) + 1, Ordering::AcqRel);
            let bell = Bell { number, at, generation: state::generation(held) };
            bell.wake(self);
            return Some(bell);
        }
        None
    }

    /// Tells everybody who waits for it that there is news of a cell. After the news was published by a
    /// swap, and by whoever published it.
    #[inline(always)]
    pub fn news(self, cell: u32) {
        // SYNC bell.interest (W): the news before the look at who is interested; pairs with (R) in `arm`.
        fence_after_swap();
        let top = self.view().get(Header::bells_top) as usize;
        // Nobody ever waited.
        if top == 0 {
            return;
        }
        let geometry = &self.space.geometry;
        let words = top.div_ceil(64).min(geometry.row_words());
        let row = geometry.interest(cell);
        for word in 0..words {
            let interested = self.view().get(row + word);
            if interested != 0 {
                self.ring_all(cell, word as u32 * 64, interested);
            }
        }
    }

    /// As `news`, where what is told of was not the last thing swapped.
    pub fn tell(self, cell: u32) {
        fence(Ordering::SeqCst);
        self.news(cell);
    }

    #[cold]
    fn ring_all(self, cell: u32, first: u32, mut interested: u64) {
        while interested != 0 {
            self.ring(first + interested.trailing_zeros(), cell);
            interested &= interested - 1;
        }
    }

    /// Tells one bell that there may be news of a cell.
    pub fn ring(self, bell: u32, cell: u32) {
        let Some(at) = self.space.geometry.bell(bell) else {
            return;
        };
        let bucket = cell % BUCKETS;
        for (word, bit) in [(Words::dirty + (bucket / 64) as usize, bucket % 64), (Words::summary, bucket / 64)] {
            // Each for itself: who set the first may have been stopped before the second.
            let word = self.word(at + word);
            if word.load(Ordering::Relaxed) & 1 << bit == 0 {
                word.fetch_or(1 << bit, Ordering::AcqRel);
                point!("ring.marked");
            }
        }
        point!("ring.dirty");
        // SYNC bell.dirty (W): the dirty bits before the look at the state; pairs with (R) in `sleep`.
        fence(Ordering::SeqCst);
        let word = self.word(at + Words::bell);
        for _ in 0..4 {
            let seen = word.load(Ordering::Acquire);
            let ringing = match seen & STATE {
                AWAKE | RUNG => return,
                SLEEPING => {
                    let ringing = seen & !STATE | RINGING;
                    if word.compare_exchange(seen, ringing, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                        continue;
                    }
                    point!("ring.ringing");
                    ringing
                }
                _ => seen,
            };
            self.space.ringer.ring(self.space, bell, state::generation(self.view().get(at)));
            point!("ring.rung");
            // Of this epoch only: a later sleep has not been rung by us.
            let _ = word.compare_exchange(ringing, ringing | RUNG, Ordering::AcqRel, Ordering::Relaxed);
            return;
        }
        // Others change it faster than we look: one ring too many is harmless.
        self.space.ringer.ring(self.space, bell, state::generation(self.view().get(at)));
    }

    /// Rings every bell of an owner, whatever it waits for.
    pub fn ring_own(self, owner: u64) {
        for number in 0..self.space.geometry.bells {
            if let Some(at) = self.space.geometry.bell(number)
                && state::of(self.word(at).load(Ordering::Acquire)) == state::HELD
                && self.view().get(at + Words::owner) == owner
            {
                self.ring(number, 0);
            }
        }
    }

    /// Frees the bells of dead owners, by their slots, after clearing their bits. Several processes may do this
    /// at once, as long as no slot is taken again before it is done.
    pub fn settle_bells(self, is_dead: impl Fn(u64) -> bool) {
        for number in 0..self.space.geometry.bells {
            let Some(at) = self.space.geometry.bell(number) else {
                continue;
            };
            let word = self.word(at).load(Ordering::Acquire);
            if state::of(word) == state::HELD && is_dead(state::owner(word)) {
                let bell = Bell { number, at, generation: state::generation(word) };
                // Should this be so slow that the bell is somebody else's by now, a wake-up of theirs waits
                // for their sweep.
                bell.clear_interest(self);
                point!("settle.bell");
                // Before the bell is free: should we die in between, the next one does it again. A FIFO's name is
                // of one life, so nothing of the next owner's goes.
                self.space.ringer.freed(number, bell.generation);
                point!("settle.fifo");
                let free = state::with(word, state::FREE);
                let _ = self.word(at).compare_exchange(word, free, Ordering::AcqRel, Ordering::Relaxed);
            }
        }
    }
}

impl Bell {
    /// Says what the kernel waits on.
    pub fn set_means(&self, cx: Context<'_>, kind: u64, pid: u64, descriptor: u64) {
        cx.view().set(self.at + Words::pid, pid);
        cx.view().set(self.at + Words::descriptor, descriptor);
        cx.word(self.at + Words::kind).store(kind, Ordering::Release);
    }

    fn interest(&self, cx: Context<'_>, cell: u32) -> usize {
        cx.space.geometry.interest(cell) + (self.number / 64) as usize
    }

    /// From here on news of the cell rings. The caller looks for news once more.
    pub fn arm(&self, cx: Context<'_>, cell: u32) {
        cx.word(self.interest(cx, cell)).fetch_or(1 << (self.number % 64), Ordering::AcqRel);
        point!("bell.armed");
        // SYNC bell.interest (R): the bit before the next look for news; pairs with (W) in `news`.
        fence_after_swap();
    }

    /// News of the cell need not ring any more.
    pub fn disarm(&self, cx: Context<'_>, cell: u32) {
        cx.word(self.interest(cx, cell)).fetch_and(!(1 << (self.number % 64)), Ordering::AcqRel);
    }

    /// Begins a sleep of a new epoch. Gives the word to wait on; the caller collects dirty bits, or looks
    /// for news, before it waits.
    pub fn sleep(&self, cx: Context<'_>) -> u64 {
        let sleeping = self.next_epoch(cx) | SLEEPING;
        cx.word(self.at + Words::bell).swap(sleeping, Ordering::AcqRel);
        point!("bell.sleeping");
        // SYNC bell.dirty (R): SLEEPING before the look at the dirty bits; pairs with (W) in `ring`.
        fence_after_swap();
        sleeping
    }

    /// Ends a sleep: nobody need ring any more.
    pub fn wake(&self, cx: Context<'_>) {
        cx.word(self.at + Words::bell).swap(self.next_epoch(cx) | AWAKE, Ordering::AcqRel);
    }

    fn next_epoch(&self, cx: Context<'_>) -> u64 {
        (cx.view().get(self.at + Words::bell) & !STATE).wrapping_add(if without("bell_epoch") { 0 } else { EPOCH })
    }

    /// Takes the dirty bits.
    pub fn collect(&self, cx: Context<'_>, mut see: impl FnMut(u32)) {
        let summary = cx.word(self.at + Words::summary);
        if summary.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut words = summary.swap(0, Ordering::AcqRel);
        point!("bell.collected");
        while words != 0 {
            let word = words.trailing_zeros();
            words &= words - 1;
            let mut bits = cx.word(self.at + Words::dirty + word as usize).swap(0, Ordering::AcqRel);
            while bits != 0 {
                see(word * 64 + bits.trailing_zeros());
                bits &= bits - 1;
            }
        }
        // What was taken was published before it was marked: the looks that follow see it.
        fence_after_swap();
    }

    fn clear_interest(&self, cx: Context<'_>) {
        for cell in 0..cx.space.geometry.cells {
            if cx.view().get(self.interest(cx, cell)) & 1 << (self.number % 64) != 0 {
                self.disarm(cx, cell);
            }
        }
    }

    /// Gives the bell back, and what was made for it in the kernel. The caller has disarmed it.
    pub fn release(&self, cx: Context<'_>) {
        self.wake(cx);
        self.collect(cx, |_| {});
        cx.space.ringer.freed(self.number, self.generation);
        self.give_up(cx);
    }

    /// Gives a bell back that nothing was made for.
    pub fn give_up(&self, cx: Context<'_>) {
        point!("bell.freed");
        let held = state::pack(self.generation, u64::from(cx.actor.slot), state::HELD);
        let _ = cx.word(self.at).compare_exchange(held, state::with(held, state::FREE), Ordering::AcqRel, Ordering::Relaxed);
    }
}
