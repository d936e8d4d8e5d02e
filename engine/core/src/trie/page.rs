//! Pages of the trie: what a leaf and an inner page hold, copied out and validated, and written.

use smallvec::SmallVec;

use super::{Attempt, Stop, Trie, VALUE_INLINE};
use crate::arena::{Held, Info, SMALL};
use crate::error::{Error, Result};
use crate::layout::{Block, kind};
use crate::mutants::without;
use crate::record::back_of;
use crate::sync::Ordering;
use crate::view::{COPIED, SMALL_WORDS, View, Words};

/// Most entries of a leaf.
pub const LEAF_MAX: usize = 12;
/// An inner page with no more entries than this below it becomes a leaf again.
pub const COLLAPSE: u64 = 8;
/// 15 nibbles of place; pages at this depth are leaves of equal places.
pub const DEPTH_MAX: u32 = 15;

/// The entry is live and a pending join.
pub const PENDING: u64 = 1;
/// The entry is not live: a leave that nobody has taken yet.
pub const GONE: u64 = 2;

/// An entry of a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// place:60 | flags:4.
    pub word: u64,
    /// The ref of its record, or an inline value.
    pub value: u64,
}

impl Entry {
    /// Packs an entry.
    pub const fn new(place: u64, flags: u64, value: u64) -> Entry {
        Entry { word: place & !0xf | flags & 0xf, value }
    }
    /// Where it stands: the upper 60 bits.
    #[inline(always)]
    pub const fn place(&self) -> u64 {
        self.word & !0xf
    }
    /// PENDING and GONE.
    #[inline(always)]
    pub const fn flags(&self) -> u64 {
        self.word & 0xf
    }
    /// Is it there, as opposed to a leave not yet taken?
    #[inline(always)]
    pub const fn is_live(&self) -> bool {
        self.word & GONE == 0
    }
    /// May the root name its record in place of a leaf, if it is the only one?
    #[inline(always)]
    pub(super) const fn may_be_lone(&self) -> bool {
        self.flags() == 0 && self.value & VALUE_INLINE == 0
    }
}

/// How many entries are below a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Live entries.
    pub live: u64,
    /// Live entries that are pending joins.
    pub pending: u64,
    /// Leaves not yet taken.
    pub gone: u64,
}

impl Counts {
    /// Entries of every kind.
    pub const fn total(self) -> u64 {
        self.live.wrapping_add(self.gone)
    }
    /// Entries that a flush would take.
    pub const fn marked(self) -> u64 {
        self.pending.wrapping_add(self.gone)
    }
    #[inline(always)]
    pub(super) fn of<'e>(entries: impl IntoIterator<Item = &'e Entry>) -> Counts {
        let mut counts = Counts::default();
        for entry in entries {
            counts.live += u64::from(entry.is_live());
            counts.gone += u64::from(!entry.is_live());
            counts.pending += u64::from(entry.is_live() && entry.flags() & PENDING != 0);
        }
        counts
    }
    // Wrapping: what is read may be damaged, and a wrong count is then all the harm.
    pub(super) fn exchange(self, old: Counts, new: Counts) -> Counts {
        let one = |all: u64, old: u64, new: u64| all.wrapping_sub(old).wrapping_add(new);
        Counts {
            live: one(self.live, old.live, new.live),
            pending: one(self.pending, old.pending, new.pending),
            gone: one(self.gone, old.gone, new.gone),
        }
    }
}

/// What changes in a leaf: where, and the entry as it is then.
pub(super) enum Edit {
    /// Another entry in the place of one.
    Replace(usize, Entry),
    /// One more, before the one there.
    Insert(usize, Entry),
    /// One less.
    Remove(usize),
}

/// A page on the way from the root to an entry.
pub(super) struct Step<'a> {
    pub reference: u64,
    pub words: &'a Words,
}

/// Entries of one leaf, and one more while it is being split.
pub type Entries = SmallVec<[Entry; LEAF_MAX + 1]>;

/// A private copy of an inner page.
#[derive(Clone, Copy, Debug)]
pub struct Inner {
    /// Refs by nibble; 0: nothing there.
    pub children: [u64; 16],
    /// Entries below.
    pub counts: Counts,
}

impl Inner {
    /// The children with the prefix that each stands for.
    pub(super) fn below(self, prefix: u64, depth: u32) -> impl Iterator<Item = (u64, u64)> {
        let children = self.children.into_iter().zip(0_u64..);
        children.filter(|&(child, _)| child != 0).map(move |(child, nibble)| (child, prefix | nibble << (60 - 4 * depth)))
    }
}

/// A private, validated copy of a page.
#[derive(Clone, Debug)]
pub enum Page {
    /// Entries in order of place.
    Leaf(Entries),
    /// Refs.
    Inner(Inner),
}

impl Page {
    /// Entries below.
    pub fn counts(&self) -> Counts {
        match self {
            Page::Leaf(entries) => Counts::of(entries),
            Page::Inner(inner) => inner.counts,
        }
    }
}

/// The nibble of `place` that chooses the child at `depth`.
#[inline(always)]
pub const fn nibble(place: u64, depth: u32) -> usize {
    (place >> (60 - 4 * depth) & 0xf) as usize
}

/// `place` with everything below `depth` nibbles cleared.
#[inline(always)]
pub const fn prefix(place: u64, depth: u32) -> u64 {
    if depth == 0 { 0 } else { place & !0 << (64 - 4 * depth) }
}

/// The last word that can stand below `prefix` at `depth`.
#[inline(always)]
pub const fn last_below(prefix: u64, depth: u32) -> u64 {
    prefix | !0 >> (4 * depth)
}

/// Entries of a leaf, unvalidated, `count` at most.
#[inline(always)]
pub(super) fn leaf_entries(words: &Words, count: u64) -> impl Iterator<Item = Entry> {
    let pairs = words[Block::WORDS..].as_chunks::<2>().0.iter();
    pairs.take(count as usize).map(|[word, value]| Entry { word: word.load(Ordering::Relaxed), value: value.load(Ordering::Relaxed) })
}

/// An entry of a leaf, unvalidated.
#[inline(always)]
fn leaf_entry(words: &Words, index: usize) -> Entry {
    let at = Block::WORDS + index.min(LEAF_MAX - 1) * 2;
    Entry { word: words[at].load(Ordering::Relaxed), value: words[at + 1].load(Ordering::Relaxed) }
}

/// A page's `info`, unvalidated.
#[inline(always)]
pub(super) fn info_of(words: &Words) -> Info {
    Info(words[Block::info].load(Ordering::Relaxed))
}

/// A child of an inner page, unvalidated; 0: nothing there. `None`: it is no inner page.
#[inline(always)]
pub(super) fn child_of(words: &Words, index: usize) -> Option<u64> {
    (info_of(words).kind() == kind::INNER).then(|| words[Block::WORDS + (index & 0xf)].load(Ordering::Relaxed))
}

/// The only entry of a group, unvalidated, where this is the record that its root names in place of a leaf.
#[inline(always)]
pub(super) fn lone_entry(step: &Step<'_>, depth: u32) -> Option<Entry> {
    let is_lone = depth == 0 && info_of(step.words).kind() == kind::RECORD;
    is_lone.then(|| Entry::new(step.words[Block::ident].load(Ordering::Relaxed), 0, step.reference))
}

/// Are these what the root says by naming a record in place of a leaf? What names itself is no leaf.
pub(crate) fn is_lone(reference: u64, entries: &[Entry]) -> bool {
    matches!(entries, [entry] if entry.value == reference)
}

/// Copies a leaf's entries, unvalidated. `None`: it is no leaf.
#[inline]
pub(super) fn read_leaf(step: &Step<'_>, depth: u32, entries: &mut Entries) -> Option<()> {
    let info = info_of(step.words);
    if info.kind() != kind::LEAF {
        return lone_entry(step, depth).map(|entry| entries.push(entry));
    }
    entries.extend(leaf_entries(step.words, info.entries()));
    Some(())
}

/// An inner page's counts, unvalidated.
#[inline(always)]
pub(super) fn read_counts(words: &Words) -> Counts {
    let [live, marks] = [16, 17].map(|index| words[Block::WORDS + index].load(Ordering::Relaxed));
    Counts { live, pending: marks >> 32, gone: marks & 0xffff_ffff }
}

impl<'a> Trie<'a> {
    /// Copies the page that `reference` names. `None`: it is not that page any more.
    pub fn page(&self, reference: u64) -> Option<Page> {
        let words = self.cx.page_words(reference)?;
        let page = match info_of(words).kind() {
            kind::LEAF | kind::RECORD => {
                let mut entries = Entries::new();
                read_leaf(&Step { reference, words }, 0, &mut entries)?;
                Page::Leaf(entries)
            }
            kind::INNER => {
                let children = std::array::from_fn(|index| words[Block::WORDS + index].load(Ordering::Relaxed));
                Page::Inner(Inner { children, counts: read_counts(words) })
            }
            _ => return None,
        };
        (without("page_generation") || self.cx.are_still(reference, words)).then_some(page)
    }

    /// Copies the page at a depth under a prefix. What says of itself that it stands elsewhere is not that page:
    /// in damage a page may be named from several places, and a walk that took it for several would never end.
    pub(super) fn page_at(&self, reference: u64, depth: u32, prefix: u64) -> Option<Page> {
        let (_, at) = self.cx.life(reference)?;
        let [info, back, ident] = [Block::info, Block::back, Block::ident].map(|field| self.cx.view().get(at + field));
        let is_here = match Info(info).kind() {
            kind::RECORD => depth == 0 && back == back_of(self.root),
            _ => (back, ident) == (self.back(depth), prefix),
        };
        // What was read before the copy is validated with it.
        if is_here { self.page(reference) } else { None }
    }

    /// Live entries below a page, without copying it.
    #[inline]
    pub(super) fn live_below(&self, reference: u64) -> Option<u64> {
        let words = self.cx.words_of(reference)?;
        let info = info_of(words);
        let live = match info.kind() {
            kind::LEAF => leaf_entries(words, info.entries()).filter(Entry::is_live).count() as u64,
            kind::INNER => read_counts(words).live,
            kind::RECORD => 1,
            _ => return None,
        };
        self.cx.are_still(reference, words).then_some(live)
    }

    /// Are there pending joins, or leaves not yet taken, below a page? Without copying it.
    #[inline]
    pub(super) fn marked_below(&self, reference: u64) -> Option<bool> {
        let words = self.cx.words_of(reference)?;
        let info = info_of(words);
        let marked = match info.kind() {
            kind::LEAF => leaf_entries(words, info.entries()).any(|entry| entry.flags() & (PENDING | GONE) != 0),
            kind::INNER => read_counts(words).marked() != 0,
            kind::RECORD => false,
            _ => return None,
        };
        self.cx.are_still(reference, words).then_some(marked)
    }

    /// A block for a new page. `grows`: for a change that adds an entry, here and below; one that adds none may use the reserve.
    #[inline(always)]
    fn block_for_page(&self, grows: bool) -> Result<Held<'a>> {
        match self.cx.claim_hinted(0) {
            Some(held) => Ok(held),
            None => self.other_block_for_page(grows),
        }
    }

    #[cold]
    #[inline(never)]
    fn other_block_for_page(&self, grows: bool) -> Result<Held<'a>> {
        if grows { self.cx.allocate(SMALL) } else { self.cx.allocate_for_less(SMALL) }
    }

    /// Writes everything of a leaf but its entries.
    #[inline(always)]
    fn begin_leaf(&self, held: &Held<'_>, count: usize, place: u64, depth: u32) {
        let info = Info::new(kind::LEAF, 0, count as u64, count as u64 * 16);
        held.fill(info, self.back(depth), prefix(place, depth));
    }

    /// Writes a leaf into a held block.
    pub(super) fn write_leaf(&self, entries: &[Entry], depth: u32, grows: bool) -> Result<Held<'a>> {
        debug_assert!(!entries.is_empty() && entries.len() <= LEAF_MAX);
        let held = self.block_for_page(grows)?;
        self.begin_leaf(&held, entries.len(), entries.first().map_or(0, Entry::place), depth);
        for ([word, value], entry) in held.words[Block::WORDS..].as_chunks::<2>().0.iter().zip(entries) {
            word.store(entry.word, Ordering::Relaxed);
            value.store(entry.value, Ordering::Relaxed);
        }
        Ok(held)
    }

    /// Copies a leaf with one entry changed into a held block; it keeps at least one. What is copied is unvalidated.
    pub(super) fn copy_leaf(&self, from: &Words, count: usize, edit: &Edit, place: u64, depth: u32, grows: bool) -> Result<Held<'a>> {
        let held = self.block_for_page(grows)?;
        View::copy(from, held.words);
        let put = |index: usize, entry: Entry| {
            let at = Block::WORDS + index.min(LEAF_MAX - 1) * 2;
            held.words[at].store(entry.word, Ordering::Relaxed);
            held.words[at + 1].store(entry.value, Ordering::Relaxed);
        };
        let count = match *edit {
            Edit::Replace(index, entry) => {
                put(index, entry);
                count
            }
            Edit::Insert(index, entry) => {
                (index..count).for_each(|moved| put(moved + 1, leaf_entry(from, moved)));
                put(index, entry);
                count + 1
            }
            Edit::Remove(index) => {
                (index + 1..count).for_each(|moved| put(moved - 1, leaf_entry(from, moved)));
                count - 1
            }
        };
        self.begin_leaf(&held, count, place, depth);
        Ok(held)
    }

    /// Looks for an entry in a leaf. Gives how many it has, where an entry at `place` is or would be, and the entry.
    #[inline]
    pub(super) fn look_up(
        &self,
        step: &Step<'_>,
        depth: u32,
        place: u64,
        same: &impl Fn(u64) -> Option<bool>,
    ) -> Attempt<(usize, usize, Option<Entry>)> {
        let info = info_of(step.words);
        if let Some(lone) = lone_entry(step, depth) {
            // Which validates what was read here, too.
            let found = self.find_lone(step, depth, place, same)?;
            return Ok((1, usize::from(found.is_none() && lone.place() <= place), found));
        }
        let mut index = 0;
        let mut found = None;
        for entry in leaf_entries(step.words, info.entries()) {
            if entry.place() > place {
                break;
            }
            if entry.place() == place && same(entry.value).ok_or(Stop::Moved)? {
                found = Some(entry);
                break;
            }
            index += 1;
        }
        if info.kind() != kind::LEAF || !self.cx.are_still(step.reference, step.words) {
            return Err(Stop::Moved);
        }
        Ok(((info.entries() as usize).min(LEAF_MAX), index, found))
    }

    /// Writes an inner page into a held block.
    pub(super) fn write_inner(&self, inner: &Inner, place: u64, depth: u32, grows: bool) -> Result<Held<'a>> {
        let held = self.block_for_page(grows)?;
        self.begin_inner(&held, inner.counts, place, depth);
        held.words[Block::WORDS..].iter().zip(inner.children).for_each(|(to, child)| to.store(child, Ordering::Relaxed));
        Ok(held)
    }

    /// Copies an inner page, with one child replaced, into a held block. What is copied is unvalidated.
    #[inline(always)]
    pub(super) fn copy_inner(
        &self,
        from: &Words,
        (index, child): (usize, u64),
        counts: Counts,
        place: u64,
        depth: u32,
        grows: bool,
    ) -> Result<Held<'a>> {
        let held = self.block_for_page(grows)?;
        View::copy(from, held.words);
        self.begin_inner(&held, counts, place, depth);
        held.words[Block::WORDS + (index & 0xf)].store(child, Ordering::Relaxed);
        Ok(held)
    }

    /// Writes everything of an inner page but its children.
    #[inline(always)]
    fn begin_inner(&self, held: &Held<'_>, counts: Counts, place: u64, depth: u32) {
        held.fill(Info::new(kind::INNER, 0, 16, 144), self.back(depth), prefix(place, depth));
        held.words[Block::WORDS + 16].store(counts.live, Ordering::Relaxed);
        held.words[Block::WORDS + 17].store(counts.pending << 32 | counts.gone & 0xffff_ffff, Ordering::Relaxed);
    }

    fn back(&self, depth: u32) -> u64 {
        (self.root as u64) << 8 | u64::from(depth)
    }
}

/// More entries share one place than a page holds: with a keyed 60-bit hash, only damage does that.
pub(super) fn collision() -> Error {
    Error::Corrupt { what: "too many keys of one hash" }
}

const _: () = assert!(SMALL_WORDS == Block::WORDS + LEAF_MAX * 2 && SMALL_WORDS == Block::WORDS + COPIED);
