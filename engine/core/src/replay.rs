//! Reading what a channel still retains, without a handle.

use crate::channels::Channels;
use crate::error::Result;
use crate::ids::{self, EventId};
use crate::layout::Channel;
use crate::receiver::{Received, taken};
use crate::ring::Read;

/// A message that was read again: what `try_recv` tells of it, and its payload.
pub type Replayed = (Received, Vec<u8>);

impl Channels {
    /// Messages that are still there, without subscribing: with an id the first `limit` after it, without one
    /// the last `limit`. `None`: no such channel.
    pub fn replay(&self, name: &str, last_event_id: Option<&str>, limit: Option<u64>) -> Result<Option<Vec<Replayed>>> {
        let cx = self.world().cx()?;
        let Some(bound) = self.bind(cx, name)? else {
            return Ok(None);
        };
        let first = cx.view().get(bound.cell.at() + Channel::start);
        let epoch = ids::epoch_of(cx, bound.cell);
        let head = bound.ring.head(cx);
        let limit = limit.unwrap_or(u64::MAX);
        let from = match last_event_id {
            Some(id) => ids::after(cx, &bound, id).cursor,
            None => bound.ring.oldest(cx).max(head.saturating_sub(limit)),
        };
        let mut messages = Vec::new();
        for sequence in from..head {
            if messages.len() as u64 >= limit {
                break;
            }
            let mut payload = Vec::new();
            // What is overwritten meanwhile is gone for this look, too.
            if let Read::Got(info) = bound.ring.read(cx, sequence, &mut payload)
                && let Some(form) = taken(info, &mut payload)
            {
                let id = EventId { epoch, sequence: sequence.wrapping_sub(first).wrapping_add(1) };
                messages.push((Received { form, id }, payload));
            }
        }
        Ok(Some(messages))
    }
}
