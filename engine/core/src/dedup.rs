//! Message ids seen: a dedup id counts as seen exactly when its message is published.
//!
//! The publish itself is the decision. A message carries the mark of its id; before anybody
//! publishes at sequence h, all messages below h are in the index `seen`, and its own id is not.
//! If somebody else publishes at h first, the compare-and-swap fails and the check runs again with
//! that message indexed too. So of two processes that send one id at once exactly one publishes,
//! and one that dies before publishing has marked nothing. Indexing a message twice changes nothing.
//!
//! A mark is 60 + 23 bits of the keyed 128-bit hash of the id, kept in the leaf itself: that another
//! id among the last million has the same has a probability below 10^-18 a message.

use crate::arena::Held;
use crate::bound::Bound;
use crate::error::Result;
use crate::layout::{Block, Channel};
use crate::points::point;
use crate::space::Context;
use crate::sync::Ordering;
use crate::trie::{Change, Standing, VALUE_INLINE};

/// Bits of an ordinal.
const ORDINAL_BITS: u32 = 40;
const ORDINAL_MASK: u64 = (1 << ORDINAL_BITS) - 1;

/// After how many ids it is looked whether too many are kept.
const LOOK_EACH: u64 = 64;

/// What stands for an id.
#[derive(Clone, Copy)]
pub struct Mark {
    place: u64,
    tag: u64,
}

impl Mark {
    /// The mark of an id.
    pub fn of(cx: Context<'_>, id: &str) -> Mark {
        let (hash, rest) = cx.space.wide_hash(id.as_bytes());
        Mark { place: hash.place(), tag: rest >> (ORDINAL_BITS + 1) << ORDINAL_BITS }
    }

    /// The words that a message carries.
    pub fn words(self, ordinal: u64) -> [u64; 2] {
        [self.place | 1, VALUE_INLINE | self.tag | ordinal & ORDINAL_MASK]
    }
}

/// May this message be published at `sequence`? False: its id was seen within the window.
pub fn admit(cx: Context<'_>, bound: &Bound, message: &Held<'_>, mark: Option<Mark>, sequence: u64) -> Result<bool> {
    index(cx, bound, sequence)?;
    let Some(mark) = mark else {
        return Ok(true);
    };
    // Everything below `sequence` is indexed, so this is the ordinal of the next id; should another
    // message take `sequence` first, ours is not published with it.
    let ordinal = cx.word(bound.cell.at() + Channel::ordinal).load(Ordering::Acquire);
    let seen = bound.cell.trie(cx, Channel::seen);
    let found = seen.find(mark.place, |value| Some(value & !ORDINAL_MASK == VALUE_INLINE | mark.tag))?;
    if found.is_some_and(|entry| (entry.value & ORDINAL_MASK).wrapping_add(bound.window) >= ordinal) {
        return Ok(false);
    }
    point!("dedup.admitted");
    message.set(Block::WORDS + 1, mark.words(ordinal)[1]);
    Ok(true)
}

/// Brings the index up to `sequence`, helping whoever did not come to it.
fn index(cx: Context<'_>, bound: &Bound, sequence: u64) -> Result<()> {
    let indexed = cx.word(bound.cell.at() + Channel::indexed);
    let mut at = indexed.load(Ordering::Acquire);
    // Whatever the head says by now, no more is retained than the ring has slots.
    let from = bound.ring.oldest(cx).max(sequence.saturating_sub(bound.ring.len()));
    if at < from {
        // Only damage can leave the index so far behind.
        at = from;
        indexed.fetch_max(from, Ordering::AcqRel);
    }
    while at < sequence {
        if let Some([place, value]) = bound.ring.marks(cx, at) {
            let seen = bound.cell.trie(cx, Channel::seen);
            let ordinal = value & ORDINAL_MASK;
            // Ids that fell out of the window go with the copy of the leaf that they are in.
            seen.put_newest(place & !0xf, value, |other| {
                let is_same = other & !ORDINAL_MASK == value & !ORDINAL_MASK;
                let other = other & ORDINAL_MASK;
                match is_same {
                    true if other < ordinal => Standing::Same,
                    true => Standing::Newer,
                    false if is_old(other, bound, ordinal + 1) => Standing::Old,
                    false => Standing::Other,
                }
            })?;
            point!("dedup.marked");
            let next = cx.word(bound.cell.at() + Channel::ordinal);
            if next.load(Ordering::Acquire) <= ordinal {
                next.fetch_max(ordinal + 1, Ordering::AcqRel);
            }
            point!("dedup.counted");
            if ordinal.is_multiple_of(LOOK_EACH) {
                forget_old(cx, bound, ordinal + 1)?;
            }
        }
        point!("dedup.indexed");
        // Indexing is in order, so this only ever moves on by one.
        let _ = indexed.compare_exchange(at, at + 1, Ordering::AcqRel, Ordering::Relaxed);
        at = indexed.load(Ordering::Acquire).max(at + 1);
    }
    Ok(())
}

/// Has an id fallen out of the window when the next will have this ordinal?
const fn is_old(id: u64, bound: &Bound, ordinal: u64) -> bool {
    id.wrapping_add(bound.window) < ordinal
}

/// Removes all ids that fell out of the window, where too many are left in leaves that nothing was put into.
fn forget_old(cx: Context<'_>, bound: &Bound, ordinal: u64) -> Result<()> {
    let seen = bound.cell.trie(cx, Channel::seen);
    let most = bound.window.saturating_add(bound.window / 4).saturating_add(16);
    if seen.live()? <= most {
        return Ok(());
    }
    let mut from = Some(0);
    while let Some(cursor) = from {
        let (_, next) = seen.sweep(cursor, false, |entry, _: &mut Vec<()>| {
            let old = is_old(entry.value & ORDINAL_MASK, bound, ordinal);
            Ok(if old { Change::Remove } else { Change::Keep })
        })?;
        from = next;
    }
    Ok(())
}
