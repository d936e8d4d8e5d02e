//! Listing the trie leaf by leaf, in order of place, with a cursor.
//! Promise: an entry that is there throughout is listed exactly once, however much changes meanwhile.

use super::page::{DEPTH_MAX, Entries, Entry, Page, last_below, nibble};
use super::{Attempt, Root, Stop, Trie, root_of, with_patience};
use crate::error::Result;
use crate::record::Record;
use crate::space::PAIR_MASK;

impl Trie<'_> {
    /// The next leaf's entries from `from` on, and where to go on after it.
    pub fn leaf_from(&self, from: u64) -> Result<Option<(Entries, Option<u64>)>> {
        with_patience(self, |word| self.leaf_from_root(word, from))
    }

    fn leaf_from_root(&self, word: u64, from: u64) -> Attempt<Option<(Entries, Option<u64>)>> {
        match root_of(word) {
            Root::Page(reference) => self.leaf_below(reference, 0, 0, from),
            Root::Empty | Root::Sealed => Ok(None),
        }
    }

    fn leaf_below(&self, reference: u64, depth: u32, prefix: u64, from: u64) -> Attempt<Option<(Entries, Option<u64>)>> {
        match self.page(reference).ok_or(Stop::Moved)? {
            Page::Leaf(mut entries) => {
                entries.retain(|entry| entry.place() >= from);
                Ok((!entries.is_empty()).then(|| (entries, last_below(prefix, depth).checked_add(1))))
            }
            Page::Inner(inner) => {
                if depth >= DEPTH_MAX {
                    return Err(Stop::Moved);
                }
                let first = if from > prefix { nibble(from, depth) } else { 0 };
                for index in first..16 {
                    if inner.children[index] == 0 {
                        continue;
                    }
                    let below = prefix | (index as u64) << (60 - 4 * depth);
                    if let Some(found) = self.leaf_below(inner.children[index], depth + 1, below, from)? {
                        return Ok(Some(found));
                    }
                }
                Ok(None)
            }
        }
    }

    /// Calls `see` with every entry, in order of place.
    pub fn entries(&self, mut see: impl FnMut(&Entry)) -> Result<()> {
        let mut from = Some(0);
        while let Some(cursor) = from {
            let Some((entries, next)) = self.leaf_from(cursor)? else {
                break;
            };
            entries.iter().for_each(&mut see);
            from = next;
        }
        Ok(())
    }

    /// Calls `see` with every entry between two places, both included, and its record.
    pub fn records_between(&self, first: u64, last: u64, mut see: impl FnMut(&Entry, Record)) -> Result<()> {
        let mut from = Some(first);
        while let Some(cursor) = from {
            let found = with_patience(self, |word| {
                let Some((entries, next)) = self.leaf_from_root(word, cursor)? else {
                    return Ok(None);
                };
                // A leaf and its records are listed together or again: nothing of it twice.
                let mut records = Vec::with_capacity(entries.len());
                for entry in entries.into_iter().filter(|entry| entry.place() <= last) {
                    records.push((entry, self.cx.record(entry.value).ok_or(Stop::Moved)?));
                }
                Ok(Some((records, next)))
            })?;
            let Some((records, next)) = found else {
                break;
            };
            for (entry, record) in records {
                see(&entry, record);
            }
            from = next.filter(|&next| next <= last);
        }
        Ok(())
    }

    /// Calls `see` with every entry and its record.
    pub fn records(&self, see: impl FnMut(&Entry, Record)) -> Result<()> {
        self.records_between(0, u64::MAX, see)
    }

    /// The records of all pairs whose first half has the place of `pair`.
    pub fn records_of_pair(&self, pair: u64, see: impl FnMut(&Entry, Record)) -> Result<()> {
        self.records_between(pair & PAIR_MASK, pair | !PAIR_MASK, see)
    }
}
