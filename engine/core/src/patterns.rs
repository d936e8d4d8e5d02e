//! Handles on patterns: receive from every channel whose name matches, those created later included.
//!
//! A pattern handle is registered once in its world and has an ordinary handle on each matching channel, so
//! it is counted, keeps messages and is reaped as those are. Who creates a channel makes those handles for
//! all patterns that match, in the owner's name and under a key that both can tell; the owner makes whatever
//! is missing when it sees that the directory has changed. Promise: what is created after the registration
//! is received from its first message on, whoever dies in between; the order within each channel is kept.

use std::sync::atomic::{AtomicU64 as PrivateU64, Ordering as PrivateOrdering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::bound::bound_of;
use crate::cells::Cell;
use crate::directory::cell_of;
use crate::error::{Error, Result};
use crate::ids::Start;
use crate::layout::Channel;
use crate::receiver::{HandleKey, Received, Receiver, anchor, unanchor};
use crate::segment::Segment;
use crate::source::{Cells, Source};
use crate::space::Context;
use crate::sync::Ordering;
use crate::topics::{Topics, pattern_matches};
use crate::trie::{Delta, Mirror, Trie};
use crate::world::{World, check_length};

/// Who a registration is of, as the second half of its pair: client, owner, serial.
fn tail_of(key: &HandleKey) -> String {
    format!("{}\0{:x}\0{:x}", key.client, key.owner, key.serial)
}

fn key_of(tail: &str) -> Option<HandleKey> {
    let mut parts = tail.rsplitn(3, '\0');
    let mut number = || u64::from_str_radix(parts.next()?, 16).ok();
    let (serial, owner) = (number()?, number()?);
    Some(HandleKey { client: parts.next()?.to_owned(), owner, serial })
}

/// Makes the handles of all matching patterns on a channel that was just created.
pub(crate) fn anchor_all(cx: Context<'_>, patterns: &Topics, name: &str, cell: Cell) -> Result<()> {
    for tail in patterns.match_topic(name)? {
        let Some(key) = key_of(&tail) else {
            continue;
        };
        if anchor(cx, cell, &key)?.is_none() {
            return Ok(());
        }
        // SYNC patterns.close (R): the handle before the look at its registration; pairs with (W) in `close`,
        // where the registration goes before the handles are looked for.
        if !patterns.match_topic(name)?.contains(&tail) {
            unanchor(cx, cell, &key)?;
        }
    }
    Ok(())
}

struct Parts {
    /// Channel names and cells of the directory as last seen.
    mirror: Mirror<(Arc<str>, Cell)>,
    receivers: Vec<Receiver>,
    /// Which receiver is asked first.
    next: usize,
    key: HandleKey,
    attachment: u64,
    closed: bool,
}

/// An open handle on a pattern. Dropping it closes it.
pub struct PatternReceiver {
    world: World,
    /// Word index of the root of the channels' directory.
    directory: usize,
    /// Where handles on patterns are registered.
    registrations: Topics,
    pattern: String,
    client: String,
    parts: Mutex<Parts>,
    received: PrivateU64,
    /// Missed on channels that are gone.
    missed_before: PrivateU64,
}

impl PatternReceiver {
    pub(crate) fn open(world: &World, directory: usize, registrations: &Topics, pattern: &str, client: &str) -> Result<PatternReceiver> {
        check_length("pattern", pattern)?;
        check_length("client_id", client)?;
        world.segment().owns_something()?;
        let (cx, attachment) = world.segment().attached()?;
        let key = HandleKey::new(cx, client);
        let parts = Parts { mirror: Mirror::default(), receivers: Vec::new(), next: 0, key: key.clone(), attachment, closed: false };
        let receiver = PatternReceiver {
            world: world.clone(),
            directory,
            registrations: registrations.clone(),
            pattern: pattern.to_owned(),
            client: client.to_owned(),
            parts: Mutex::new(parts),
            received: PrivateU64::new(0),
            missed_before: PrivateU64::new(0),
        };
        {
            let mut parts = receiver.parts();
            // What is there before the registration is received from now on; everything else from its beginning.
            let there = receiver.discover(cx, &mut parts)?;
            registrations.subscribe(pattern, &tail_of(&key))?;
            receiver.receive_from(cx, &mut parts, there, false)?;
            receiver.refresh(cx, &mut parts)?;
        }
        Ok(receiver)
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Matching channels that were not there at the last look.
    fn discover(&self, cx: Context<'_>, parts: &mut Parts) -> Result<Vec<(Arc<str>, Cell)>> {
        let deltas = parts.mirror.update(&Trie::new(cx, self.directory), &mut |_, record| {
            let name = std::str::from_utf8(record.key()).ok().filter(|name| pattern_matches(&self.pattern, name))?;
            Some((name.into(), cell_of(cx, record)?))
        })?;
        let added = deltas.into_iter().filter_map(|delta| match delta {
            Delta::Added(channel) => Some(channel),
            // Its receiver ends by itself, once what is left has been taken.
            Delta::Removed(_) => None,
        });
        Ok(added.collect())
    }

    fn receive_from(&self, cx: Context<'_>, parts: &mut Parts, found: Vec<(Arc<str>, Cell)>, from_the_first: bool) -> Result<()> {
        for (name, cell) in found {
            // An entry may be listed again with another record, and a channel may be gone again.
            if !cell.is_same_life(cx) || parts.receivers.iter().any(|receiver| receiver.cell() == cell) {
                continue;
            }
            let bound = bound_of(cx, cell)?;
            let cursor = match from_the_first {
                true => cx.view().get(cell.at + Channel::start),
                false => bound.ring.head(cx),
            };
            let start = Start { cursor, missed: 0, unknown: false };
            let segment = self.world.segment();
            parts.receivers.extend(Receiver::open(segment, bound, &name, parts.key.clone(), false, start)?);
        }
        Ok(())
    }

    /// Opens receivers on what was created since the last look.
    fn refresh(&self, cx: Context<'_>, parts: &mut Parts) -> Result<()> {
        let segment = self.world.segment();
        let (_, attachment) = segment.attached()?;
        if parts.attachment != attachment {
            // In a forked child: under a registration of its own. The receivers do the same.
            parts.attachment = attachment;
            parts.key = HandleKey::new(cx, &self.client);
            segment.owns_something()?;
            self.registrations.subscribe(&self.pattern, &tail_of(&parts.key))?;
        }
        if parts.mirror.word() == cx.word(self.directory).load(Ordering::Acquire) {
            return Ok(());
        }
        let found = self.discover(cx, parts)?;
        self.receive_from(cx, parts, found, true)
    }

    /// The next message of any channel, as [`Receiver::try_recv`], and the channel's name.
    pub fn try_recv(&self, buffer: &mut Vec<u8>) -> Result<Option<(Received, String)>> {
        let mut parts = self.parts();
        if parts.closed {
            return Err(Error::HandleClosed);
        }
        let cx = self.world.cx()?;
        let parts = &mut *parts;
        self.refresh(cx, parts)?;
        let mut asked = 0;
        while asked < parts.receivers.len() {
            let at = parts.next % parts.receivers.len();
            let receiver = &parts.receivers[at];
            if let Some(received) = receiver.try_recv(buffer)? {
                // Another channel's turn: none starves behind a busy one.
                parts.next = at + 1;
                self.received.fetch_add(1, PrivateOrdering::Relaxed);
                return Ok(Some((received, receiver.channel().to_owned())));
            }
            if receiver.is_ended()? {
                self.missed_before.fetch_add(receiver.missed(), PrivateOrdering::Relaxed);
                // Dropping it closes it.
                drop(parts.receivers.swap_remove(at));
                continue;
            }
            parts.next = at + 1;
            asked += 1;
        }
        Ok(None)
    }

    /// The pattern.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// The client's id.
    pub fn client(&self) -> &str {
        &self.client
    }

    /// Messages given.
    pub fn received(&self) -> u64 {
        self.received.load(PrivateOrdering::Relaxed)
    }

    /// Messages that were overwritten or given up before they were read, on all channels.
    pub fn missed(&self) -> u64 {
        self.missed_before.load(PrivateOrdering::Relaxed) + self.parts().receivers.iter().map(Receiver::missed).sum::<u64>()
    }

    /// The most that one look at everything can find.
    pub fn capacity(&self) -> u64 {
        self.parts().receivers.iter().map(Receiver::capacity).sum()
    }

    /// Was it closed?
    pub fn is_closed(&self) -> bool {
        self.parts().closed
    }

    /// Closes the handle; again is harmless.
    pub fn close(&self) -> Result<()> {
        let mut parts = self.parts();
        if std::mem::replace(&mut parts.closed, true) {
            return Ok(());
        }
        let segment = self.world.segment();
        let Some(cx) = segment.joined(parts.attachment) else {
            parts.receivers.clear();
            return Ok(());
        };
        // SYNC patterns.close (W): the registration before the handles; pairs with (R) in `anchor_all`.
        self.registrations.unsubscribe(&self.pattern, &tail_of(&parts.key))?;
        parts.receivers.clear();
        // Handles that others made for us and that we have not seen.
        for (_, cell) in self.discover(cx, &mut parts)? {
            unanchor(cx, cell, &parts.key)?;
        }
        cx.tell(self.world.cell_number());
        Ok(())
    }
}

impl Source for PatternReceiver {
    fn segment(&self) -> &Segment {
        self.world.segment()
    }

    fn cells(&self) -> Cells {
        let mut cells = Cells::from_slice(&[self.world.cell_number()]);
        cells.extend(self.parts().receivers.iter().flat_map(Receiver::cells));
        cells
    }

    fn has_news(&self) -> Result<bool> {
        // Held: somebody is just taking a message.
        let Ok(parts) = self.parts.try_lock() else {
            return Ok(true);
        };
        let cx = self.world.cx()?;
        let directory = cx.word(self.directory).load(Ordering::Acquire);
        if parts.closed || parts.mirror.word() != directory {
            return Ok(true);
        }
        for receiver in &parts.receivers {
            if receiver.has_news()? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Drop for PatternReceiver {
    fn drop(&mut self) {
        // Nobody is left to tell; what could not be removed is removed with the process.
        let _ = self.close();
    }
}
