//! What a channel knows of those who listen: registered clients, and the entries of open handles, which
//! publishers count and `unsubscribe` ends.

use std::sync::atomic::AtomicU64 as PrivateU64;

use crate::arena::{HOT_MASK, hot};
use crate::bound::Bound;
use crate::cells::Cell;
use crate::error::Result;
use crate::layout::{Block, Channel, state};
use crate::points::point;
use crate::record::{Owners, Record, encode};
use crate::space::{Context, Hash, PAIR_MASK};
use crate::trie::{Change, Entry, GONE};

/// In a handle's hot word: delivery has not ended.
pub(crate) const OPEN: u64 = HOT_MASK;

/// Makes each handle's key unique within its process.
static SERIAL: PrivateU64 = PrivateU64::new(0);

/// What tells a handle from all others: its client, the owner it was made for, and a number of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HandleKey {
    /// The client's id, then 8 bytes of owner and 8 of the number.
    bytes: Box<[u8]>,
    place: u64,
}

impl HandleKey {
    /// A new one of this process.
    pub fn new(cx: Context<'_>, client: &str) -> HandleKey {
        let serial = SERIAL.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        HandleKey::of(cx, client, cx.actor.owner, serial)
    }

    /// That of an owner.
    pub fn of(cx: Context<'_>, client: &str, owner: u64, serial: u64) -> HandleKey {
        let mut bytes = Vec::with_capacity(client.len() + NUMBERS);
        bytes.extend_from_slice(client.as_bytes());
        bytes.extend_from_slice(&owner.to_le_bytes());
        bytes.extend_from_slice(&serial.to_le_bytes());
        // One client's handles beside each other. The rest need not be hashed with a key: no client chooses it.
        let rest = Hash { high: (owner ^ serial.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15), low: 0 };
        HandleKey { bytes: bytes.into(), place: cx.space.hash(client.as_bytes()).pair(rest) }
    }

    /// The client's id.
    pub fn client(&self) -> &str {
        std::str::from_utf8(key_client(&self.bytes)).unwrap_or_default()
    }

    /// Owner and number.
    pub fn numbers(&self) -> [u64; 2] {
        let word = |from_end: usize| {
            let bytes = self.bytes.len().checked_sub(from_end).and_then(|at| self.bytes[at..].first_chunk::<8>());
            bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
        };
        [word(16), word(8)]
    }
}

/// A handle's key is its client's id and so many bytes that make it unique.
const NUMBERS: usize = 16;

/// The client's id in a handle's key.
pub(crate) fn key_client(key: &[u8]) -> &[u8] {
    &key[..key.len().saturating_sub(NUMBERS)]
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
    let cursor = cx.hot(record.reference, record.at, Block::hot1)?;
    Some(Shown {
        cursor: cursor.checked_sub(1).map(|cursor| start.wrapping_add(cursor)),
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

/// Adds this process to a client's registration; with `create`, makes one. False: the channel is gone.
pub(crate) fn register(cx: Context<'_>, cell: Cell, client: &str, create: bool) -> Result<bool> {
    let trie = cell.trie(cx, Channel::subscribers);
    let place = cx.space.hash(client.as_bytes()).place();
    let me = cx.actor.owner;
    let is_mine = |value| Some(cx.has_key(value, client.as_bytes())? && cx.has_owner(value, me)?);
    if trie.find(place, is_mine)?.is_some() {
        return Ok(true);
    }
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
    let mut handles = smallvec::SmallVec::<[Entry; 4]>::new();
    trie.entries_between(pair & PAIR_MASK, pair | !PAIR_MASK, |entry| handles.push(*entry))?;
    let start = cx.view().get(bound.cell.at + Channel::start);
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
        trie.change(
            entry.place(),
            |value| Some(value == entry.value),
            |found| Ok((if found.is_some() { Change::Mark(GONE) } else { Change::Keep }, ())),
        )?;
    }
    cx.tell(bound.cell.number);
    Ok(())
}

/// Adds a handle's entry to the trie of handles, unless it is there. Gives the ref and first word of its
/// record; `None`: the channel is gone. `note`: kept with the entry.
pub(crate) fn anchor(cx: Context<'_>, cell: Cell, key: &HandleKey, note: &[u8]) -> Result<Option<(u64, usize)>> {
    let trie = cell.trie(cx, Channel::handles);
    trie.change_record(key.place, &key.bytes, |found| {
        if let Some((_, record)) = found {
            return Ok((Change::Keep, (record.reference, record.at)));
        }
        let held = cx.new_record(trie.root, key.place, &encode(&key.numbers()[..1], &key.bytes, note))?;
        cx.view().set(held.at + Block::hot0, hot(state::generation(held.word), OPEN));
        Ok((Change::Put(0, held), (held.reference(), held.at)))
    })
}

/// What is kept with a handle's entry; `None`: there is no such entry.
pub(crate) fn note_of(cx: Context<'_>, cell: Cell, key: &HandleKey) -> Result<Option<Vec<u8>>> {
    let found = cell.trie(cx, Channel::handles).get(key.place, &key.bytes)?;
    Ok(found.map(|(_, record)| record.value().to_vec()))
}

/// Removes a handle's entry, and gives back what it alone kept.
pub(crate) fn unanchor(cx: Context<'_>, cell: Cell, key: &HandleKey) -> Result<()> {
    cell.trie(cx, Channel::handles).remove(key.place, |value| cx.has_key(value, &key.bytes))?;
    point!("close.unanchored");
    cell.clear_if_unused(cx)
}
