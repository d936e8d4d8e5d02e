//! A channel's ring: a power-of-two array of descriptors and a head that only grows.
//!
//! # Specification
//! - `publish` puts a message at the next sequence. Two publishers never get the same sequence; a
//!   message is there whole or not at all, whoever is killed or stopped when.
//! - `read(q)` gives the message of sequence `q`, or says that it is not there yet, or that it is
//!   gone. It never gives another sequence's message, nor a torn one.
//! - Neither waits for anybody. The only writes to contended words are compare-and-swaps that fail
//!   when stale, so a process that wakes up late does no harm.
//!
//! - Once `seal` has returned, nothing is published any more, not even by who was on the way.
//!
//! A descriptor is `closed:1 | lap:35 | block:28`, where the lap of sequence q is its round (q divided by the ring's
//! length) plus the channel's `laps`, modulo 2^35. So whoever reuses a ring's place goes on after the laps found there,
//! and whoever reuses a cell goes on above its old head, and the one does not drive the other.

use crate::arena::{Held, Info};
use crate::error::{Error, Result};
use crate::hint::cold_path;
use crate::layout::{Block, Channel, MAX_RING_LOG2, UNIT_DESCRIPTORS, kind, reference, state};
use crate::mutants::without;
use crate::points::point;
use crate::space::Context;
use crate::sync::{AtomicU64, Ordering, fence};
use crate::view::{CellWords, View, Words};

/// In a head: the channel was removed; nothing is published any more.
pub const SEALED: u64 = 1 << 63;
/// In a descriptor: the ring was sealed here. It only makes the swap of a late publisher fail.
const CLOSED: u64 = 1 << 63;
/// Bits of a lap.
const LAP_MASK: u64 = (1 << 35) - 1;
/// No loop over words that others write runs longer than this; only damage can make it.
const PATIENCE: u32 = 1 << 22;

const DISAGREE: Error = Error::Corrupt { what: "a channel's head and ring disagree" };

/// Where a channel's ring is: a private, validated copy of its `config` word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    /// First word of the cell.
    pub cell_at: usize,
    /// The cell's number.
    pub cell: u32,
    /// First word of the descriptors.
    pub slots_at: usize,
    /// Binary logarithm of the ring's length.
    pub log2: u32,
    /// The length less 1.
    pub mask: u64,
    /// What turns rounds into laps.
    pub laps: u64,
}

/// What became of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// The message was appended to the buffer.
    Got(Info),
    /// That sequence is not published yet.
    Empty,
    /// Overwritten before it was read.
    Lagged,
    /// This one message was given up because the arena was full.
    Evicted,
}

/// What became of an attempt to publish.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tried {
    /// The message is there for all, at this sequence.
    Done(u64),
    /// Somebody was faster, or died half way.
    Again,
    /// The channel is gone, or `admit` says no.
    Refused,
}

impl Ring {
    /// The ring that a `config` word describes, if it lies inside the segment.
    pub fn of(cx: Context<'_>, cell: u32, config: u64) -> Result<Ring> {
        let log2 = (config & 0xff) as u32;
        let unit = config >> 16;
        let units = units_of(log2.min(MAX_RING_LOG2));
        let geometry = &cx.space.geometry;
        match geometry.cell(cell) {
            Some(cell_at) if log2 <= MAX_RING_LOG2 && unit + units <= u64::from(geometry.units) => {
                let slots_at = geometry.descriptors_at + unit as usize * UNIT_DESCRIPTORS;
                Ok(Ring { cell_at, cell, slots_at, log2, mask: (1 << log2) - 1, laps: cx.view().get(cell_at + Channel::laps) })
            }
            _ => Err(Error::Corrupt { what: "a channel's ring lies outside the segment" }),
        }
    }

    /// Its length in messages.
    #[inline(always)]
    pub const fn len(&self) -> u64 {
        1 << self.log2
    }

    /// Never: the shortest ring has one slot.
    pub const fn is_empty(&self) -> bool {
        false
    }

    #[inline(always)]
    const fn lap(&self, sequence: u64) -> u64 {
        (sequence >> self.log2).wrapping_add(self.laps) & LAP_MASK
    }

    /// Is this descriptor of the lap of `sequence`?
    #[inline(always)]
    const fn is_of(&self, descriptor: u64, sequence: u64) -> bool {
        descriptor >> reference::BLOCK_BITS & LAP_MASK == self.lap(sequence)
    }

    #[inline(always)]
    fn slot<'a>(&self, cx: Context<'a>, sequence: u64) -> &'a AtomicU64 {
        cx.word(self.slots_at + (sequence & self.mask) as usize)
    }

    /// Head without its seal.
    #[inline(always)]
    pub fn head(&self, cx: Context<'_>) -> u64 {
        cx.word(self.cell_at + Channel::head).load(Ordering::Acquire) & !SEALED
    }

    /// Moves the head past `h`, sealed or not; somebody else may have done it.
    #[inline(always)]
    fn advance(head: &AtomicU64, h: u64) {
        // A late success is impossible: the head never shows `h` again.
        if head.compare_exchange(h, h + 1, Ordering::AcqRel, Ordering::Relaxed) == Err(h | SEALED) {
            cold_path();
            let _ = head.compare_exchange(h | SEALED, (h + 1) | SEALED, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// Publishes a filled, held message. `Some(sequence)`, or `None` when the channel is gone or `admit` says no: the block is
    /// still held then, as it is after an error.
    ///
    /// # Errors
    /// `Corrupt` when head and ring disagree.
    pub fn publish(
        &self,
        cx: Context<'_>,
        message: Held<'_>,
        is_open: impl Fn(u64) -> bool,
        mut admit: impl FnMut(u64) -> bool,
    ) -> Result<Option<u64>> {
        let Some(cell) = cx.view().array(self.cell_at) else {
            return Err(DISAGREE);
        };
        for _ in 0..PATIENCE {
            match self.try_to_publish(cx, cell, message, &is_open, &mut admit) {
                Tried::Again => {}
                Tried::Refused => return Ok(None),
                Tried::Done(sequence) => return Ok(Some(sequence)),
            }
        }
        Err(DISAGREE)
    }

    /// Publishes a filled, held message, unless somebody else is at it. `cell`: the words of the ring's cell. The channel is gone when
    /// `is_open` says so of its cell's state word, read after the head. `admit` sees each sequence before it is tried and may veto it.
    #[inline(always)]
    pub fn try_to_publish(
        &self,
        cx: Context<'_>,
        cell: &CellWords,
        message: Held<'_>,
        is_open: impl Fn(u64) -> bool,
        mut admit: impl FnMut(u64) -> bool,
    ) -> Tried {
        let head = &cell[Channel::head];
        let h = head.load(Ordering::Acquire);
        if h & SEALED != 0 {
            cold_path();
            return Tried::Refused;
        }
        let slot = self.slot(cx, h);
        // SYNC ring.publish (R): pairs with ring.publish (W): the old message's generation.
        let seen = slot.load(Ordering::Acquire);
        // Without this re-check `seen` could be of a later lap than `h`, and the swap below would
        // put an old sequence over a newer message.
        if !without("head_recheck") && head.load(Ordering::Acquire) != h {
            cold_path();
            return Tried::Again;
        }
        // Otherwise the head may be of the cell's next life, and the slot of another cell's ring by now.
        if !without("life_of_head") && !is_open(cell[Channel::state].load(Ordering::Acquire)) {
            cold_path();
            return Tried::Refused;
        }
        if self.is_of(seen, h) {
            // Published by somebody who died or sleeps before moving the head: do it for them.
            cold_path();
            Ring::advance(head, h);
            return Tried::Again;
        }
        if !admit(h) {
            return Tried::Refused;
        }
        // The old block's life, read before its descriptor is replaced.
        let old = self.named(cx, seen);
        // It is the next to be filled, and out of the nearest cache since it was.
        if let Some((words, _)) = old {
            View::expect(&words[Block::WORDS..Block::WORDS + 8]);
        }
        let held = message.word();
        // Who is stopped for long, and taken for dead where its pid cannot be seen, holds nothing any more.
        if !reference::is_life(message.reference, held) {
            cold_path();
            return Tried::Refused;
        }
        message.set(Block::ident, h);
        point!("publish.ready");
        let descriptor = self.lap(h) << reference::BLOCK_BITS | u64::from(reference::block(message.reference));
        let ordering = if without("release_of_descriptor") { Ordering::Relaxed } else { Ordering::AcqRel };
        // SYNC ring.publish (W): payload before descriptor; pairs with (R) in `there`.
        if slot.compare_exchange(seen, descriptor, ordering, Ordering::Relaxed).is_err() {
            cold_path();
            return Tried::Again;
        }
        point!("publish.swapped");
        Ring::advance(head, h);
        point!("publish.advanced");
        message.make_live_from(held);
        point!("publish.live");
        if let Some((words, word)) = old {
            cx.free_life(reference::block(seen), words, word);
        }
        Tried::Done(h)
    }

    /// The block that a descriptor names, and its state word.
    #[inline(always)]
    fn named<'a>(&self, cx: Context<'a>, descriptor: u64) -> Option<(&'a Words, u64)> {
        let (_, words) = cx.block(reference::block(descriptor))?;
        let word = words[Block::state].load(Ordering::Acquire);
        // A message may still be HELD by a publisher that has not marked it LIVE yet.
        matches!(state::of(word), state::HELD | state::LIVE).then_some((words, word))
    }

    /// Copies the message of `sequence` behind what `out` holds. Unless it was got, `out` may end in
    /// bytes that mean nothing.
    #[inline(always)]
    pub fn read(&self, cx: Context<'_>, sequence: u64, out: &mut Vec<u8>) -> Read {
        let seen = match self.there(cx, sequence) {
            Some(seen) => seen,
            None if self.head(cx) <= sequence => return Read::Empty,
            // It may have been published between the two loads: only a slot that is still of another lap
            // after the head has passed is one that was overwritten.
            None => match self.there(cx, sequence) {
                Some(seen) => seen,
                None => return Read::Lagged,
            },
        };
        self.read_there(cx, sequence, seen, out)
    }

    /// The descriptor of the message at `sequence`, if there is or was one.
    #[inline(always)]
    pub fn there(&self, cx: Context<'_>, sequence: u64) -> Option<u64> {
        // SYNC ring.publish (R): pairs with (W) in `try_to_publish`.
        let seen = self.slot(cx, sequence).load(Ordering::Acquire);
        self.is_of(seen, sequence).then_some(seen)
    }

    /// As `read`, where the descriptor was there just now.
    #[inline(always)]
    pub fn read_there(&self, cx: Context<'_>, sequence: u64, seen: u64, out: &mut Vec<u8>) -> Read {
        copy(cx, self.slot(cx, sequence), seen, out)
    }

    /// The block that holds the message of `sequence`, if there is one.
    pub fn block_at(&self, cx: Context<'_>, sequence: u64) -> Option<u32> {
        let block = reference::block(self.there(cx, sequence)?);
        (u64::from(block) != reference::NO_BLOCK).then_some(block)
    }

    /// How many descriptors name a block.
    pub fn blocks(&self, cx: Context<'_>) -> u64 {
        let named = |&index: &u64| self.slot(cx, index).load(Ordering::Acquire) & reference::BLOCK_MASK != reference::NO_BLOCK;
        (0..self.len()).filter(named).count() as u64
    }

    /// The two words of id mark in front of a message, if it has one. Read in place.
    pub fn marks(&self, cx: Context<'_>, sequence: u64) -> Option<[u64; 2]> {
        let slot = self.slot(cx, sequence);
        // SYNC ring.publish (R): pairs with (W) in `try_to_publish`.
        let seen = slot.load(Ordering::Acquire);
        let (_, at) = cx.space.geometry.block(reference::block(seen)).filter(|_| self.is_of(seen, sequence))?;
        let info = Info(cx.view().get(at + Block::info));
        let marks = [cx.view().get(at + Block::WORDS), cx.view().get(at + Block::WORDS + 1)];
        // SYNC arena.fill (R): as in `copy`.
        fence(Ordering::Acquire);
        let is_message = matches!(info.kind(), kind::TEXT | kind::BYTES) && info.flags() == 2 && info.bytes() >= 16;
        (is_message && (slot.load(Ordering::Relaxed) ^ seen) & !CLOSED == 0).then_some(marks)
    }

    /// The oldest sequence that may still be there.
    pub fn oldest(&self, cx: Context<'_>) -> u64 {
        let start = cx.word(self.cell_at + Channel::start).load(Ordering::Relaxed);
        self.head(cx).saturating_sub(self.len()).max(start)
    }

    /// Gives up the oldest retained message. False: there is none.
    pub fn evict_oldest(&self, cx: Context<'_>) -> bool {
        let tail = cx.word(self.cell_at + Channel::tail);
        let head = self.head(cx);
        let from = self.oldest(cx).max(tail.load(Ordering::Relaxed).min(head));
        for sequence in from..head {
            if self.take(cx, sequence) {
                point!("evict.freed");
                tail.fetch_max(sequence + 1, Ordering::Relaxed);
                cx.word(crate::layout::Header::evictions).fetch_add(1, Ordering::Relaxed);
                return true;
            }
        }
        false
    }

    /// Takes one message out of its slot and frees it. True: it was us.
    fn take(&self, cx: Context<'_>, sequence: u64) -> bool {
        let slot = self.slot(cx, sequence);
        let seen = slot.load(Ordering::Acquire);
        if !self.is_of(seen, sequence) || seen & reference::BLOCK_MASK == reference::NO_BLOCK {
            return false;
        }
        let named = self.named(cx, seen);
        let gone = seen | reference::NO_BLOCK;
        if slot.compare_exchange(seen, gone, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return false;
        }
        point!("evict.taken");
        named.is_none_or(|(words, word)| cx.free_life(reference::block(seen), words, word))
    }

    /// Does the ring refer to this message? `reference` names a block whose `ident` is `sequence`.
    pub fn refers_to(&self, cx: Context<'_>, sequence: u64, reference: u64) -> bool {
        self.there(cx, sequence).is_some_and(|seen| reference::block(seen) == reference::block(reference))
    }

    /// Stops publishing for ever. Any process may do this and several at once; `still_mine` says whether the
    /// ring is still of the life that is over, and is asked after the head was read: a head never repeats, so
    /// that of a next life is never sealed.
    pub fn seal(&self, cx: Context<'_>, still_mine: impl Fn() -> bool) {
        let head = cx.word(self.cell_at + Channel::head);
        for _ in 0..PATIENCE {
            let seen = head.load(Ordering::Acquire);
            if !still_mine() {
                return;
            }
            let h = seen & !SEALED;
            if seen == h {
                let _ = head.compare_exchange(h, h | SEALED, Ordering::AcqRel, Ordering::Relaxed);
                continue;
            }
            point!("seal.head");
            let slot = self.slot(cx, h);
            let found = slot.load(Ordering::Acquire);
            if self.is_of(found, h) {
                // Somebody published at `h` and has not moved the head: that message counts.
                Ring::advance(head, h);
                continue;
            }
            // Others have sealed it, and more: the slot is of another ring by now, in which a seal would take the closed
            // descriptor for its own.
            if !self.is_of(found, h.wrapping_sub(self.len())) {
                return;
            }
            // Who read the head before it was sealed may still be about to publish here. After this its swap
            // fails; and who reads this descriptor and then the head again, as `publish` does, sees the seal.
            if found & CLOSED != 0 || slot.compare_exchange(found, found | CLOSED, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return;
            }
        }
    }

    /// Frees every message of a sealed ring. May run several times and in several processes at once:
    /// only words of this life's laps are touched, so a sleeper cannot hurt the next life.
    pub fn clear(&self, cx: Context<'_>) {
        let head = self.head(cx);
        let from = head.saturating_sub(self.len());
        for sequence in from..=head {
            self.take(cx, sequence);
        }
    }

    /// Prepares a ring whose units this process holds: every descriptor becomes empty, after all laps found, and the
    /// head starts above the cell's old head. (This `Ring` is of the time before.)
    pub fn prepare(&self, cx: Context<'_>) {
        let found = |index| self.slot(cx, index).load(Ordering::Acquire) >> reference::BLOCK_BITS & LAP_MASK;
        let later = |a: u64, b: u64| if b.wrapping_sub(a) & LAP_MASK <= LAP_MASK / 2 { b } else { a };
        let last = (1..self.len()).map(found).fold(found(0), later);
        // + 2: a sleeper of the last life may still put one lap after what was found.
        let empty = (last + 2) & LAP_MASK;
        for index in 0..self.len() {
            // A swap, not a store: the word may just now be won by a sleeper; its block is then
            // unreferenced and the scavenger's.
            self.slot(cx, index).swap(empty << reference::BLOCK_BITS | reference::NO_BLOCK, Ordering::AcqRel);
            point!("prepare.slot");
        }
        point!("prepare.swapped");
        let view = cx.view();
        let old_round = (view.get(self.cell_at + Channel::head) & !SEALED) >> self.log2;
        let round = old_round.wrapping_add(2) & (!SEALED >> self.log2);
        let (start, laps) = (round << self.log2, (empty + 1).wrapping_sub(round));
        for (field, value) in [(Channel::start, start), (Channel::tail, start), (Channel::indexed, start), (Channel::laps, laps)] {
            view.set(self.cell_at + field, value);
        }
        point!("prepare.started");
        cx.word(self.cell_at + Channel::head).store(start, Ordering::Release);
    }
}

/// Copies the message that a descriptor named when it was `seen` in its slot.
#[inline(always)]
fn copy(cx: Context<'_>, slot: &AtomicU64, seen: u64, out: &mut Vec<u8>) -> Read {
    let Some(place) = cx.block(reference::block(seen)) else {
        return Read::Evicted;
    };
    let info = cx.load(place, out);
    // SYNC arena.fill (R): pairs with the release fence after a claim: bytes of a later life imply
    // that the descriptor is seen to have moved on.
    fence(Ordering::Acquire);
    if (slot.load(Ordering::Relaxed) ^ seen) & !CLOSED != 0 {
        return Read::Lagged;
    }
    match info {
        Some(info) if matches!(info.kind(), kind::TEXT | kind::BYTES) => Read::Got(info),
        // Damage: counted as missed, like every message that cannot be had.
        _ => Read::Evicted,
    }
}

/// Ring units that a ring of 2^log2 descriptors takes.
pub const fn units_of(log2: u32) -> u64 {
    (1_u64 << log2).div_ceil(UNIT_DESCRIPTORS as u64)
}
