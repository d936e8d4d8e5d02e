//! Entries and their owners: what becomes of them when an owner dies, detaches, or the entry leaves.
//! Promise: an owner is a slot in one incarnation, so nothing here can touch what a later process owns.

use crate::arena::Held;
use crate::content::Content;
use crate::error::Result;
use crate::layout::Block;
use crate::record::{Front, Owners, Record};
use crate::space::Context;
use crate::trie::{Attempt, Change, Entry, GONE, PENDING, Stop, Trie};

/// How a process went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// It was killed: what it alone owned leaves.
    Crash,
    /// It detached in order: its subscriptions end, its members and clients stay, ownerless.
    Clean,
    /// Nobody is left at all: everything that belongs to connections is cleared.
    Everybody,
}

/// Whose things are settled.
pub struct Dead<'a> {
    /// Owners: slot and incarnation.
    pub owners: &'a [u64],
    /// How they went.
    pub departure: Departure,
}

impl Dead<'_> {
    /// Does the entry leave? `Some(owners)`: who is left; empty: it leaves. `None`: it is not touched.
    pub fn rest_of(&self, record: &Record) -> Option<Owners> {
        if self.departure == Departure::Everybody {
            return Some(Default::default());
        }
        let rest: Owners = record.owners.iter().copied().filter(|owner| !self.owners.contains(owner)).collect();
        (rest.len() < record.owners.len()).then_some(rest)
    }
}

/// Removes dead owners from a group's records, and records that nobody owns any more.
pub(crate) fn sweep_owned(trie: &Trie<'_>, dead: &Dead<'_>) -> Result<()> {
    let mut from = Some(0);
    while let Some(cursor) = from {
        let (_, next) = trie.sweep(cursor, false, |entry, _: &mut Vec<()>| {
            let record = trie.cx.record(entry.value).ok_or(Stop::Moved)?;
            match dead.rest_of(&record) {
                None => Ok(Change::Keep),
                Some(rest) if rest.is_empty() => Ok(Change::Remove),
                Some(rest) => replaced(trie, entry, &record, &rest),
            }
        })?;
        from = next;
    }
    Ok(())
}

/// Takes this process off the owners of an entry, which is removed with its last. True: it was removed.
pub(crate) fn release_owner(trie: &Trie<'_>, key: &str) -> Result<bool> {
    let place = trie.cx.space.hash(key.as_bytes()).place();
    let released = trie.change_record(place, key.as_bytes(), |found| {
        let Some((entry, record)) = found else {
            return Ok((Change::Keep, false));
        };
        let rest: Owners = record.owners.iter().copied().filter(|&owner| owner != trie.cx.actor.owner).collect();
        match (rest.len() == record.owners.len(), rest.is_empty()) {
            (true, _) => Ok((Change::Keep, false)),
            (false, true) => Ok((Change::Remove, true)),
            (false, false) => Ok((replaced(trie, &entry, record, &rest)?, false)),
        }
    })?;
    Ok(released.unwrap_or(false))
}

/// The owners of an entry that may be there, and this process among them. True: it was not before.
#[inline(always)]
pub(crate) fn owners_and_us(cx: Context<'_>, found: Option<Entry>) -> Attempt<(Owners, bool)> {
    let mut front = Front::default();
    if let Some(entry) = found {
        cx.front(entry.value, &mut front).ok_or(Stop::Moved)?;
    }
    let added = !front.owners.contains(&cx.actor.owner);
    if added {
        front.owners.push(cx.actor.owner);
    }
    Ok((front.owners, added))
}

/// The same entry with fewer owners.
pub fn replaced<'a>(trie: &Trie<'a>, entry: &Entry, record: &Record, owners: &[u64]) -> Attempt<Change<'a>> {
    let content = Content::new(owners, record.key(), record.value());
    let held = trie.cx.shorter_record(trie.root, entry.place(), &content)?;
    carry_hot(trie.cx, record, &held);
    Ok(Change::Put(entry.flags(), held))
}

/// In a member's first hot word, when it was seen last: somebody is about to replace its record, or to remove it as stale. It stays
/// set in that record, and whoever sees the member from then on replaces the record, too.
pub(crate) const TAKEN: u64 = 1;

/// When a member was seen last, by its first hot word: monotonic microseconds, even ones.
pub(crate) const fn seen_of(value: u64) -> u64 {
    value & !TAKEN
}

/// Replaces a member's record, whose first word is known, by another, and carries on when the member was seen, at a time or later.
/// Whoever sees it from here on replaces the record, too, and one of both decides again.
pub(crate) fn take_over<'a>(cx: Context<'_>, entry: &Entry, at: usize, to: Held<'a>, seen: u64) -> Change<'a> {
    let then = cx.set_hot(entry.value, at, Block::hot0, |value| Some(value | TAKEN));
    to.set_hot(Block::hot0, then.map_or(seen, |then| seen_of(then).max(seen)));
    Change::Put(entry.flags(), to)
}

/// The same entry of a member with fewer owners.
pub(crate) fn replaced_member<'a>(members: &Trie<'a>, entry: &Entry, record: &Record, owners: &[u64]) -> Attempt<Change<'a>> {
    let content = Content::new(owners, record.key(), record.value());
    let held = members.cx.shorter_record(members.root, entry.place(), &content)?;
    Ok(take_over(members.cx, entry, record.at, held, 0))
}

/// Copies the hot words of a record to the one that replaces it.
pub(crate) fn carry_hot(cx: Context<'_>, from: &Record, to: &Held<'_>) {
    for field in [Block::hot0, Block::hot1, Block::hot2] {
        if let Some(value) = cx.hot(from.reference, from.at, field) {
            to.set_hot(field, value);
        }
    }
}

/// A member's entry when the member leaves.
pub(crate) fn leaving<'a>(entry: &Entry) -> Change<'a> {
    if entry.flags() & PENDING != 0 { Change::Remove } else { Change::Mark(GONE) }
}

/// Removes every entry of a group.
pub(crate) fn remove_all(trie: &Trie<'_>) -> Result<()> {
    let mut from = Some(0);
    while let Some(cursor) = from {
        from = trie.sweep(cursor, false, |_, _: &mut Vec<()>| Ok(Change::Remove))?.1;
    }
    Ok(())
}

/// Goes over all live members. `rest` gives who still owns one: nobody: it leaves; `None`: untouched.
/// Gives who left.
pub(crate) fn sweep_members(members: &Trie<'_>, rest: impl Fn(&Record) -> Option<Owners>) -> Result<Vec<String>> {
    let mut left = Vec::new();
    let mut from = Some(0);
    while let Some(cursor) = from {
        let (gone, next) = members.sweep(cursor, false, |entry, gone| {
            if !entry.is_live() {
                return Ok(Change::Keep);
            }
            let record = members.cx.record(entry.value).ok_or(Stop::Moved)?;
            match rest(&record) {
                None => Ok(Change::Keep),
                Some(owners) if owners.is_empty() => {
                    gone.push(record.name());
                    Ok(leaving(entry))
                }
                Some(owners) => replaced_member(members, entry, &record, &owners),
            }
        })?;
        left.extend(gone);
        from = next;
    }
    Ok(left)
}

/// Removes what dead owners alone had of a channel's members; hints are pruned by the scavenger.
pub(crate) fn settle_members(members: &Trie<'_>, dead: &Dead<'_>) -> Result<()> {
    if dead.departure == Departure::Everybody {
        return remove_all(members);
    }
    sweep_members(members, |record| dead.rest_of(record)).map(drop)
}
