//! A handle that receives what is published on one channel: a private cursor over the ring, and an
//! entry in the channel's trie of handles, so that publishers can count it and others can end it.
//!
//! Conservation: from the sequence at which it was opened to the one at which it ended, every
//! message is either given by `try_recv` once, in order, or counted in `missed`.

use std::sync::atomic::AtomicU64 as PrivateU64;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::arena::{HOT_MASK, Held, hot};
use crate::bound::{Bound, Form};
use crate::cells::Cell;
use crate::error::{Error, Result};
use crate::layout::{Block, Channel, kind, state};
use crate::record::{Owners, encode};
use crate::ring::{Read, Ring};
use crate::segment::Segment;
use crate::space::Context;
use crate::sync::Ordering;
use crate::trie::{Change, GONE};

/// In a handle's hot word: delivery has not ended.
const OPEN: u64 = HOT_MASK;

/// Makes each handle's key unique within its process.
static SERIAL: PrivateU64 = PrivateU64::new(0);

/// The handle's entry in the channel's trie of handles.
#[derive(Clone, Copy)]
struct Anchor {
    reference: u64,
    at: usize,
    place: u64,
    /// The attachment it was made under; a forked child makes its own.
    attachment: u64,
}

struct Position {
    anchor: Anchor,
    cursor: u64,
    closed: bool,
}

/// An open handle. Dropping it closes it; the client's registration stays.
pub struct Receiver {
    segment: Segment,
    cell: Cell,
    ring: Ring,
    channel: String,
    client: String,
    registered: bool,
    position: Mutex<Position>,
    received: PrivateU64,
    missed: PrivateU64,
}

/// Adds this process to a client's registration; with `create`, makes one. False: the channel is gone.
pub(crate) fn register(cx: Context<'_>, cell: Cell, client: &str, create: bool) -> Result<bool> {
    let trie = cell.trie(cx, Channel::subscribers);
    let place = cx.space.hash(client.as_bytes()).place();
    let me = cx.actor.owner;
    let done = trie.change_record(place, client.as_bytes(), |found| {
        let mut owners = match found {
            Some((_, record)) if record.owners.contains(&me) => return Ok((Change::Keep, ())),
            Some((_, record)) => record.owners,
            None if create => Owners::new(),
            None => return Ok((Change::Keep, ())),
        };
        owners.push(me);
        let held = cx.new_record(trie.root, place, &encode(&owners, client.as_bytes(), &[]))?;
        Ok((Change::Put(0, held), ()))
    })?;
    Ok(done.is_some())
}

/// Ends delivery to all handles of a client: each gets what was published until now.
pub(crate) fn end_handles(cx: Context<'_>, bound: &Bound, client: &str) -> Result<()> {
    let trie = bound.cell.trie(cx, Channel::handles);
    let pair = cx.space.hash(client.as_bytes()).high;
    let mut ended = Vec::new();
    trie.records_of_pair(pair, |entry, record| {
        if key_client(record.key()) == client.as_bytes() && entry.is_live() {
            ended.push((*entry, record.clone()));
        }
    })?;
    let start = cx.view().get(bound.cell.at + Channel::start);
    for (entry, record) in ended {
        let end = bound.ring.head(cx).wrapping_sub(start) & HOT_MASK;
        cx.set_hot(record.reference, record.at, Block::hot0, |value| (value == OPEN).then_some(end.min(OPEN - 1)));
        // Not live any more, so not counted by publishers, but there until its owner closes it: it
        // keeps what is left to drain.
        trie.change(
            entry.place(),
            |value| Some(value == entry.value),
            |found| Ok((if found.is_some() { Change::Mark(GONE) } else { Change::Keep }, ())),
        )?;
    }
    Ok(())
}

/// A handle's key is its client's id and 16 bytes that make it unique.
fn key_client(key: &[u8]) -> &[u8] {
    &key[..key.len().saturating_sub(16)]
}

/// Adds an entry to the trie of handles. `None`: the channel is gone.
fn anchor(cx: Context<'_>, cell: Cell, client: &str, attachment: u64) -> Result<Option<Anchor>> {
    let trie = cell.trie(cx, Channel::handles);
    let serial = SERIAL.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let mut key = client.as_bytes().to_vec();
    key.extend_from_slice(&cx.actor.owner.to_le_bytes());
    key.extend_from_slice(&serial.to_le_bytes());
    let place = cx.space.hash(client.as_bytes()).pair(cx.space.hash(&key));
    let content = encode(&[cx.actor.owner], &key, &[]);
    let mut made: Option<Held> = None;
    let added = trie.change(
        place,
        |_| Some(false),
        |_| {
            let held = cx.new_record(trie.root, place, &content)?;
            cx.view().set(held.at + Block::hot0, hot(state::generation(held.word), OPEN));
            made = Some(held);
            Ok((Change::Put(0, held), ()))
        },
    )?;
    Ok(added.and(made).map(|held| Anchor { reference: held.reference(), at: held.at, place, attachment }))
}

impl Receiver {
    /// Opens a handle at the channel's head. `None`: the channel is gone.
    pub(crate) fn open(segment: &Segment, bound: Bound, channel: &str, client: &str, registered: bool) -> Result<Option<Receiver>> {
        let (cx, attachment) = segment.attached()?;
        // The cursor before the entry: whatever a publisher counted us for, we see.
        let cursor = bound.ring.head(cx);
        let Some(anchor) = anchor(cx, bound.cell, client, attachment)? else {
            return Ok(None);
        };
        Ok(Some(Receiver {
            segment: segment.clone(),
            cell: bound.cell,
            ring: bound.ring,
            channel: channel.to_owned(),
            client: client.to_owned(),
            registered,
            position: Mutex::new(Position { anchor, cursor, closed: false }),
            received: PrivateU64::new(0),
            missed: PrivateU64::new(0),
        }))
    }

    fn position(&self) -> MutexGuard<'_, Position> {
        self.position.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next message's payload in `buffer`, replacing what it held; `None`: there is none now.
    /// Text has been checked to be UTF-8.
    pub fn try_recv(&self, buffer: &mut Vec<u8>) -> Result<Option<Form>> {
        let mut position = self.position();
        if position.closed {
            return Err(Error::HandleClosed);
        }
        let (cx, attachment) = self.segment.attached()?;
        let anchored = position.anchor.attachment == attachment && self.end(cx, &position.anchor).is_some();
        if !anchored && !self.reopen(cx, attachment, &mut position)? {
            return Ok(None);
        }
        let ring = &self.ring;
        let mut slack = 0;
        // At most every message of the ring may be found given up, and lagging doubles the slack.
        for _ in 0..2 * ring.len() + 64 {
            if position.cursor >= self.limit(cx, &position.anchor) {
                return Ok(None);
            }
            buffer.clear();
            match ring.read(cx, position.cursor, buffer) {
                Read::Empty => return Ok(None),
                Read::Got(info) => {
                    let form = if info.kind() == kind::TEXT { Form::Text } else { Form::Bytes };
                    position.cursor += 1;
                    let prefix = (info.flags() as usize * 8).min(buffer.len());
                    if prefix > 0 {
                        buffer.drain(..prefix);
                    }
                    if form == Form::Text && std::str::from_utf8(buffer).is_err() {
                        self.miss(cx, 1);
                        continue;
                    }
                    self.received.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    return Ok(Some(form));
                }
                Read::Evicted => {
                    position.cursor += 1;
                    self.miss(cx, 1);
                }
                Read::Lagged => {
                    if !self.cell.is_same_life(cx) {
                        return Ok(None);
                    }
                    // Resuming at the very oldest of a ring that is being overwritten at full speed
                    // reads almost nothing: leave more slack each time it fails at once.
                    let oldest = ring.oldest(cx).saturating_add(slack);
                    slack = (slack * 2).max(ring.len() / 8).min(ring.len() - 1);
                    let to = oldest.max(position.cursor + 1).min(ring.head(cx)).min(self.limit(cx, &position.anchor));
                    self.miss(cx, to.saturating_sub(position.cursor));
                    position.cursor = to.max(position.cursor);
                }
            }
        }
        Ok(None)
    }

    /// The handle's hot word: OPEN or where delivery ended; `None`: the entry is gone.
    #[inline]
    fn end(&self, cx: Context<'_>, anchor: &Anchor) -> Option<u64> {
        cx.hot(anchor.reference, anchor.at, Block::hot0)
    }

    /// The sequence at which delivery ends.
    #[inline]
    fn limit(&self, cx: Context<'_>, anchor: &Anchor) -> u64 {
        match self.end(cx, anchor) {
            Some(OPEN) => u64::MAX,
            Some(end) => cx.view().get(self.cell.at + Channel::start).wrapping_add(end),
            None => 0,
        }
    }

    fn miss(&self, cx: Context<'_>, count: u64) {
        self.missed.fetch_add(count, std::sync::atomic::Ordering::Relaxed);
        cx.word(self.cell.at + Channel::dropped).fetch_add(count, Ordering::Relaxed);
    }

    /// The same place in the stream under an entry of this process: in a forked child, or when the
    /// entry was reaped although we live. False: the channel is gone.
    fn reopen(&self, cx: Context<'_>, attachment: u64, position: &mut Position) -> Result<bool> {
        if !self.cell.is_same_life(cx) {
            return Ok(false);
        }
        if self.end(cx, &position.anchor).is_some_and(|end| end != OPEN) {
            return Ok(true);
        }
        if self.registered {
            register(cx, self.cell, &self.client, false)?;
        }
        match anchor(cx, self.cell, &self.client, attachment)? {
            Some(anchor) => {
                position.anchor = anchor;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Will nothing come any more? The channel was removed or the client unsubscribed, and what was left
    /// has been received; or the handle was closed.
    pub fn is_ended(&self) -> Result<bool> {
        let position = self.position();
        if position.closed {
            return Ok(true);
        }
        let (cx, _) = self.segment.attached()?;
        let left = self.cell.is_same_life(cx) && position.cursor < self.ring.head(cx);
        let ended = match self.end(cx, &position.anchor) {
            Some(OPEN) | None => !self.cell.is_open(cx) && !left,
            Some(_) => position.cursor >= self.limit(cx, &position.anchor),
        };
        Ok(ended)
    }

    /// The channel's name.
    pub fn channel(&self) -> &str {
        &self.channel
    }

    /// The client's id; empty for a broadcast.
    pub fn client(&self) -> &str {
        &self.client
    }

    /// The channel's ring length: more than that was never there at once.
    pub fn capacity(&self) -> u64 {
        self.ring.len()
    }

    /// Messages given.
    pub fn received(&self) -> u64 {
        self.received.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Messages that were overwritten or given up before they were read.
    pub fn missed(&self) -> u64 {
        self.missed.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Was it closed?
    pub fn is_closed(&self) -> bool {
        self.position().closed
    }

    /// Closes the handle; again is harmless.
    pub fn close(&self) -> Result<()> {
        let mut position = self.position();
        if std::mem::replace(&mut position.closed, true) {
            return Ok(());
        }
        // A segment closed before has ended this handle with all others of the process.
        let Ok((cx, attachment)) = self.segment.attached() else {
            return Ok(());
        };
        let anchor = position.anchor;
        if anchor.attachment != attachment {
            return Ok(());
        }
        let trie = self.cell.trie(cx, Channel::handles);
        trie.change(
            anchor.place,
            |value| Some(value == anchor.reference),
            |found| Ok((if found.is_some() { Change::Remove } else { Change::Keep }, ())),
        )?;
        self.cell.clear_if_unused(cx)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Nobody is left to tell; what could not be removed is removed with the process.
        let _ = self.close();
    }
}
