//! Handles on patterns: receive from every channel whose name matches, those created later included.
//!
//! A pattern handle is registered once in its world and has an ordinary handle on each matching channel, so
//! it is counted, keeps messages and is reaped as those are. Who creates a channel makes those handles for
//! all patterns that match, in the owner's name and under a key that both can tell, before the channel has its
//! name; the owner makes whatever is missing when it sees that the directory has changed. Promise: what is
//! created after the registration is received from its first message on, whoever dies in between; the order
//! within each channel is kept, and what a removed channel left comes before what a new one of its name
//! brings. (A channel that is created while the pattern is being registered, and removed before the owner looks,
//! counts as missed: nobody can tell any more what it came before.)

use std::sync::Arc;
use std::sync::atomic::{AtomicU64 as PrivateU64, Ordering as PrivateOrdering};

use crate::bound::bound_of;
use crate::cells::Cell;
use crate::directory::cell_of;
use crate::error::{Error, Result};
use crate::handles::{HandleId, HandleKey, Made, Note, UNSEEN, anchor, handle_of, unanchor};
use crate::ids::Start;
use crate::layout::{Channel, Header, cell_kind, state};
use crate::os::lock::{Guard, Lock};
use crate::parts::{Part, Parts};
use crate::points::point;
use crate::reap::each_cell;
use crate::receiver::{Received, Receiver};
use crate::record::Record;
use crate::relief;
use crate::segment::Segment;
use crate::source::{Cells, Source};
use crate::space::Context;
use crate::sync::Ordering;
use crate::topics::{Topics, pattern_matches};
use crate::trie::{Delta, Trie};
use crate::turns::Found;
use crate::world::{World, check_length};

/// A registration: its pattern, and whose it is.
pub(crate) type Registration = (Arc<str>, Arc<str>);

/// Makes the handles of all matching patterns on a channel that is being created, but for those that are `made` already.
pub(crate) fn anchor_all(
    cx: Context<'_>,
    patterns: &Topics,
    name: &str,
    cell: Cell,
    when: Made,
    made: &mut Vec<Registration>,
) -> Result<()> {
    for registration in patterns.match_pairs(name)? {
        let (pattern, whose) = (&*registration.0, &*registration.1);
        let Some(key) = HandleKey::from_text(cx, whose).filter(|_| !made.contains(&registration)) else {
            continue;
        };
        let note = Note { made: when, pattern: pattern.into(), name: name.into() };
        if anchor(cx, cell, key, &note.encode(), UNSEEN)?.is_none() {
            return Ok(());
        }
        point!("pattern.anchored");
        // SYNC patterns.close (R): the handle before the look at its registration; pairs with (W) in `close`,
        // where the registration goes before the handles are looked for.
        if !patterns.contains(pattern, whose)? {
            unanchor(cx, cell, key)?;
        }
        made.push(registration);
    }
    Ok(())
}

/// Removed channels that are received from at once (see `turns`).
const AT_ONCE: usize = 8;

/// An open handle on a pattern. Dropping it closes it.
pub struct PatternReceiver {
    world: World,
    /// Word index of the root of the channels' directory.
    directory: usize,
    /// Where handles on patterns are registered.
    registrations: Topics,
    pattern: String,
    client: String,
    parts: Lock<Parts>,
    received: PrivateU64,
    /// Missed on channels that are gone.
    missed_before: PrivateU64,
    /// What others gave up in our name, as last seen.
    given_up: PrivateU64,
}

impl PatternReceiver {
    pub(crate) fn open(world: &World, directory: usize, registrations: &Topics, pattern: &str, client: &str) -> Result<PatternReceiver> {
        check_length("pattern", pattern)?;
        check_length("client_id", client)?;
        world.segment().owns_something()?;
        let (cx, attachment) = world.segment().attached()?;
        let id = HandleId::new(cx, client);
        let removals = cx.view().get(Header::removals);
        let parts = Parts::new(id, attachment, removals);
        let receiver = PatternReceiver {
            world: world.clone(),
            directory,
            registrations: registrations.clone(),
            pattern: pattern.to_owned(),
            client: client.to_owned(),
            parts: Lock::new(parts),
            received: PrivateU64::new(0),
            missed_before: PrivateU64::new(0),
            given_up: PrivateU64::new(0),
        };
        {
            let mut parts = receiver.parts();
            // What is there before the registration is received from now on; everything else from its beginning.
            let there = receiver.discover(cx, &mut parts)?;
            receiver.register(id)?;
            point!("pattern.registered");
            for found in &there {
                receiver.receive_from(cx, &mut parts, found, false)?;
            }
            receiver.refresh(cx, &mut parts)?;
        }
        Ok(receiver)
    }

    fn parts(&self) -> Guard<'_, Parts> {
        self.parts.lock()
    }

    fn key(&self, id: HandleId) -> HandleKey<'_> {
        id.key(self.client.as_bytes())
    }

    fn register(&self, id: HandleId) -> Result<()> {
        self.registrations.add(&self.pattern, &self.key(id).text())
    }

    /// Matching channels that were not there at the last look.
    fn discover(&self, cx: Context<'_>, parts: &mut Parts) -> Result<Vec<Found>> {
        let deltas = parts.mirror.update(&Trie::new(cx, self.directory), &mut |_, record| {
            let name = std::str::from_utf8(record.key()).ok().filter(|name| pattern_matches(&self.pattern, name))?;
            Some((name.into(), cell_of(cx, record)?))
        })?;
        let added = deltas.into_iter().filter_map(|delta| match delta {
            Delta::Added((name, cell)) => Some(Found { order: cx.view().get(cell.at() + Channel::order), name, cell }),
            // Its receiver ends by itself, once what is left has been taken.
            Delta::Removed(_) => None,
        });
        Ok(added.collect())
    }

    fn receive_from(&self, cx: Context<'_>, parts: &mut Parts, found: &Found, from_the_first: bool) -> Result<()> {
        let Found { ref name, cell, .. } = *found;
        // An entry may be listed again with another record, and a channel may be gone again.
        let known = parts.finished.get(&cell.number()) == Some(&cell.generation) || parts.has(cell);
        if known || !cell.is_same_life(cx) {
            return Ok(());
        }
        let Some(bound) = bound_of(cx, cell)? else {
            return Ok(());
        };
        let cursor = match from_the_first {
            true => cx.view().get(cell.at() + Channel::start),
            false => bound.ring.head(cx),
        };
        let start = Start { cursor, missed: 0, unknown: false };
        let segment = self.world.segment();
        let attached = segment.attached()?;
        let before = parts.receivers.iter().rev().find(|part| part.receiver.channel() == &**name);
        let behind = before.map(|part| part.receiver.cell());
        match Receiver::open((segment, attached), &bound, (name, &self.client), parts.id, false, start)? {
            Some(receiver) => {
                let turn = cell.is_over(cx);
                parts.turns += usize::from(turn);
                parts.receivers.push(Part { receiver, behind, turn });
            }
            None => self.leave(cx, parts, cell)?,
        }
        Ok(())
    }

    /// Leaves a channel to which somebody came first for want of room: what it kept for us is counted, and it is not
    /// looked for again.
    fn leave(&self, cx: Context<'_>, parts: &mut Parts, cell: Cell) -> Result<()> {
        if let Some(record) = handle_of(cx, cell, self.key(parts.id))? {
            relief::finish(cx, cell, self.key(parts.id), &record)?;
            parts.finished.insert(cell.number(), cell.generation);
            unanchor(cx, cell, self.key(parts.id))?;
        }
        Ok(())
    }

    /// Opens receivers on what was created since the last look, on removed channels a few at a time. Where there is no room
    /// for one, it is an error, and that channel is tried again the next time; the others are received from.
    fn refresh(&self, cx: Context<'_>, parts: &mut Parts) -> Result<()> {
        let segment = self.world.segment();
        let (_, attachment) = segment.attached()?;
        if parts.attachment != attachment {
            // In a forked child: under a registration of its own. The receivers do the same.
            let id = HandleId::new(cx, &self.client);
            segment.owns_something()?;
            self.register(id)?;
            (parts.attachment, parts.id, parts.registration) = (attachment, id, None);
            // What was given up in the parent's name before is ours, too.
            self.missed_before.fetch_add(self.given_up.swap(0, PrivateOrdering::Relaxed), PrivateOrdering::Relaxed);
        }
        let mut found = Vec::new();
        let looked = self.look(cx, parts, &mut found);
        // What was in the directory may be gone since, and what came after it, too.
        found.sort_by_key(|found| found.order);
        let received_from = self.receive_from_each(cx, parts, found);
        let mut given_up = parts.registration.and_then(|registration| relief::given_up(cx, registration));
        if given_up.is_none() {
            let record = self.registrations.record(&self.pattern, &self.key(parts.id).text())?;
            parts.registration = record.map(|record| (record.reference, record.at));
            given_up = parts.registration.and_then(|registration| relief::given_up(cx, registration));
        }
        if let Some(given_up) = given_up {
            self.given_up.store(given_up, PrivateOrdering::Relaxed);
        }
        looked.and(received_from)
    }

    /// Opens receivers on what was found, in order, and on what has waited and may be received from now.
    fn receive_from_each(&self, cx: Context<'_>, parts: &mut Parts, found: Vec<Found>) -> Result<()> {
        let mut done = Ok(());
        for found in found {
            if found.cell.is_over(cx) || parts.waiting.has_name(&found.name) {
                parts.waiting.push(found);
            } else if let Err(error) = self.receive_from(cx, parts, &found, true) {
                done = done.and(Err(error));
                parts.waiting.push(found);
            }
        }
        let mut set_aside: Vec<Found> = Vec::new();
        for _ in 0..parts.waiting.len() {
            if parts.turns >= AT_ONCE {
                break;
            }
            let Some(found) = parts.waiting.pop() else {
                break;
            };
            let after_another = set_aside.iter().any(|other| other.name == found.name);
            if after_another {
                set_aside.push(found);
            } else if let Err(error) = self.receive_from(cx, parts, &found, true) {
                done = done.and(Err(error));
                set_aside.push(found);
            }
        }
        set_aside.into_iter().rev().for_each(|found| parts.waiting.push_front(found));
        done
    }

    /// Adds what was created since the last look.
    fn look(&self, cx: Context<'_>, parts: &mut Parts, found: &mut Vec<Found>) -> Result<()> {
        if parts.mirror.word() != cx.word(self.directory).load(Ordering::Acquire) {
            found.extend(self.discover(cx, parts)?);
        }
        // SYNC directory.removals (R): pairs with (W) in `entry_leaves`. The directory before the removals: what was
        // removed before something was found is known by now, and its messages come first.
        let removals = cx.word(Header::removals).load(Ordering::Acquire);
        if parts.removals != removals {
            self.find_removed(cx, parts, removals, found)?;
            parts.removals = removals;
        }
        Ok(())
    }

    /// Adds channels that were created and removed again before they were seen: their creators have made our
    /// handles, which keep what was published. `removals` as it was before; what came to be named since is left
    /// for the next time: the channel before it may have been removed behind the place where we look.
    fn find_removed(&self, cx: Context<'_>, parts: &Parts, removals: u64, found: &mut Vec<Found>) -> Result<()> {
        each_cell(cx, |cell, kind| {
            if kind != cell_kind::CHANNEL
                || cell.state(cx) != Some(state::RETIRED)
                || parts.has(cell)
                || parts.waiting.has(cell)
                || found.iter().any(|found| found.cell == cell)
            {
                return Ok(());
            }
            let order = cx.view().get(cell.at() + Channel::order);
            let Some(handle) = handle_of(cx, cell, self.key(parts.id))? else {
                return Ok(());
            };
            match Note::decode(handle.value()) {
                Some(Note { made: Made::InTime, name, .. }) => {
                    if order <= removals {
                        found.push(Found { order, name: name.into(), cell });
                    }
                    Ok(())
                }
                _ => self.give_up_late(cx, parts, cell, &handle),
            }
        })
    }

    /// A late handle on a channel that is gone: what came after it may have been received by now, so its
    /// messages count as missed, unless they were received themselves.
    fn give_up_late(&self, cx: Context<'_>, parts: &Parts, cell: Cell, handle: &Record) -> Result<()> {
        if parts.finished.get(&cell.number()) != Some(&cell.generation)
            && let Some(left) = relief::kept(cx, cell, handle)?
        {
            self.missed_before.fetch_add(left, PrivateOrdering::Relaxed);
        }
        unanchor(cx, cell, self.key(parts.id))
    }

    /// The next message of any channel, as [`Receiver::try_recv`], and the channel's name.
    pub fn try_recv(&self, buffer: &mut Vec<u8>) -> Result<Option<(Received, String)>> {
        let mut parts = self.parts();
        if parts.closed {
            return Err(Error::HandleClosed);
        }
        let cx = self.world.cx()?;
        loop {
            // No room to receive from one channel: an error when there is nothing of the others.
            let refreshed = match self.refresh(cx, &mut parts) {
                Err(error @ Error::Full { .. }) => Err(error),
                other => Ok(other?),
            };
            let before = parts.receivers.len();
            if let Some(received) = self.take(cx, &mut parts, buffer)? {
                return Ok(Some(received));
            }
            // Those that have ended leave their turns to others.
            if parts.waiting.is_empty() || parts.receivers.len() == before {
                return refreshed.map(|()| None);
            }
        }
    }

    /// The next message of the channels that are received from.
    fn take(&self, cx: Context<'_>, parts: &mut Parts, buffer: &mut Vec<u8>) -> Result<Option<(Received, String)>> {
        let mut asked = 0;
        while asked < parts.receivers.len() {
            let at = parts.next % parts.receivers.len();
            if let Some(before) = parts.receivers[at].behind {
                if parts.has(before) {
                    parts.next = at + 1;
                    asked += 1;
                    continue;
                }
                parts.receivers[at].behind = None;
            }
            let receiver = &parts.receivers[at].receiver;
            if let Some(received) = receiver.try_recv(buffer)? {
                // Another channel's turn: none starves behind a busy one.
                parts.next = at + 1;
                self.received.fetch_add(1, PrivateOrdering::Relaxed);
                return Ok(Some((received, receiver.channel().to_owned())));
            }
            if receiver.is_ended()? {
                self.missed_before.fetch_add(receiver.missed(), PrivateOrdering::Relaxed);
                // Dropping it closes it. Whoever waits behind it gets another turn.
                let part = parts.receivers.remove(at);
                parts.turns -= usize::from(part.turn);
                let cell = part.receiver.cell();
                drop(part);
                parts.finished.insert(cell.number(), cell.generation);
                // In a forked child the receiver's own key is another than the one that others made handles under.
                unanchor(cx, cell, self.key(parts.id))?;
                asked = 0;
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

    /// Messages that were overwritten or given up before they were read, on all channels; removed channels that were given
    /// up whole as of the last `try_recv`.
    pub fn missed(&self) -> u64 {
        let gone = self.missed_before.load(PrivateOrdering::Relaxed) + self.given_up.load(PrivateOrdering::Relaxed);
        gone + self.parts.look().receivers.iter().map(|part| part.receiver.missed()).sum::<u64>()
    }

    /// The most that one look at everything can find.
    pub fn capacity(&self) -> u64 {
        let parts = self.parts.look();
        let open: u64 = parts.receivers.iter().map(|part| part.receiver.capacity()).sum();
        let Ok(cx) = self.world.cx() else {
            return open;
        };
        let waiting = parts.waiting.cells().filter_map(|cell| cell.ring(cx).ok().flatten());
        open + waiting.map(|ring| ring.len()).sum::<u64>()
    }

    /// Was it closed?
    pub fn is_closed(&self) -> bool {
        self.parts.look().closed
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
        self.registrations.unsubscribe(&self.pattern, &self.key(parts.id).text())?;
        point!("pattern.unregistered");
        // Handles that others made for us, too, and that we have not seen.
        let parts = &mut *parts;
        let mut cells: Vec<Cell> = parts.receivers.drain(..).map(|part| part.receiver.cell()).collect();
        let mut unseen = self.discover(cx, parts)?;
        self.find_removed(cx, parts, u64::MAX, &mut unseen)?;
        cells.extend(unseen.into_iter().map(|found| found.cell).chain(parts.waiting.cells()));
        for cell in cells {
            unanchor(cx, cell, self.key(parts.id))?;
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
        cells.extend(self.parts.look().receivers.iter().flat_map(|part| part.receiver.cells()));
        cells
    }

    fn has_news(&self) -> Result<bool> {
        // Held: somebody is just taking a message.
        let Some(parts) = self.parts.try_look() else {
            return Ok(true);
        };
        let cx = self.world.cx()?;
        let seen = |parts: &Parts| {
            parts.mirror.word() == cx.word(self.directory).load(Ordering::Acquire)
                && parts.removals == cx.word(Header::removals).load(Ordering::Acquire)
        };
        if parts.closed || !seen(&parts) {
            return Ok(true);
        }
        for part in &parts.receivers {
            if part.receiver.has_news()? {
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
