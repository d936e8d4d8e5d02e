//! Listing the trie leaf by leaf, in order of place, with a cursor.
//! Promise: an entry that is there throughout is listed exactly once, however much changes meanwhile.

use super::page::{DEPTH_MAX, Entries, Entry, Page, Step, child_of, last_below, nibble, read_leaf};
use super::{Attempt, Root, Stop, Stuck, Trie, root_of, with_patience};
use crate::error::Result;
use crate::record::Record;

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
        match self.page_at(reference, depth, prefix).ok_or(Stop::Moved)? {
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

    /// The entries of the only leaf that has places between two, copied without the pages on the way. False: there may be
    /// others.
    fn only_leaf(&self, word: u64, first: u64, last: u64, entries: &mut Entries) -> Attempt<bool> {
        // What an attempt before this one copied was not valid.
        entries.clear();
        let Root::Page(mut reference) = root_of(word) else {
            return Ok(true);
        };
        for depth in 0..DEPTH_MAX {
            let words = self.cx.page_words(reference).ok_or(Stop::Moved)?;
            let index = nibble(first, depth);
            let Some(child) = child_of(words, index) else {
                read_leaf(&Step { reference, words }, depth, entries)
                    .filter(|()| self.cx.are_still(reference, words))
                    .ok_or(Stop::Moved)?;
                return Ok(true);
            };
            if !self.cx.are_still(reference, words) {
                return Err(Stop::Moved);
            }
            if index != nibble(last, depth) {
                return Ok(false);
            }
            if child == 0 {
                return Ok(true);
            }
            reference = child;
        }
        Ok(false)
    }

    /// Calls `see` with every entry between two places, both included, in order of place.
    pub fn entries_between(&self, first: u64, last: u64, mut see: impl FnMut(&Entry)) -> Result<()> {
        let mut only = Entries::new();
        if with_patience(self, |word| self.only_leaf(word, first, last, &mut only))? {
            only.iter().filter(|entry| (first..=last).contains(&entry.place())).for_each(see);
            return Ok(());
        }
        let mut from = Some(first);
        while let Some(cursor) = from {
            let Some((entries, next)) = self.leaf_from(cursor)? else {
                break;
            };
            entries.iter().filter(|entry| entry.place() <= last).for_each(&mut see);
            from = next.filter(|&next| next <= last);
        }
        Ok(())
    }

    /// Calls `see` with every entry, in order of place.
    pub fn entries(&self, see: impl FnMut(&Entry)) -> Result<()> {
        self.entries_between(0, u64::MAX, see)
    }

    /// Calls `see` with every entry between two places, both included, and its record, one after the
    /// other: what is shown was valid when it was copied, and is shown once.
    pub fn records_between(&self, first: u64, last: u64, mut see: impl FnMut(&Entry, &Record)) -> Result<()> {
        let mut record = Record::default();
        self.places_between(first, last, |same_place| match same_place {
            [entry] => self.cx.record_into(entry.value, &mut record).map(|()| see(entry, &record)),
            several => {
                let records: Option<Vec<Record>> = several.iter().map(|entry| self.cx.record(entry.value)).collect();
                records.map(|records| several.iter().zip(&records).for_each(|(entry, record)| see(entry, record)))
            }
        })
    }

    /// Calls `see` with the entries of one place (almost always one) after those of another, between two places, both included.
    /// Where it says that a record has moved on, it is called again with what is there then, and must have shown nothing.
    pub fn places_between(&self, first: u64, last: u64, mut see: impl FnMut(&[Entry]) -> Option<()>) -> Result<()> {
        let mut stuck = Stuck::default();
        let mut from = Some(first);
        'leaves: while let Some(cursor) = from {
            let Some((entries, next)) = self.leaf_from(cursor)? else {
                break;
            };
            for same_place in entries.chunk_by(|a, b| a.place() == b.place()) {
                let place = same_place[0].place();
                if place > last {
                    break 'leaves;
                }
                // Everything before this place has been shown.
                if see(same_place).is_none() {
                    stuck.at(self)?;
                    from = Some(place);
                    continue 'leaves;
                }
            }
            from = next.filter(|&next| next <= last);
        }
        Ok(())
    }

    /// Calls `see` with every entry and its record.
    pub fn records(&self, see: impl FnMut(&Entry, &Record)) -> Result<()> {
        self.records_between(0, u64::MAX, see)
    }
}
