//! A handle that receives what is published on one channel: a private cursor over the ring, and an
//! entry in the channel's trie of handles, so that publishers can count it and others can end it.
//!
//! Conservation: from the sequence at which it was opened to the one at which it ended, every
//! message is either given by `try_recv` once, in order, or counted in `missed`.

use std::sync::Arc;
use std::sync::atomic::AtomicU64 as PrivateU64;

use crate::arena::Info;
use crate::bound::{Bound, Form};
use crate::cells::Cell;
use crate::error::{Error, Result};
use crate::handles::{Anchored, HandleId, HandleKey, OPEN, anchor, register, show, showing, stride, take_up, unanchor_known};
use crate::ids::{EventId, Start, epoch_of};
use crate::layout::{Block, Channel, kind};
use crate::os::lock::{Guard, Lock};
use crate::points::point;
use crate::ring::{Read, Ring};
use crate::segment::{Attached, Segment};
use crate::source::{Cells, Source};
use crate::space::Context;
use crate::sync::Ordering;

/// Bytes of payload after which a draining is interrupted.
const AT_ONCE: usize = 128 << 10;

/// The handle's entry in the channel's trie of handles.
#[derive(Default)]
struct Anchor {
    reference: u64,
    at: usize,
    id: HandleId,
    /// The attachment it was made under; a forked child makes its own.
    attachment: u64,
}

struct Position {
    anchor: Anchor,
    cursor: u64,
    /// The cursor that the handle's entry shows; all ones: none.
    noted: u64,
    closed: bool,
}

/// What a forked child finds where another thread of its parent was just receiving.
impl Default for Position {
    fn default() -> Position {
        Position { anchor: Anchor::default(), cursor: 0, noted: u64::MAX, closed: true }
    }
}

/// A message taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// What it was published as.
    pub form: Form,
    /// Its id.
    pub id: EventId,
}

/// What a message that was read was published as, with its payload alone left behind the first `before` bytes of the
/// buffer.
#[inline]
fn unwrapped(info: Info, buffer: &mut Vec<u8>, before: usize) -> Form {
    let prefix = (info.flags() as usize * 8).min(buffer.len() - before);
    if prefix > 0 {
        buffer.drain(before..before + prefix);
    }
    if info.kind() == kind::TEXT { Form::Text } else { Form::Bytes }
}

/// The same. `None`: its text is no text, which damage alone does.
pub(crate) fn taken(info: Info, buffer: &mut Vec<u8>) -> Option<Form> {
    let form = unwrapped(info, buffer, 0);
    (form == Form::Bytes || std::str::from_utf8(buffer).is_ok()).then_some(form)
}

/// A message's turn to be taken: while it lasts, nobody else takes one from the handle.
pub struct Ready<'a> {
    receiver: &'a Receiver,
    cx: Context<'a>,
    position: Guard<'a, Position>,
    seen: Option<u64>,
}

impl Ready<'_> {
    /// As `try_recv`, but text has not been checked: whoever finds that it is none calls `spoilt`, and takes the next.
    #[inline(always)]
    pub fn take(mut self, buffer: &mut Vec<u8>) -> Option<Received> {
        buffer.clear();
        let (ring, cursor) = (&self.receiver.ring, self.position.cursor);
        let read = match self.seen {
            Some(seen) => ring.read_there(self.cx, cursor, seen, buffer),
            None => ring.read(self.cx, cursor, buffer),
        };
        self.receiver.took(self.cx, &mut self.position, read, buffer, 0)
    }
}

/// Gives up a handle's entry, unless that was done before or is its parent's. `None`: there was nothing to be done.
fn give_up<'s>(segment: &'s Segment, cell: Cell, client: &str, position: &mut Position) -> Result<Option<Context<'s>>> {
    if std::mem::replace(&mut position.closed, true) {
        return Ok(None);
    }
    // A segment closed before has ended this handle with all others of the process.
    let Ok((cx, attachment)) = segment.attached() else {
        return Ok(None);
    };
    let Anchor { reference, id, attachment: ours, .. } = &position.anchor;
    if *ours == attachment {
        unanchor_known(cx, cell, id.key(client.as_bytes()), *reference)?;
    }
    Ok(Some(cx))
}

fn joined(channel: &str, client: &str) -> Box<str> {
    let mut text = String::with_capacity(channel.len() + client.len());
    text.push_str(channel);
    text.push_str(client);
    text.into()
}

/// An open handle. Dropping it closes it; the client's registration stays.
pub struct Receiver {
    segment: Segment,
    cell: Cell,
    ring: Ring,
    /// The channel's name, then the client's id.
    text: Box<str>,
    client_from: usize,
    registered: bool,
    epoch: u64,
    /// The first sequence of the channel's life.
    first: u64,
    position: Lock<Position>,
    received: PrivateU64,
    missed: PrivateU64,
    unknown: bool,
}

impl Receiver {
    /// Opens a handle under a key, from `start` on. `None`: the channel is gone, or what the handle kept was given up.
    /// `start` was chosen before the entry is made: whatever a publisher counts the handle for, it is given.
    pub(crate) fn open(
        (segment, (cx, attachment)): (&Segment, Attached<'_>),
        bound: &Bound,
        (channel, client): (&str, &str),
        id: HandleId,
        registered: bool,
        start: Start,
    ) -> Result<Option<Arc<Receiver>>> {
        let first = cx.view().get(bound.cell.at() + Channel::start);
        let Some(Anchored { reference, at, new }) = anchor(cx, bound.cell, id.key(client.as_bytes()), &[], showing(start.cursor, first))?
        else {
            return Ok(None);
        };
        point!("subscribe.anchored");
        // One that somebody made for a pattern.
        if !new.is_set() && !take_up(cx, bound.cell, (reference, at), start.cursor, first) {
            return Ok(None);
        }
        let receiver = Arc::new(Receiver {
            segment: segment.clone(),
            cell: bound.cell,
            ring: bound.ring,
            text: joined(channel, client),
            client_from: channel.len(),
            registered,
            epoch: epoch_of(cx, bound.cell),
            first,
            position: Lock::new(Position {
                anchor: Anchor { reference, at, id, attachment },
                cursor: start.cursor,
                noted: start.cursor,
                closed: false,
            }),
            received: PrivateU64::new(0),
            missed: PrivateU64::new(0),
            unknown: start.unknown,
        });
        receiver.miss(cx, start.missed);
        Ok(Some(receiver))
    }

    fn position(&self) -> Guard<'_, Position> {
        self.position.lock()
    }

    /// The next message's payload in `buffer`, replacing what it held; `None`: there is none now.
    /// Text has been checked to be UTF-8.
    pub fn try_recv(&self, buffer: &mut Vec<u8>) -> Result<Option<Received>> {
        loop {
            let mut position = self.position();
            buffer.clear();
            let Some((cx, end)) = self.anchored(&mut position)? else {
                return Ok(None);
            };
            let Some(received) = self.next(cx, &mut position, end, buffer) else {
                return Ok(None);
            };
            if received.form == Form::Bytes || std::str::from_utf8(buffer).is_ok() {
                return Ok(Some(received));
            }
            drop(position);
            self.spoilt();
        }
    }

    /// The next message's turn. `None`: there is none now.
    #[inline(always)]
    pub fn next_ready(&self) -> Result<Option<Ready<'_>>> {
        let mut position = self.position();
        let Some((cx, end)) = self.anchored(&mut position)? else {
            return Ok(None);
        };
        let cursor = position.cursor;
        if cursor < self.limit_at(end) {
            let seen = self.ring.there(cx, cursor);
            if seen.is_some() || cursor < self.ring.head(cx) {
                return Ok(Some(Ready { receiver: self, cx, position, seen }));
            }
        }
        self.note(cx, &mut position);
        Ok(None)
    }

    /// A message that was taken says nothing, which damage alone does: it counts as missed.
    #[cold]
    pub fn spoilt(&self) {
        let _position = self.position();
        self.received.store(self.received().saturating_sub(1), std::sync::atomic::Ordering::Relaxed);
        self.missed.store(self.missed() + 1, std::sync::atomic::Ordering::Relaxed);
    }

    /// Takes up to `most` of the messages that are there now, fewer if they are long: their payloads lie one
    /// behind the other in `buffer`, and `messages` says where each ends; text is as `Ready::take` leaves it. False: there may be
    /// more.
    pub fn drain(&self, most: u64, buffer: &mut Vec<u8>, messages: &mut Vec<(usize, Received)>) -> Result<bool> {
        buffer.clear();
        messages.clear();
        let mut position = self.position();
        let Some((cx, mut end)) = self.anchored(&mut position)? else {
            return Ok(true);
        };
        while (messages.len() as u64) < most && buffer.len() < AT_ONCE {
            match self.next(cx, &mut position, end, buffer) {
                Some(received) => messages.push((buffer.len(), received)),
                None => return Ok(true),
            }
            // It may have been ended meanwhile.
            end = self.end(cx, &position.anchor);
        }
        Ok(false)
    }

    /// Sees to it that the handle's entry is there and this process's; gives its `end`. `None`: the channel is gone.
    #[inline(always)]
    fn anchored(&self, position: &mut Position) -> Result<Option<(Context<'_>, Option<u64>)>> {
        if position.closed {
            return Err(Error::HandleClosed);
        }
        let (cx, attachment) = self.segment.attached()?;
        if position.anchor.attachment == attachment
            && let Some(end) = self.end(cx, &position.anchor)
        {
            return Ok(Some((cx, Some(end))));
        }
        let reopened = self.reopen(cx, attachment, position)?;
        Ok(reopened.then(|| (cx, self.end(cx, &position.anchor))))
    }

    /// Appends the next message's payload to `buffer`. `end`: as it was just now.
    #[inline(always)]
    fn next(&self, cx: Context<'_>, position: &mut Position, end: Option<u64>, buffer: &mut Vec<u8>) -> Option<Received> {
        let before = buffer.len();
        let read = if position.cursor < self.limit_at(end) { self.ring.read(cx, position.cursor, buffer) } else { Read::Empty };
        self.took(cx, position, read, buffer, before)
    }

    /// Goes on behind what was read, which was appended to what `buffer` held `before`.
    #[inline(always)]
    fn took(&self, cx: Context<'_>, position: &mut Position, read: Read, buffer: &mut Vec<u8>, before: usize) -> Option<Received> {
        let info = match read {
            Read::Got(info) => info,
            Read::Empty => {
                self.note(cx, position);
                return None;
            }
            Read::Evicted | Read::Lagged => self.find_next(cx, position, buffer, before)?,
        };
        position.cursor += 1;
        if position.cursor.wrapping_sub(position.noted) >= stride(self.ring.len()) {
            self.note(cx, position);
        }
        let form = unwrapped(info, buffer, before);
        // Under the lock: nobody else counts.
        self.received.store(self.received() + 1, std::sync::atomic::Ordering::Relaxed);
        Some(Received { form, id: EventId { epoch: self.epoch, sequence: position.cursor.wrapping_sub(self.first) } })
    }

    /// The next message behind the cursor, where the one at it is gone: appended to what `buffer` held `before`.
    #[cold]
    #[inline(never)]
    fn find_next(&self, cx: Context<'_>, position: &mut Position, buffer: &mut Vec<u8>, before: usize) -> Option<Info> {
        let ring = &self.ring;
        let mut slack = 0;
        // At most every message of the ring may be found given up, and lagging doubles the slack.
        for _ in 0..2 * ring.len() + 64 {
            // What was read meant nothing.
            buffer.truncate(before);
            if position.cursor >= self.limit(cx, &position.anchor) {
                break;
            }
            match ring.read(cx, position.cursor, buffer) {
                Read::Empty => break,
                Read::Got(info) => return Some(info),
                Read::Evicted => {
                    position.cursor += 1;
                    self.miss(cx, 1);
                }
                Read::Lagged => {
                    if !self.cell.is_same_life(cx) {
                        buffer.truncate(before);
                        return None;
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
        buffer.truncate(before);
        self.note(cx, position);
        None
    }

    /// Shows in the handle's entry how far it is, for whoever looks on: once it has received everything, and each
    /// `stride` messages. Nobody relies on it.
    #[inline]
    fn note(&self, cx: Context<'_>, position: &mut Position) {
        if position.noted != position.cursor {
            position.noted = position.cursor;
            show(cx, (position.anchor.reference, position.anchor.at), position.cursor, self.first);
        }
    }

    /// The handle's hot word: OPEN or where delivery ended; `None`: the entry is gone.
    #[inline]
    fn end(&self, cx: Context<'_>, anchor: &Anchor) -> Option<u64> {
        cx.hot(anchor.reference, anchor.at, Block::hot0)
    }

    /// The sequence at which delivery ends.
    #[inline]
    fn limit(&self, cx: Context<'_>, anchor: &Anchor) -> u64 {
        self.limit_at(self.end(cx, anchor))
    }

    #[inline]
    fn limit_at(&self, end: Option<u64>) -> u64 {
        match end {
            Some(OPEN) => u64::MAX,
            Some(end) => self.first.wrapping_add(end),
            None => 0,
        }
    }

    fn miss(&self, cx: Context<'_>, count: u64) {
        if count == 0 {
            return;
        }
        self.missed.fetch_add(count, std::sync::atomic::Ordering::Relaxed);
        cx.word(self.cell.at() + Channel::dropped).fetch_add(count, Ordering::Relaxed);
    }

    /// The same place in the stream under an entry of this process: in a forked child, or when the
    /// entry was reaped although we live. False: the channel is gone.
    #[cold]
    fn reopen(&self, cx: Context<'_>, attachment: u64, position: &mut Position) -> Result<bool> {
        if !self.cell.is_same_life(cx) {
            return Ok(false);
        }
        if self.end(cx, &position.anchor).is_some_and(|end| end != OPEN) {
            return Ok(true);
        }
        if self.registered {
            register(cx, self.cell, (self.client(), cx.space.hash(self.client().as_bytes())), false)?;
        }
        let id = HandleId::new(cx, self.client());
        match anchor(cx, self.cell, self.key(id), &[], showing(position.cursor, self.first))? {
            Some(Anchored { reference, at, .. }) => {
                position.anchor = Anchor { reference, at, id, attachment };
                position.noted = position.cursor;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Will nothing come any more? The channel was removed or the client unsubscribed, and what was left
    /// has been received; or the handle was closed.
    pub fn is_ended(&self) -> Result<bool> {
        let position = self.position.look();
        if position.closed {
            return Ok(true);
        }
        let (cx, _) = self.segment.attached()?;
        self.ended_at(cx, &position)
    }

    fn ended_at(&self, cx: Context<'_>, position: &Position) -> Result<bool> {
        match self.end(cx, &position.anchor) {
            Some(OPEN) | None if self.cell.is_open(cx) => Ok(false),
            Some(OPEN) | None => {
                // Until it is sealed, a publisher on the way may still add to what is left; and it was seen to be over before.
                self.cell.seal(cx)?;
                Ok(!(self.cell.is_same_life(cx) && position.cursor < self.ring.head(cx)))
            }
            Some(_) => Ok(position.cursor >= self.limit(cx, &position.anchor)),
        }
    }

    /// The id of the last message taken, or of the last one before the first.
    pub fn last_id(&self) -> EventId {
        EventId { epoch: self.epoch, sequence: self.position().cursor.wrapping_sub(self.first) }
    }

    /// Was the id that it was to go on from none of this channel's life?
    pub fn is_unknown(&self) -> bool {
        self.unknown
    }

    pub(crate) fn cell(&self) -> Cell {
        self.cell
    }

    /// The channel's name.
    pub fn channel(&self) -> &str {
        &self.text[..self.client_from]
    }

    /// The client's id; empty for a broadcast.
    pub fn client(&self) -> &str {
        &self.text[self.client_from..]
    }

    fn key(&self, id: HandleId) -> HandleKey<'_> {
        id.key(self.client().as_bytes())
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
        self.position.look().closed
    }

    /// Closes the handle; again is harmless.
    pub fn close(&self) -> Result<()> {
        if let Some(cx) = give_up(&self.segment, self.cell, self.client(), &mut self.position())? {
            // Whoever waits here in another thread or task is to learn of it.
            cx.tell(self.cell.number());
        }
        Ok(())
    }
}

impl Source for Receiver {
    fn segment(&self) -> &Segment {
        &self.segment
    }

    fn cells(&self) -> Cells {
        Cells::from_slice(&[self.cell.number()])
    }

    fn has_news(&self) -> Result<bool> {
        // Held: somebody is just taking a message.
        let Some(position) = self.position.try_look() else {
            return Ok(true);
        };
        if position.closed {
            return Ok(true);
        }
        let (cx, _) = self.segment.attached()?;
        if position.cursor < self.ring.head(cx).min(self.limit(cx, &position.anchor)) {
            return Ok(true);
        }
        // A message may be there whose publisher has not moved the head yet.
        if position.cursor < self.limit(cx, &position.anchor) && self.ring.there(cx, position.cursor).is_some() {
            return Ok(true);
        }
        self.ended_at(cx, &position)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Nobody is left to tell: who waits here has it. What could not be removed is removed with the process.
        let Receiver { segment, cell, text, client_from, position, .. } = self;
        let _ = give_up(segment, *cell, &text[*client_from..], position.own());
    }
}
