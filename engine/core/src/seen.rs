//! When members were seen last: said in their records' hot words, and carried on.
//!
//! Promise: when a member was seen only grows, and who is seen is not removed for having been away before. Whoever is about to replace
//! a member's record, or to remove it as stale, says so in the hot word in which others say that it was seen; those then replace
//! the record, too, and of both one comes first: the other decides again. (But where a full segment has no room for a record.)

use crate::content::Content;
use crate::error::{Error, Result};
use crate::layout::Block;
use crate::lives::HOT_MASK;
use crate::os::clock;
use crate::owned::{TAKEN, seen_of, take_over};
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

/// What becomes of the entry of a member that is told again, and whether it says anything else then. What says it already is
/// seen, and nothing more, if nobody is about to replace or remove it. (The content is made from the record's: at most its metadata
/// are others, and its owners more. Metadata end it.)
#[inline(never)]
pub(crate) fn told_again<'a>(members: &Trie<'a>, entry: Entry, content: &Content<'_>, seen: u64) -> Attempt<(Change<'a>, bool)> {
    let cx = members.cx;
    let (same, at) = cx.ends_as(entry.value, content).ok_or(Stop::Moved)?;
    let change = match same {
        true if is_seen(cx, (entry.value, at), seen) => Change::Keep,
        true => kept(members, entry, at, content, seen)?,
        false => take_over(cx, &entry, at, cx.new_record(members.root, entry.place(), content)?, seen),
    };
    Ok((change, !same))
}

/// The same content in another record. Where there is no room for one, the word must do.
fn kept<'a>(members: &Trie<'a>, entry: Entry, at: usize, content: &Content<'_>, seen: u64) -> Attempt<Change<'a>> {
    let cx = members.cx;
    match cx.shorter_record(members.root, entry.place(), content) {
        Ok(held) => Ok(take_over(cx, &entry, at, held, seen)),
        Err(Error::Full { .. }) => {
            cx.set_hot(entry.value, at, Block::hot0, |then| Some(seen_of(then).max(seen)));
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
        let content = Content::new(&record.owners, record.key(), record.value());
        Ok((kept(members, entry, record.at, &content, seen)?, true))
    })?;
    Ok(there.unwrap_or(false))
}
