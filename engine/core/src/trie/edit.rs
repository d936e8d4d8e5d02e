//! Changing the trie: copy the path, swap the root, free what was replaced.

use smallvec::SmallVec;

use super::page::{
    COLLAPSE, Counts, DEPTH_MAX, Edit, Entries, Entry, Inner, LEAF_MAX, Page, Step, child_of, collision, lone_entry, nibble, prefix,
    read_counts, read_leaf,
};
use super::{Attempt, Root, Stop, Trie, root_of, with_patience};
use crate::arena::Held;
use crate::error::Result;
use crate::mutants::without;
use crate::points::point;
use crate::record::Record;
use crate::sync::{Ordering, fence_after_swap};

/// What becomes of an entry.
pub enum Change<'a> {
    /// As it was.
    Keep,
    /// It is removed; its record is freed.
    Remove,
    /// New flags over the same value.
    Mark(u64),
    /// A new record, held by us; an old one is freed.
    Put(u64, Held<'a>),
    /// An inline value.
    PutInline(u64, u64),
}

/// What becomes of an entry met by a sweep.
pub type Verdict<'a> = Change<'a>;

/// A subtree before and after. What its counts differ by is what counts: entries that are the same in both may be left out of
/// both.
pub(super) struct Edited {
    pub reference: u64,
    pub before: Counts,
    pub after: Counts,
}

/// Blocks made and blocks replaced by one attempt.
#[derive(Default)]
pub(super) struct Draft<'a> {
    pub new: SmallVec<[Held<'a>; 12]>,
    pub old: SmallVec<[u64; 12]>,
    pub old_values: SmallVec<[u64; 4]>,
    /// Is an entry added?
    pub grows: bool,
}

/// What a change makes of an entry that was found at an index, or of none. `None`: nothing changes.
#[inline(always)]
pub(super) fn planned<'a>(change: Change<'a>, found: Option<Entry>, index: usize, place: u64, draft: &mut Draft<'a>) -> Option<Edit> {
    let entry = match change {
        Change::Keep => return None,
        Change::Remove => {
            draft.old_values.push(found?.value);
            return Some(Edit::Remove(index));
        }
        Change::Mark(flags) => return Some(Edit::Replace(index, Entry::new(place, flags, found?.value))),
        Change::Put(flags, held) => {
            draft.new.push(held);
            Entry::new(place, flags, held.reference)
        }
        Change::PutInline(flags, value) => Entry::new(place, flags, value | super::VALUE_INLINE),
    };
    if let Some(found) = found {
        draft.old_values.push(found.value);
        return Some(Edit::Replace(index, entry));
    }
    draft.grows = true;
    Some(Edit::Insert(index, entry))
}

pub(super) type Path<'a> = SmallVec<[Step<'a>; 6]>;

/// Where an entry is, or would be.
#[derive(Default)]
struct Spot<'a> {
    /// The inner pages on the way there.
    path: Path<'a>,
    leaf: Option<Step<'a>>,
    /// How many entries the leaf has, and where this is among them.
    count: usize,
    index: usize,
    entry: Option<Entry>,
}

impl<'a> Trie<'a> {
    /// Changes the entry at `place` for which `same` says yes, or adds one. `decide` sees the entry as
    /// it is and may run several times; only its last decision takes effect, in one swap of the root.
    /// `None`: the group is sealed.
    pub fn change<R>(
        &self,
        place: u64,
        same: impl Fn(u64) -> Option<bool>,
        mut decide: impl FnMut(Option<Entry>) -> Attempt<(Change<'a>, R)>,
    ) -> Result<Option<R>> {
        with_patience(self, |word| {
            let root = match root_of(word) {
                Root::Sealed => return Ok(None),
                Root::Empty => None,
                Root::Page(reference) => Some(reference),
            };
            let mut draft = Draft::default();
            let mut result = None;
            let outcome = self.edit(
                root,
                place,
                &same,
                |entry| {
                    let (change, value) = decide(entry)?;
                    result = Some(value);
                    Ok(change)
                },
                &mut draft,
            );
            if self.commit(word, outcome, &draft)? { result.ok_or(Stop::Moved).map(Some) } else { Err(Stop::Moved) }
        })
    }

    /// `change` for entries with records: `decide` sees the record too.
    pub fn change_record<R>(
        &self,
        place: u64,
        key: &[u8],
        mut decide: impl FnMut(Option<(Entry, &Record)>) -> Attempt<(Change<'a>, R)>,
    ) -> Result<Option<R>> {
        let mut record = Record::default();
        self.change(
            place,
            |value| self.cx.has_key(value, key),
            |entry| {
                let Some(entry) = entry else {
                    return decide(None);
                };
                self.cx.record_into(entry.value, &mut record).ok_or(Stop::Moved)?;
                decide(Some((entry, &record)))
            },
        )
    }

    /// Removes the entry at `place` for which `same` says yes. False: there was none.
    pub fn remove(&self, place: u64, same: impl Fn(u64) -> Option<bool>) -> Result<bool> {
        let to = |found: &Option<Entry>| if found.is_some() { Change::Remove } else { Change::Keep };
        let removed = self.change(place, same, |found| Ok((to(&found), found.is_some())))?;
        Ok(removed.unwrap_or(false))
    }

    /// Swaps the root for another page, if any, or none. True: it is done.
    pub(super) fn commit(&self, word: u64, outcome: Attempt<Option<u64>>, draft: &Draft<'_>) -> Attempt<bool> {
        let cx = self.cx;
        let give_back = |draft: &Draft<'_>| {
            for held in &draft.new {
                cx.free(held.reference);
            }
        };
        match outcome {
            Err(stop) => {
                give_back(draft);
                Err(stop)
            }
            Ok(None) => {
                give_back(draft);
                Ok(true)
            }
            Ok(Some(reference)) => {
                let root = match reference {
                    0 => cx.space.fresh_empty(),
                    reference => reference,
                };
                if without("live_after_root") {
                    draft.new.iter().for_each(|held| cx.make_live(held));
                }
                if !self.swap(word, root) {
                    give_back(draft);
                    return Ok(false);
                }
                for held in &draft.new {
                    cx.make_live(held);
                    point!("change.live");
                }
                // SYNC trie.moved (W): the root was swapped before its pages are freed; pairs with (R) in `Stuck::at`.
                for &page in &draft.old {
                    cx.free(page);
                    point!("change.freed");
                }
                for &value in &draft.old_values {
                    self.free_value(value);
                    point!("change.done");
                }
                Ok(true)
            }
        }
    }

    /// One swap is the whole change.
    #[inline(always)]
    fn swap(&self, word: u64, root: u64) -> bool {
        point!("change.drafted");
        // SYNC trie.root (W): pages and records before the root that names them; pairs with (R) in `Trie::word`.
        if self.cx.word(self.root).compare_exchange(word, root, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            return false;
        }
        point!("change.swapped");
        // Two processes that each change one tree and then look at the other's do not miss each other.
        fence_after_swap();
        true
    }

    /// Makes a record, held by us and without flags, the only entry of a group that is empty. False: it is not, or is no more;
    /// the record is still held.
    pub fn put_first(&self, record: &Held<'a>) -> bool {
        let word = self.word();
        let done = root_of(word) == Root::Empty && self.swap(word, record.reference);
        if done {
            self.cx.make_live(record);
            point!("change.live");
        }
        done
    }

    /// Removes the only entry of a group, of whose record this is the ref. False: there are others, or it is not there.
    pub fn remove_lone(&self, reference: u64) -> bool {
        let word = self.word();
        // SYNC trie.moved (W): the root was swapped before its record is freed; pairs with (R) in `Stuck::at`.
        let done = root_of(word) == Root::Page(reference) && self.swap(word, self.cx.space.fresh_empty());
        if done {
            self.cx.free(reference);
            point!("change.done");
        }
        done
    }

    /// Changes one entry: down to its leaf, then up again, page by page, with copies of the path. Gives the ref of the new root
    /// page, 0 for none; `None`: nothing changes.
    fn edit(
        &self,
        root: Option<u64>,
        place: u64,
        same: &impl Fn(u64) -> Option<bool>,
        decide: impl FnOnce(Option<Entry>) -> Attempt<Change<'a>>,
        draft: &mut Draft<'a>,
    ) -> Attempt<Option<u64>> {
        let mut spot = Spot::default();
        spot.leaf = self.descend(root, place, &mut spot.path)?;
        if let Some(leaf) = &spot.leaf {
            (spot.count, spot.index, spot.entry) = self.look_up(leaf, spot.path.len() as u32, place, same)?;
        }
        let change = decide(spot.entry)?;
        self.changed(&mut spot, place, change, draft)
    }

    /// The same from its leaf on. (One for all kinds of changes: what any of them ran is in the caches.)
    #[inline(never)]
    fn changed(&self, spot: &mut Spot<'a>, place: u64, change: Change<'a>, draft: &mut Draft<'a>) -> Attempt<Option<u64>> {
        let Some(edit) = planned(change, spot.entry, spot.index, place, draft) else {
            return Ok(None);
        };
        let after = match edit {
            Edit::Replace(_, entry) | Edit::Insert(_, entry) => Some(entry),
            Edit::Remove(_) => None,
        };
        let mut reference = self.changed_leaf(spot.leaf.take(), spot.count, &edit, place, spot.path.len() as u32, draft)?;
        let (before, after) = (Counts::of(&spot.entry), Counts::of(&after));
        while let Some(step) = spot.path.pop() {
            reference = self.changed_inner(&step, spot.path.len() as u32, place, (reference, before, after), draft)?;
        }
        Ok(Some(reference))
    }

    /// The leaf at a place, if there is one; `path`: the inner pages on the way there.
    #[inline(always)]
    pub(super) fn descend(&self, root: Option<u64>, place: u64, path: &mut Path<'a>) -> Attempt<Option<Step<'a>>> {
        let mut next = root;
        while let Some(reference) = next {
            let words = self.cx.page_words(reference).ok_or(Stop::Moved)?;
            let step = Step { reference, words };
            let depth = path.len() as u32;
            let Some(child) = child_of(words, nibble(place, depth)).filter(|_| depth < DEPTH_MAX) else {
                return Ok(Some(step));
            };
            if !self.cx.are_still(reference, words) {
                return Err(Stop::Moved);
            }
            path.push(step);
            next = Some(child).filter(|&child| child != 0);
        }
        Ok(None)
    }

    /// A leaf with one entry changed: nothing, a leaf, or the subtree it splits into.
    fn changed_leaf(
        &self,
        leaf: Option<Step<'a>>,
        count: usize,
        edit: &Edit,
        place: u64,
        depth: u32,
        draft: &mut Draft<'a>,
    ) -> Attempt<u64> {
        let Some(leaf) = leaf else {
            let Edit::Insert(_, entry) = *edit else {
                return Ok(0);
            };
            // Nothing at all is there: the root names the record.
            return if depth == 0 && entry.may_be_lone() { Ok(entry.value) } else { self.build(&[entry], depth, draft) };
        };
        if let Some(lone) = lone_entry(&leaf, depth) {
            return self.changed_lone(lone, edit, draft);
        }
        draft.old.push(leaf.reference);
        match *edit {
            Edit::Remove(_) if count <= 1 => return Ok(0),
            Edit::Insert(index, entry) if count >= LEAF_MAX => {
                let mut entries = Entries::new();
                read_leaf(&leaf, depth, &mut entries).filter(|()| self.cx.are_still(leaf.reference, leaf.words)).ok_or(Stop::Moved)?;
                entries.insert(index.min(entries.len()), entry);
                return self.build(&entries, depth, draft);
            }
            _ => {}
        }
        let held = self.copy_leaf(leaf.words, count, edit, place, depth, draft.grows)?;
        draft.new.push(held);
        // Copied, then validated.
        if !self.cx.are_still(leaf.reference, leaf.words) {
            return Err(Stop::Moved);
        }
        Ok(held.reference)
    }

    /// The same where the root names the only entry's record, which is freed with the entry and not as a page.
    fn changed_lone(&self, lone: Entry, edit: &Edit, draft: &mut Draft<'a>) -> Attempt<u64> {
        match *edit {
            Edit::Remove(_) => Ok(0),
            Edit::Replace(_, entry) if entry.may_be_lone() => Ok(entry.value),
            Edit::Replace(_, entry) => {
                // It takes a page and gives none back.
                draft.grows = true;
                self.build(&[entry], 0, draft)
            }
            Edit::Insert(0, entry) => self.build(&[entry, lone], 0, draft),
            Edit::Insert(_, entry) => self.build(&[lone, entry], 0, draft),
        }
    }

    /// An inner page with one child replaced, whose counts before and after differ as much, or what it shrinks to.
    #[inline(always)]
    pub(super) fn changed_inner(
        &self,
        step: &Step<'_>,
        depth: u32,
        place: u64,
        child: (u64, Counts, Counts),
        draft: &mut Draft<'a>,
    ) -> Attempt<u64> {
        let after = read_counts(step.words).exchange(child.1, child.2);
        if after.total() <= COLLAPSE {
            return self.shrunk(step, depth, place, child, draft);
        }
        let held = self.copy_inner(step.words, (nibble(place, depth), child.0), after, place, depth, draft.grows)?;
        draft.new.push(held);
        // Copied, then validated.
        if !self.cx.are_still(step.reference, step.words) {
            return Err(Stop::Moved);
        }
        draft.old.push(step.reference);
        Ok(held.reference)
    }

    #[inline(never)]
    fn shrunk(
        &self,
        step: &Step<'_>,
        depth: u32,
        place: u64,
        (child, before, after): (u64, Counts, Counts),
        draft: &mut Draft<'a>,
    ) -> Attempt<u64> {
        let Some(Page::Inner(mut inner)) = self.page(step.reference) else {
            return Err(Stop::Moved);
        };
        let all = inner.counts;
        inner.children[nibble(place, depth)] = child;
        inner.counts = all.exchange(before, after);
        draft.old.push(step.reference);
        Ok(self.inner_rebuilt(inner, place, depth, all, draft)?.reference)
    }

    /// What any of a leaf's entries may have changed in: nothing, a leaf, or the subtree it splits into.
    pub(super) fn rebuilt(&self, entries: &[Entry], depth: u32, before: Counts, draft: &mut Draft<'a>) -> Attempt<Edited> {
        let reference = if entries.is_empty() { 0 } else { self.build(entries, depth, draft)? };
        Ok(Edited { reference, before, after: Counts::of(entries) })
    }

    /// Writes a leaf, or the subtree it splits into.
    fn build(&self, entries: &[Entry], depth: u32, draft: &mut Draft<'a>) -> Attempt<u64> {
        if entries.len() <= LEAF_MAX {
            let held = self.write_leaf(entries, depth, draft.grows)?;
            draft.new.push(held);
            return Ok(held.reference);
        }
        if depth >= DEPTH_MAX {
            return Err(Stop::Failed(collision()));
        }
        let mut inner = Inner { children: [0; 16], counts: Counts::of(entries) };
        for chunk in entries.chunk_by(|a, b| nibble(a.place(), depth) == nibble(b.place(), depth)) {
            inner.children[nibble(chunk[0].place(), depth)] = self.build(chunk, depth + 1, draft)?;
        }
        let held = self.write_inner(&inner, entries[0].place(), depth, draft.grows)?;
        draft.new.push(held);
        Ok(held.reference)
    }

    /// Writes an inner page, or the leaf it shrinks to.
    pub(super) fn inner_rebuilt(&self, inner: Inner, place: u64, depth: u32, before: Counts, draft: &mut Draft<'a>) -> Attempt<Edited> {
        let after = inner.counts;
        let reference = if after.total() == 0 {
            0
        } else if after.total() <= COLLAPSE {
            let mut entries = Entries::new();
            for (child, below) in inner.below(prefix(place, depth), depth) {
                self.gather(child, depth + 1, below, &mut entries, draft)?;
            }
            // What `gather` found is the truth, whatever a damaged count said.
            return self.rebuilt(&entries, depth, before, draft);
        } else {
            let held = self.write_inner(&inner, place, depth, draft.grows)?;
            draft.new.push(held);
            held.reference
        };
        Ok(Edited { reference, before, after })
    }

    /// Moves a subtree's entries out of its pages.
    fn gather(&self, reference: u64, depth: u32, prefix: u64, entries: &mut Entries, draft: &mut Draft<'a>) -> Attempt<()> {
        if depth > DEPTH_MAX || entries.len() > 4 * LEAF_MAX {
            return Err(Stop::Moved);
        }
        match self.page_at(reference, depth, prefix).ok_or(Stop::Moved)? {
            Page::Leaf(found) => entries.extend(found),
            Page::Inner(inner) => {
                for (child, below) in inner.below(prefix, depth) {
                    self.gather(child, depth + 1, below, entries, draft)?;
                }
            }
        }
        if let Some(index) = draft.new.iter().position(|held| held.reference == reference) {
            self.cx.free(draft.new.remove(index).reference);
        } else {
            draft.old.push(reference);
        }
        Ok(())
    }
}
