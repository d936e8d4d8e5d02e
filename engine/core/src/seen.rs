//! When members were seen last: said in their records' hot words, and carried on.
//!
//! Promise: when a member was seen only grows, and who is seen is not removed for having been away before. Whoever is about to replace
//! a member's record, or to remove it as stale, says so in the hot word in which others say that it was seen; those then replace
//! the record, too, and of both one comes first: the other decides again. (But where a full segment has no room for a record.)

use crate::content::{Content, ends_with, word_at};
use crate::error::{Error, Result};
use crate::flag::Flag;
use crate::geometry::Geometry;
use crate::layout::Block;
use crate::lives::HOT_MASK;
use crate::member::{JOINED, joined_of, metadata_of};
use crate::os::clock;
use crate::owned::{TAKEN, seen_of, take_over};
use crate::record::{Record, end_of};
use crate::space::Context;
use crate::trie::{Attempt, Change, Entry, Stop, Trie};

/// The time now for a member that joined at another, which is always before it: so a member who was there before shows.
pub(crate) fn seen_since(joined: u64) -> u64 {
    seen_of((clock::tick_micros() & HOT_MASK).max(joined.saturating_add(2)) & HOT_MASK)
}

/// What becomes of a member's first hot word when it is seen at a time; `None`: it stays.
pub(crate) fn sooner(value: u64, seen: u64) -> Option<u64> {
    (value & TAKEN == 0 && value < seen).then_some(seen)
}

/// Says in a record's hot word that its member was seen. False: the record is about to be replaced or removed.
fn is_seen(cx: Context<'_>, (reference, at): (u64, usize), seen: u64) -> bool {
    cx.set_hot(reference, at, Block::hot0, |then| sooner(then, seen)).is_some_and(|value| value & TAKEN == 0)
}

/// What telling a member's metadata has done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Told {
    /// When it joined and was seen, monotonic microseconds: the same if it was not there before.
    pub joined: u64,
    pub seen: u64,
    /// Does it say anything else now?
    pub changed: Flag,
}

impl Told {
    pub fn of(joined: u64, changed: bool) -> Told {
        Told { joined, seen: seen_since(joined), changed: changed.into() }
    }
}

/// What becomes of the entry of a member that is there when its metadata are told, by who owns it or leaves the owners as they are.
/// What says them already is seen, and nothing more, if nobody is about to replace or remove it. `told`: what that has done.
#[inline(always)]
pub(crate) fn told_again<'a>(members: &Trie<'a>, entry: Entry, metadata: &[u8], told: &mut Told) -> Attempt<Change<'a>> {
    let cx = members.cx;
    let words = cx.words_of(entry.value).ok_or(Stop::Moved)?;
    // Metadata end a record.
    let Some(end) = end_of(words, JOINED).filter(|end| end + metadata.len() <= Geometry::payload(0)) else {
        return told_at_length(members, entry, metadata, told);
    };
    *told = Told::of(word_at(words, end - JOINED), !ends_with(words, end, metadata));
    if !told.changed.is_set() {
        cx.are_still(entry.value, words).then_some(()).ok_or(Stop::Moved)?;
        return seen_again(members, entry, cx.view().index_of(words), told.seen);
    }
    let held = cx.with_other_end(members.root, entry.place(), (words, end), metadata)?;
    // Copied, then validated.
    if !cx.are_still(entry.value, words) {
        cx.free(held.reference);
        return Err(Stop::Moved);
    }
    Ok(take_over(cx, &entry, cx.view().index_of(words), held, told.seen))
}

/// The same where a record does not lie in one small block, or will not.
#[cold]
#[inline(never)]
fn told_at_length<'a>(members: &Trie<'a>, entry: Entry, metadata: &[u8], told: &mut Told) -> Attempt<Change<'a>> {
    let cx = members.cx;
    let record = cx.record(entry.value).ok_or(Stop::Moved)?;
    let joined = joined_of(&record).unwrap_or(0);
    *told = Told::of(joined, metadata_of(&record) != metadata);
    if !told.changed.is_set() {
        return seen_again(members, entry, record.at, told.seen);
    }
    let content = Content { owners: &record.owners, key: [record.key(), &[]], value: [&joined.to_le_bytes(), metadata] };
    Ok(take_over(cx, &entry, record.at, cx.new_record(members.root, entry.place(), &content)?, told.seen))
}

/// A member whose record stays as it is was seen.
fn seen_again<'a>(members: &Trie<'a>, entry: Entry, at: usize, seen: u64) -> Attempt<Change<'a>> {
    if is_seen(members.cx, (entry.value, at), seen) {
        return Ok(Change::Keep);
    }
    let record = members.cx.record(entry.value).ok_or(Stop::Moved)?;
    kept(members, entry, &record, seen)
}

/// The same content in another record. Where there is no room for one, the word must do.
fn kept<'a>(members: &Trie<'a>, entry: Entry, record: &Record, seen: u64) -> Attempt<Change<'a>> {
    let cx = members.cx;
    match cx.shorter_record(members.root, entry.place(), &Content::new(&record.owners, record.key(), record.value())) {
        Ok(held) => Ok(take_over(cx, &entry, record.at, held, seen)),
        Err(Error::Full { .. }) => {
            cx.set_hot(entry.value, record.at, Block::hot0, |then| Some(seen_of(then).max(seen)));
            Ok(Change::Keep)
        }
        Err(error) => Err(error.into()),
    }
}

/// Keeps a member whose record somebody is about to replace or remove. False: it is out.
#[cold]
pub(crate) fn keep_after_all(members: &Trie<'_>, (place, client): (u64, &str), seen: u64) -> Result<bool> {
    let there = members.change_record(place, client.as_bytes(), |found| {
        let Some((entry, record)) = found.filter(|(entry, _)| entry.is_live()) else {
            return Ok((Change::Keep, false));
        };
        Ok((kept(members, entry, record, seen)?, true))
    })?;
    Ok(there.unwrap_or(false))
}
