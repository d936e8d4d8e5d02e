//! Event ids: `<epoch>-<sequence>`, one sequence a channel, the same on every worker.
//!
//! The epoch is of one life of the channel in one segment, so an id of a removed channel, or of a segment
//! before the last restart, is never taken for one of the present. The sequence counts from 1; 0 is before
//! the first message. Promise: whatever a client sends as an id, there is a place to go on from.

use std::fmt;

use crate::bound::Bound;
use crate::cells::Cell;
use crate::layout::{Channel, Header};
use crate::space::Context;

/// The id of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventId {
    /// 48 bits.
    pub epoch: u64,
    /// From 1 on.
    pub sequence: u64,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}-{}", self.epoch, self.sequence)
    }
}

impl EventId {
    /// Exactly what `Display` writes; anything else is no id.
    pub fn parse(text: &str) -> Option<EventId> {
        let (epoch, sequence) = text.split_once('-')?;
        let id = EventId { epoch: u64::from_str_radix(epoch, 16).ok()?, sequence: sequence.parse().ok()? };
        (id.to_string() == text).then_some(id)
    }
}

/// The epoch of a channel's life.
pub(crate) fn epoch_of(cx: Context<'_>, cell: Cell) -> u64 {
    // The finalizer of SplitMix64 (Steele et al. 2014): lives differ in all bits, and say nothing of others.
    let mut word = cx.view().get(Header::identity) ^ (u64::from(cell.number()) << 40 | cell.generation & 0xff_ffff_ffff);
    word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (word ^ word >> 31) >> 16
}

/// Where a receiver begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Start {
    /// The first sequence of the ring that it is given.
    pub cursor: u64,
    /// Messages between the id and the cursor that are gone.
    pub missed: u64,
    /// The id was none of this epoch.
    pub unknown: bool,
}

/// Where to go on after an id: behind it; where that is overwritten, at the oldest there is; at the oldest,
/// too, when the id means nothing here.
pub(crate) fn after(cx: Context<'_>, bound: &Bound, id: &str) -> Start {
    let start = cx.view().get(bound.cell.at() + Channel::start);
    let head = bound.ring.head(cx);
    let oldest = bound.ring.oldest(cx).max(cx.view().get(bound.cell.at() + Channel::tail)).min(head);
    let known = EventId::parse(id).filter(|id| id.epoch == epoch_of(cx, bound.cell) && id.sequence <= head.wrapping_sub(start));
    match known {
        None => Start { cursor: oldest, missed: 0, unknown: true },
        Some(id) => {
            let wanted = start.wrapping_add(id.sequence);
            Start { cursor: wanted.max(oldest), missed: oldest.saturating_sub(wanted), unknown: false }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ids_come_back(epoch in 0_u64..1 << 48, sequence in any::<u64>()) {
            let id = EventId { epoch, sequence };
            prop_assert_eq!(EventId::parse(&id.to_string()), Some(id));
        }

        #[test]
        fn anything_is_an_id_or_none(text in ".*") {
            prop_assert!(EventId::parse(&text).is_none_or(|id| id.to_string() == text));
        }
    }
}
