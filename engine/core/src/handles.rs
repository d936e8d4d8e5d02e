//! What a channel knows of those who listen: registered clients, and the entries of open handles, which
//! publishers count and `unsubscribe` ends.

use std::sync::atomic::AtomicU64 as PrivateU64;

use smallvec::SmallVec;

use crate::bound::Bound;
use crate::cells::Cell;
use crate::content::Content;
use crate::error::{Error, Result};
use crate::flag::Flag;
use crate::layout::{Block, Channel};
use crate::lives::HOT_MASK;
use crate::owned::owners_and_us;
use crate::points::point;
use crate::record::{Record, key_pair, pair_key};
use crate::space::{Context, Hash, PAIR_MASK};
use crate::trie::{Change, Entry, GONE, Root, Stop};

/// In a handle's first hot word: delivery has not ended.
pub(crate) const OPEN: u64 = HOT_MASK;
/// In a handle's second hot word: nobody has received at it yet.
pub(crate) const UNSEEN: u64 = 0;
/// In a handle's second hot word: nobody has received at it, and nobody will.
pub(crate) const GIVEN_UP: u64 = HOT_MASK;
/// The same, and what it kept is counted as missed.
pub(crate) const COUNTED: u64 = HOT_MASK - 1;

/// Makes each handle's key unique within its process.
static SERIAL: PrivateU64 = PrivateU64::new(0);

/// What tells a handle from all others of its client: the owner it was made for, and a number of its own. And where its entry
/// stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HandleId {
    owner: u64,
    serial: u64,
    place: u64,
}

impl HandleId {
    /// A new one of this process.
    pub fn new(cx: Context<'_>, client: &str) -> HandleId {
        HandleId::hashed(cx, cx.space.hash(client.as_bytes()))
    }

    /// As `new`, where the client's hash is known.
    pub fn hashed(cx: Context<'_>, hash: Hash) -> HandleId {
        let serial = SERIAL.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        HandleId::made(hash, cx.actor.owner, serial)
    }

    /// That of an owner.
    pub fn of(cx: Context<'_>, client: &str, owner: u64, serial: u64) -> HandleId {
        HandleId::made(cx.space.hash(client.as_bytes()), owner, serial)
    }

    fn made(hash: Hash, owner: u64, serial: u64) -> HandleId {
        // One client's handles beside each other. The rest need not be hashed with a key: no client chooses it.
        let rest = Hash((owner ^ serial.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        HandleId { owner, serial, place: hash.pair(rest) }
    }

    /// That of a handle's entry, if it is one's.
    pub fn of_entry(entry: &Entry, record: &Record) -> Option<HandleId> {
        let (_, numbers) = record.key().split_at_checked(record.key().len().checked_sub(NUMBERS)?)?;
        let (owner, serial) = (numbers.first_chunk()?, numbers.last_chunk()?);
        Some(HandleId { owner: u64::from_le_bytes(*owner), serial: u64::from_le_bytes(*serial), place: entry.place() })
    }

    /// The whole key, with the client's id.
    pub const fn key<'a>(&self, client: &'a [u8]) -> HandleKey<'a> {
        HandleKey { client, id: *self }
    }
}

/// What tells a handle from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HandleKey<'a> {
    client: &'a [u8],
    id: HandleId,
}

impl<'a> HandleKey<'a> {
    /// The key of its entry: the client's id, then 8 bytes of owner and 8 of the number.
    fn bytes(&self) -> SmallVec<[u8; 64]> {
        let mut bytes = SmallVec::from_slice(self.client);
        bytes.extend_from_slice(&self.id.owner.to_le_bytes());
        bytes.extend_from_slice(&self.id.serial.to_le_bytes());
        bytes
    }

    /// As text, for the second half of a pair: client, owner, number.
    pub fn text(&self) -> String {
        format!("{}\0{:x}\0{:x}", self.client(), self.id.owner, self.id.serial)
    }

    /// The key back.
    pub fn from_text(cx: Context<'_>, text: &'a str) -> Option<HandleKey<'a>> {
        let mut parts = text.rsplitn(3, '\0');
        let mut number = || u64::from_str_radix(parts.next()?, 16).ok();
        let (serial, owner) = (number()?, number()?);
        let client = parts.next()?;
        Some(HandleId::of(cx, client, owner, serial).key(client.as_bytes()))
    }

    /// The client's id, which is text unless it comes from damage.
    pub fn client(&self) -> &'a str {
        std::str::from_utf8(self.client).unwrap_or_default()
    }
}

/// A handle's key is its client's id and so many bytes that make it unique.
const NUMBERS: usize = 16;

/// The client's id in a handle's key.
pub(crate) fn key_client(key: &[u8]) -> &[u8] {
    &key[..key.len().saturating_sub(NUMBERS)]
}

/// When a handle was made for a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Made {
    /// Before the channel had its name.
    InTime = 0,
    /// After that, because the pattern was registered meanwhile.
    Late = 1,
}

/// What is kept with a handle that somebody else made for a pattern: for an owner that finds it when the channel's name
/// is gone again, and for whoever gives it up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    pub made: Made,
    pub pattern: String,
    /// The channel's name.
    pub name: String,
}

impl Note {
    pub fn encode(&self) -> Vec<u8> {
        [&[self.made as u8][..], &pair_key(&self.pattern, &self.name)].concat()
    }

    /// `None`: its owner made the handle.
    pub fn decode(bytes: &[u8]) -> Option<Note> {
        let (&made, pair) = bytes.split_first()?;
        let (pattern, name) = key_pair(pair)?;
        Some(Note { made: if made == Made::InTime as u8 { Made::InTime } else { Made::Late }, pattern, name })
    }
}

/// What a handle's second hot word says once its owner has received up to a sequence of its channel.
pub(crate) const fn showing(cursor: u64, start: u64) -> u64 {
    cursor.wrapping_sub(start).wrapping_add(1) & HOT_MASK
}

/// Shows in a handle's entry how far its owner is.
#[inline(always)]
pub(crate) fn show(cx: Context<'_>, (reference, at): (u64, usize), cursor: u64, start: u64) {
    cx.set_hot(reference, at, Block::hot1, |_| Some(showing(cursor, start)));
}

/// Begins to receive at a handle, at a sequence of its channel. False: what it kept was given up before.
pub(crate) fn take_up(cx: Context<'_>, cell: Cell, (reference, at): (u64, usize), cursor: u64, start: u64) -> bool {
    let is_given_up = |shown| matches!(shown, GIVEN_UP | COUNTED);
    match cx.set_hot(reference, at, Block::hot1, |shown| (!is_given_up(shown)).then_some(showing(cursor, start))) {
        Some(shown) => !is_given_up(shown),
        // The entry has left: with its channel, or because we were taken for dead, and then it is made again.
        None => cell.is_open(cx),
    }
}

/// Where a handle's entry says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shown {
    /// The sequence that it receives next, as last noted.
    pub cursor: Option<u64>,
    /// The sequence at which its delivery ended.
    pub end: Option<u64>,
}

/// Where a handle's entry says that it is; `None`: the entry is gone. `start`: of the channel's life.
pub(crate) fn shown(cx: Context<'_>, record: &Record, start: u64) -> Option<Shown> {
    let end = cx.hot(record.reference, record.at, Block::hot0)?;
    let shown = cx.hot(record.reference, record.at, Block::hot1)?;
    Some(Shown {
        cursor: (!matches!(shown, UNSEEN | GIVEN_UP | COUNTED)).then(|| start.wrapping_add(shown - 1)),
        end: (end != OPEN).then(|| start.wrapping_add(end)),
    })
}

/// After how many messages a busy handle shows how far it is.
#[inline]
pub(crate) const fn stride(ring: u64) -> u64 {
    let eighth = ring / 8;
    if eighth < 1 {
        1
    } else if eighth > 64 {
        64
    } else {
        eighth
    }
}

/// Adds this process to a client's registration; with `create`, makes one. Was it added just now? `None`: the channel is gone.
pub(crate) fn register(cx: Context<'_>, cell: Cell, (client, hash): (&str, Hash), create: bool) -> Result<Option<bool>> {
    let trie = cell.trie(cx, Channel::subscribers);
    let (place, me) = (hash.place(), cx.actor.owner);
    let same = |value| cx.has_key(value, client.as_bytes());
    // Somebody who comes again is registered already.
    if trie.find(place, same)?.is_some_and(|entry| cx.has_owner(entry.value, me) == Some(true)) {
        return Ok(Some(false));
    }
    trie.change(place, same, |found| {
        if found.is_none() && !create {
            return Ok((Change::Keep, false));
        }
        let (owners, added) = owners_and_us(cx, found)?;
        if !added {
            return Ok((Change::Keep, false));
        }
        let held = cx.new_record(trie.root, place, &Content::new(&owners, client.as_bytes(), &[]))?;
        Ok((Change::Put(0, held), true))
    })
}

/// The first place that a client's handles may have.
pub(crate) const fn first_of(client: Hash) -> u64 {
    client.0 & PAIR_MASK
}

/// Ends delivery to all handles of a client: each gets what was published until now.
pub(crate) fn end_handles(cx: Context<'_>, bound: &Bound, (client, hash): (&str, Hash)) -> Result<()> {
    let trie = bound.cell.trie(cx, Channel::handles);
    let mut handles = SmallVec::<[Entry; 4]>::new();
    trie.entries_between(first_of(hash), hash.0 | !PAIR_MASK, |entry| handles.push(*entry))?;
    let start = cx.view().get(bound.cell.at() + Channel::start);
    for entry in handles.into_iter().filter(Entry::is_live) {
        // One that moves on meanwhile is closed by its owner.
        let (Some((_, at)), Some(true)) = (cx.life(entry.value), cx.has_key_from(entry.value, client.as_bytes(), client.len() + NUMBERS))
        else {
            continue;
        };
        let end = bound.ring.head(cx).wrapping_sub(start) & HOT_MASK;
        cx.set_hot(entry.value, at, Block::hot0, |value| (value == OPEN).then_some(end.min(OPEN - 1)));
        point!("unsubscribe.ended");
        // Not live any more, so not counted by publishers, but there until its owner closes it: it
        // keeps what is left to drain.
        let marked = trie.change(
            entry.place(),
            |value| Some(value == entry.value),
            |found| Ok((if found.is_some() { Change::Mark(GONE) } else { Change::Keep }, ())),
        );
        match marked {
            // A page may be needed for the mark, where there was none. Its delivery has ended: it is only counted until it is closed.
            Ok(_) | Err(Error::Full { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    cx.tell(bound.cell.number());
    Ok(())
}

/// A handle's entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Anchored {
    /// The ref of its record, and its first word.
    pub reference: u64,
    pub at: usize,
    /// Was it made just now?
    pub new: Flag,
}

/// Adds a handle's entry to the trie of handles, unless it is there; `None`: the channel is gone. `note`: kept with the entry.
/// `shown`: what its second hot word says, if it is new.
pub(crate) fn anchor(cx: Context<'_>, cell: Cell, key: HandleKey<'_>, note: &[u8], shown: u64) -> Result<Option<Anchored>> {
    let trie = cell.trie(cx, Channel::handles);
    let made = || {
        let numbers = [key.id.owner.to_le_bytes(), key.id.serial.to_le_bytes()];
        let content = Content { owners: &[key.id.owner], key: [key.client, numbers.as_flattened()], value: [note, &[]] };
        let held = cx.new_record(trie.root, key.id.place, &content)?;
        held.set_hot(Block::hot0, OPEN);
        held.set_hot(Block::hot1, shown);
        Ok::<_, Error>((held, Anchored { reference: held.reference, at: cx.index_of(&held), new: Flag::YES }))
    };
    // The first of a channel needs no page.
    if trie.root() == Root::Empty {
        let (held, anchored) = made()?;
        if trie.put_first(&held) {
            return Ok(Some(anchored));
        }
        cx.free(held.reference);
    }
    let same = |value| cx.has_key(value, &key.bytes());
    trie.change(key.id.place, same, |found| {
        if let Some(entry) = found {
            let (_, at) = cx.life(entry.value).ok_or(Stop::Moved)?;
            return Ok((Change::Keep, Anchored { reference: entry.value, at, new: Flag::NO }));
        }
        let (held, anchored) = made()?;
        Ok((Change::Put(0, held), anchored))
    })
}

/// The record of a handle's entry; `None`: there is no such entry.
pub(crate) fn handle_of(cx: Context<'_>, cell: Cell, key: HandleKey<'_>) -> Result<Option<Record>> {
    let found = cell.trie(cx, Channel::handles).get(key.id.place, &key.bytes())?;
    Ok(found.map(|(_, record)| record))
}

/// Removes a handle's entry, and gives back what it alone kept.
pub(crate) fn unanchor(cx: Context<'_>, cell: Cell, key: HandleKey<'_>) -> Result<()> {
    unanchor_known(cx, cell, key, 0)
}

/// The same, of which the ref is known if it was not replaced.
pub(crate) fn unanchor_known(cx: Context<'_>, cell: Cell, key: HandleKey<'_>, reference: u64) -> Result<()> {
    let trie = cell.trie(cx, Channel::handles);
    if !trie.remove_lone(reference) {
        let same = |value| if value == reference { Some(true) } else { cx.has_key(value, &key.bytes()) };
        trie.remove(key.id.place, same)?;
    }
    point!("close.unanchored");
    cell.clear_if_unused(cx)
}
