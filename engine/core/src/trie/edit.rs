//! Changing the trie: copy the path, swap the root, free what was replaced.

use smallvec::SmallVec;

use super::page::{COLLAPSE, Counts, DEPTH_MAX, Entries, Entry, Inner, LEAF_MAX, Page, collision, last_below, nibble};
use super::{Root, Stop, Trie, root_of, with_patience};
use crate::arena::Held;
use crate::error::Result;
use crate::record::Record;
use crate::sync::Ordering;

/// What becomes of an entry.
pub enum Change {
    /// As it was.
    Keep,
    /// It is removed; its record is freed.
    Remove,
    /// New flags over the same value.
    Mark(u64),
    /// A new record, held by us; an old one is freed.
    Put(u64, Held),
    /// An inline value.
    PutInline(u64, u64),
}

/// What becomes of an entry met by a sweep.
pub type Verdict = Change;

/// A subtree before and after.
struct Edited {
    reference: u64,
    before: Counts,
    after: Counts,
}

/// Blocks made and blocks replaced by one attempt.
#[derive(Default)]
struct Attempt {
    new: SmallVec<[Held; 12]>,
    old: SmallVec<[u64; 12]>,
    old_values: SmallVec<[u64; 4]>,
}

/// A sweep over many leaves.
struct Sweep<'f, T> {
    from: u64,
    only_marked: bool,
    budget: u32,
    next: Option<u64>,
    taken: Vec<T>,
    decide: &'f mut dyn FnMut(&Entry, &mut Vec<T>) -> std::result::Result<Verdict, Stop>,
}

/// Leaves that a sweep changes with one swap of the root.
const BATCH: u32 = 256;

impl<'a> Trie<'a> {
    /// Changes the entry at `place` for which `same` says yes, or adds one. `decide` sees the entry as
    /// it is and may run several times; only its last decision takes effect, in one swap of the root.
    /// `None`: the group is sealed.
    pub fn change<R>(
        &self,
        place: u64,
        same: impl Fn(u64) -> Option<bool>,
        mut decide: impl FnMut(Option<Entry>) -> std::result::Result<(Change, R), Stop>,
    ) -> Result<Option<R>> {
        with_patience(self, |word| {
            let root = match root_of(word) {
                Root::Sealed => return Ok(None),
                Root::Empty => None,
                Root::Page(reference) => Some(reference),
            };
            let mut attempt = Attempt::default();
            let mut result = None;
            let outcome = self.edit(root, 0, place, &same, &mut |entry| {
                let (change, value) = decide(entry)?;
                result = Some(value);
                Ok(change)
            }, &mut attempt);
            if self.commit(word, outcome, attempt)? { result.ok_or(Stop::Moved).map(Some) } else { Err(Stop::Moved) }
        })
    }

    /// `change` for entries with records: `decide` sees the record too.
    pub fn change_record<R>(
        &self,
        place: u64,
        key: &[u8],
        mut decide: impl FnMut(Option<(Entry, Record)>) -> std::result::Result<(Change, R), Stop>,
    ) -> Result<Option<R>> {
        self.change(
            place,
            |value| self.cx.has_key(value, key),
            |entry| {
                let found = match entry {
                    None => None,
                    Some(entry) => Some((entry, self.cx.record(entry.value).ok_or(Stop::Moved)?)),
                };
                decide(found)
            },
        )
    }

    /// Decides over every entry from `from` on, in order of place, changing up to 256 leaves with one
    /// swap of the root. Gives what `decide` collected and where to go on. With `only_marked`, subtrees
    /// without pending joins or leaves are skipped.
    pub fn sweep<T>(
        &self,
        from: u64,
        only_marked: bool,
        mut decide: impl FnMut(&Entry, &mut Vec<T>) -> std::result::Result<Verdict, Stop>,
    ) -> Result<(Vec<T>, Option<u64>)> {
        with_patience(self, |word| {
            let Root::Page(root) = root_of(word) else {
                return Ok((Vec::new(), None));
            };
            let mut sweep = Sweep {
                from,
                only_marked,
                budget: BATCH,
                next: None,
                taken: Vec::new(),
                decide: &mut decide,
            };
            let mut attempt = Attempt::default();
            let outcome = self.sweep_below(root, 0, 0, &mut sweep, &mut attempt);
            let (taken, next) = (sweep.taken, sweep.next);
            if self.commit(word, outcome, attempt)? { Ok((taken, next)) } else { Err(Stop::Moved) }
        })
    }

    /// Swaps the root if there is anything to swap. True: it is done.
    fn commit(&self, word: u64, outcome: std::result::Result<Option<Edited>, Stop>, attempt: Attempt) -> std::result::Result<bool, Stop> {
        let cx = self.cx;
        let give_back = |attempt: &Attempt| {
            for held in &attempt.new {
                cx.free(held.reference());
            }
        };
        match outcome {
            Err(stop) => {
                give_back(&attempt);
                Err(stop)
            }
            Ok(None) => {
                give_back(&attempt);
                Ok(true)
            }
            Ok(Some(edited)) => {
                let root = match edited.reference {
                    0 => cx.space.fresh_empty(),
                    reference => reference,
                };
                // SYNC trie.root (W): pages and records before the root that names them; pairs with (R)
                // in `with_patience`.
                if cx.word(self.root).compare_exchange(word, root, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                    give_back(&attempt);
                    return Ok(false);
                }
                for held in &attempt.new {
                    cx.make_live(held);
                }
                for &page in &attempt.old {
                    cx.free(page);
                }
                for &value in &attempt.old_values {
                    self.free_value(value);
                }
                Ok(true)
            }
        }
    }

    fn edit(
        &self,
        reference: Option<u64>,
        depth: u32,
        place: u64,
        same: &impl Fn(u64) -> Option<bool>,
        decide: &mut dyn FnMut(Option<Entry>) -> std::result::Result<Change, Stop>,
        attempt: &mut Attempt,
    ) -> std::result::Result<Option<Edited>, Stop> {
        let Some(reference) = reference else {
            let change = decide(None)?;
            let mut entries = Entries::new();
            if !self.apply(&mut entries, None, place, change, attempt) {
                return Ok(None);
            }
            return self.rebuilt(&entries, depth, Counts::default(), attempt).map(Some);
        };
        match self.page(reference).ok_or(Stop::Moved)? {
            Page::Leaf(mut entries) => {
                let mut found = None;
                for (index, entry) in entries.iter().enumerate() {
                    if entry.place() == place && same(entry.value).ok_or(Stop::Moved)? {
                        found = Some(index);
                        break;
                    }
                }
                let before = Counts::of(&entries);
                let change = decide(found.map(|index| entries[index]))?;
                if !self.apply(&mut entries, found, place, change, attempt) {
                    return Ok(None);
                }
                attempt.old.push(reference);
                self.rebuilt(&entries, depth, before, attempt).map(Some)
            }
            Page::Inner(mut inner) => {
                if depth >= DEPTH_MAX {
                    return Err(Stop::Moved);
                }
                let index = nibble(place, depth);
                let child = Some(inner.children[index]).filter(|&child| child != 0);
                let Some(edited) = self.edit(child, depth + 1, place, same, decide, attempt)? else {
                    return Ok(None);
                };
                let before = inner.counts;
                inner.children[index] = edited.reference;
                inner.counts = before.exchange(edited.before, edited.after);
                attempt.old.push(reference);
                self.inner_rebuilt(inner, place, depth, before, attempt).map(Some)
            }
        }
    }

    /// Applies a change to a leaf's entries. False: nothing changes.
    fn apply(&self, entries: &mut Entries, found: Option<usize>, place: u64, change: Change, attempt: &mut Attempt) -> bool {
        let entry = match change {
            Change::Keep => return false,
            Change::Remove => {
                let Some(index) = found else {
                    return false;
                };
                attempt.old_values.push(entries[index].value);
                entries.remove(index);
                return true;
            }
            Change::Mark(flags) => {
                let Some(index) = found else {
                    return false;
                };
                let entry = &mut entries[index];
                *entry = Entry::new(place, flags, entry.value);
                return true;
            }
            Change::Put(flags, held) => {
                attempt.new.push(held);
                Entry::new(place, flags, held.reference())
            }
            Change::PutInline(flags, value) => Entry::new(place, flags, value | super::VALUE_INLINE),
        };
        match found {
            Some(index) => {
                attempt.old_values.push(entries[index].value);
                entries[index] = entry;
            }
            None => {
                let index = entries.partition_point(|other| other.place() <= place);
                entries.insert(index, entry);
            }
        }
        true
    }

    /// Writes a leaf, or the subtree it splits into.
    fn rebuilt(&self, entries: &[Entry], depth: u32, before: Counts, attempt: &mut Attempt) -> std::result::Result<Edited, Stop> {
        let reference = if entries.is_empty() { 0 } else { self.build(entries, depth, attempt)? };
        Ok(Edited {
            reference,
            before,
            after: Counts::of(entries),
        })
    }

    fn build(&self, entries: &[Entry], depth: u32, attempt: &mut Attempt) -> std::result::Result<u64, Stop> {
        if entries.len() <= LEAF_MAX {
            let held = self.write_leaf(entries, depth)?;
            attempt.new.push(held);
            return Ok(held.reference());
        }
        if depth >= DEPTH_MAX {
            return Err(Stop::Failed(collision()));
        }
        let mut inner = Inner {
            children: [0; 16],
            counts: Counts::of(entries),
        };
        for chunk in entries.chunk_by(|a, b| nibble(a.place(), depth) == nibble(b.place(), depth)) {
            inner.children[nibble(chunk[0].place(), depth)] = self.build(chunk, depth + 1, attempt)?;
        }
        let held = self.write_inner(&inner, entries[0].place(), depth)?;
        attempt.new.push(held);
        Ok(held.reference())
    }

    /// Writes an inner page, or the leaf it shrinks to.
    fn inner_rebuilt(&self, inner: Inner, place: u64, depth: u32, before: Counts, attempt: &mut Attempt) -> std::result::Result<Edited, Stop> {
        let after = inner.counts;
        let reference = if after.total() == 0 {
            0
        } else if after.total() <= COLLAPSE {
            let mut entries = Entries::new();
            for child in inner.children.into_iter().filter(|&child| child != 0) {
                self.gather(child, depth + 1, &mut entries, attempt)?;
            }
            // What `gather` found is the truth, whatever a damaged count said.
            return self.rebuilt(&entries, depth, before, attempt);
        } else {
            let held = self.write_inner(&inner, place, depth)?;
            attempt.new.push(held);
            held.reference()
        };
        Ok(Edited {
            reference,
            before,
            after,
        })
    }

    /// Moves a subtree's entries out of its pages.
    fn gather(&self, reference: u64, depth: u32, entries: &mut Entries, attempt: &mut Attempt) -> std::result::Result<(), Stop> {
        if depth > DEPTH_MAX || entries.len() > 4 * LEAF_MAX {
            return Err(Stop::Moved);
        }
        match self.page(reference).ok_or(Stop::Moved)? {
            Page::Leaf(found) => entries.extend(found),
            Page::Inner(inner) => {
                for child in inner.children.into_iter().filter(|&child| child != 0) {
                    self.gather(child, depth + 1, entries, attempt)?;
                }
            }
        }
        if let Some(index) = attempt.new.iter().position(|held| held.reference() == reference) {
            self.cx.free(attempt.new.remove(index).reference());
        } else {
            attempt.old.push(reference);
        }
        Ok(())
    }

    fn sweep_below<T>(&self, reference: u64, depth: u32, prefix: u64, sweep: &mut Sweep<'_, T>, attempt: &mut Attempt) -> std::result::Result<Option<Edited>, Stop> {
        if last_below(prefix, depth) < sweep.from {
            return Ok(None);
        }
        if sweep.budget == 0 {
            sweep.next.get_or_insert(prefix.max(sweep.from));
            return Ok(None);
        }
        let page = self.page(reference).ok_or(Stop::Moved)?;
        let before = page.counts();
        if sweep.only_marked && before.marked() == 0 {
            return Ok(None);
        }
        match page {
            Page::Leaf(found) => {
                let mut entries = Entries::new();
                let mut changed = false;
                for entry in found {
                    let change = if entry.place() < sweep.from {
                        Change::Keep
                    } else {
                        (sweep.decide)(&entry, &mut sweep.taken)?
                    };
                    entries.push(entry);
                    let index = entries.len() - 1;
                    changed |= self.apply(&mut entries, Some(index), entry.place(), change, attempt);
                }
                if !changed {
                    return Ok(None);
                }
                sweep.budget -= 1;
                attempt.old.push(reference);
                self.rebuilt(&entries, depth, before, attempt).map(Some)
            }
            Page::Inner(mut inner) => {
                if depth >= DEPTH_MAX {
                    return Err(Stop::Moved);
                }
                let mut changed = false;
                for index in 0..16 {
                    if inner.children[index] == 0 {
                        continue;
                    }
                    let below = prefix | (index as u64) << (60 - 4 * depth);
                    if let Some(edited) = self.sweep_below(inner.children[index], depth + 1, below, sweep, attempt)? {
                        inner.children[index] = edited.reference;
                        inner.counts = inner.counts.exchange(edited.before, edited.after);
                        changed = true;
                    }
                }
                if !changed {
                    return Ok(None);
                }
                attempt.old.push(reference);
                self.inner_rebuilt(inner, prefix, depth, before, attempt).map(Some)
            }
        }
    }
}
