//! Following a channel from outside: a cursor of one's own over the ring, nobody's handle.

use super::Inspector;
use crate::bound::{Form, bound_of};
use crate::channels::ChannelKind;
use crate::error::Result;
use crate::ids::{self, EventId};
use crate::layout::Channel;
use crate::receiver::taken;
use crate::replay::Replayed;
use crate::ring::Read;

/// Where a tail begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TailFrom<'a> {
    /// With the last so many messages; 0: with what is published from now on.
    Last(u64),
    /// Behind a message's id; one that means nothing here: with the oldest there is.
    After(&'a str),
}

/// What a look at a channel found.
#[derive(Clone, Debug, Default)]
pub struct Tail {
    /// Messages, in order.
    pub messages: Vec<Replayed>,
    /// Where the next look begins (`TailFrom::After`).
    pub next: String,
    /// Messages before those that were overwritten or given up before this look.
    pub missed: u64,
    /// The id was none of this channel's life.
    pub unknown: bool,
    /// Messages that are there after those.
    pub left: u64,
}

impl Inspector {
    /// At most `limit` messages of a channel or broadcast. `None`: there is none of this name. No handle is made: a
    /// publisher does not count who looks on like this, and whoever asks too rarely misses what is overwritten.
    pub fn tail(&self, namespace: &str, kind: ChannelKind, name: &str, from: TailFrom<'_>, limit: u64) -> Result<Option<Tail>> {
        let cx = self.cx();
        let Some(named) = self.find(namespace, kind, name)? else {
            return Ok(None);
        };
        let Some(bound) = bound_of(cx, named.cell)? else {
            return Ok(None);
        };
        let first = cx.view().get(named.cell.at() + Channel::start);
        let epoch = ids::epoch_of(cx, named.cell);
        let head = bound.ring.head(cx);
        let (mut cursor, mut missed, unknown) = match from {
            TailFrom::Last(count) => (bound.ring.oldest(cx).max(head.saturating_sub(count)), 0, false),
            TailFrom::After(id) => {
                let start = ids::after(cx, &bound, id);
                (start.cursor, start.missed, start.unknown)
            }
        };
        let mut messages = Vec::new();
        while cursor < head && (messages.len() as u64) < limit {
            let mut payload = Vec::new();
            let read = bound.ring.read(cx, cursor, &mut payload);
            match read {
                Read::Empty => break,
                Read::Got(info) => match taken(info, &mut payload) {
                    Some(form) => messages.push((received(epoch, cursor.wrapping_sub(first), form), payload)),
                    None => missed += 1,
                },
                Read::Evicted => missed += 1,
                Read::Lagged => {
                    // Overwritten while we read: on to the oldest that is there now.
                    let oldest = bound.ring.oldest(cx).min(head);
                    let on = oldest.max(cursor + 1);
                    missed += on - cursor;
                    cursor = on;
                    continue;
                }
            }
            cursor += 1;
        }
        let next = EventId { epoch, sequence: cursor.wrapping_sub(first) }.to_string();
        Ok(Some(Tail { messages, next, missed, unknown, left: head.saturating_sub(cursor) }))
    }
}

fn received(epoch: u64, before: u64, form: Form) -> crate::receiver::Received {
    crate::receiver::Received { form, id: EventId { epoch, sequence: before.wrapping_add(1) } }
}
