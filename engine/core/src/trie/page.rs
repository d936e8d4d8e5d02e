//! Pages of the trie: what a leaf and an inner page hold, copied out and validated, and written.

use smallvec::SmallVec;

use super::{Attempt, Stop, Trie};
use crate::arena::{Held, Info, SMALL};
use crate::error::{Error, Result};
use crate::layout::{Block, kind};
use crate::mutants::without;
use crate::space::Context;
use crate::sync::Ordering;

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
    pub(super) fn of(entries: &[Entry]) -> Counts {
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
pub(super) struct Step {
    pub reference: u64,
    pub at: usize,
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

/// An entry of a leaf, unvalidated.
#[inline(always)]
pub fn leaf_entry(cx: Context<'_>, at: usize, index: usize) -> Entry {
    let at = at + Block::WORDS + index.min(LEAF_MAX - 1) * 2;
    Entry { word: cx.view().get(at), value: cx.view().get(at + 1) }
}

impl Trie<'_> {
    /// Copies the page that `reference` names. `None`: it is not that page any more.
    pub fn page(&self, reference: u64) -> Option<Page> {
        let cx = self.cx;
        let (_, at) = cx.life(reference)?;
        let page = match Info(cx.view().get(at + Block::info)).kind() {
            kind::LEAF => {
                let mut entries = Entries::new();
                self.read_leaf(at, &mut entries)?;
                Page::Leaf(entries)
            }
            kind::INNER => {
                let words = cx.view().array::<16>(at + Block::WORDS)?;
                let children = std::array::from_fn(|index| words[index].load(Ordering::Relaxed));
                Page::Inner(Inner { children, counts: read_counts(cx, at) })
            }
            _ => return None,
        };
        (without("page_generation") || cx.still(reference, at)).then_some(page)
    }

    /// Copies a leaf's entries, unvalidated. `None`: it is no leaf.
    #[inline]
    pub(super) fn read_leaf(&self, at: usize, entries: &mut Entries) -> Option<()> {
        let info = Info(self.cx.view().get(at + Block::info));
        if info.kind() != kind::LEAF {
            return None;
        }
        let words = self.cx.view().array::<{ LEAF_MAX * 2 }>(at + Block::WORDS)?;
        for pair in words.chunks_exact(2).take(info.entries() as usize) {
            entries.push(Entry { word: pair[0].load(Ordering::Relaxed), value: pair[1].load(Ordering::Relaxed) });
        }
        Some(())
    }

    /// A child of an inner page, unvalidated; 0: nothing there. `None`: it is no inner page.
    #[inline(always)]
    pub(super) fn child(&self, at: usize, index: usize) -> Option<u64> {
        let is_inner = Info(self.cx.view().get(at + Block::info)).kind() == kind::INNER;
        is_inner.then(|| self.cx.view().get(at + Block::WORDS + index))
    }

    /// Copies the page at a depth under a prefix. What says of itself that it stands elsewhere is not that page:
    /// in damage a page may be named from several places, and a walk that took it for several would never end.
    pub(super) fn page_at(&self, reference: u64, depth: u32, prefix: u64) -> Option<Page> {
        let (_, at) = self.cx.life(reference)?;
        let (back, ident) = (self.cx.view().get(at + Block::back), self.cx.view().get(at + Block::ident));
        // Read before the copy, which is then validated with it.
        let page = self.page(reference)?;
        ((back, ident) == (self.back(depth), prefix)).then_some(page)
    }

    /// Live entries below a page, without copying it.
    #[inline]
    pub(super) fn live_below(&self, reference: u64) -> Option<u64> {
        let cx = self.cx;
        let (_, at) = cx.life(reference)?;
        let info = Info(cx.view().get(at + Block::info));
        let live = match info.kind() {
            kind::LEAF => (0..info.entries() as usize).filter(|&index| leaf_entry(cx, at, index).is_live()).count() as u64,
            kind::INNER => cx.view().get(at + Block::WORDS + 16),
            _ => return None,
        };
        cx.still(reference, at).then_some(live)
    }

    /// Are there pending joins, or leaves not yet taken, below a page? Without copying it.
    #[inline]
    pub(super) fn marked_below(&self, reference: u64) -> Option<bool> {
        let cx = self.cx;
        let (_, at) = cx.life(reference)?;
        let info = Info(cx.view().get(at + Block::info));
        let marked = match info.kind() {
            kind::LEAF => (0..info.entries() as usize).any(|index| leaf_entry(cx, at, index).flags() & (PENDING | GONE) != 0),
            kind::INNER => read_counts(cx, at).marked() != 0,
            _ => return None,
        };
        cx.still(reference, at).then_some(marked)
    }

    /// A change that adds no entry may use the reserve.
    #[inline(always)]
    fn block_for_page(&self, grows: bool) -> Result<Held> {
        match self.cx.claim_hinted(0) {
            Some(held) => Ok(held),
            None => self.other_block_for_page(grows),
        }
    }

    #[cold]
    #[inline(never)]
    fn other_block_for_page(&self, grows: bool) -> Result<Held> {
        if grows { self.cx.allocate(SMALL) } else { self.cx.allocate_for_less(SMALL) }
    }

    /// Writes a leaf into a held block. `grows`: for a change that adds an entry.
    pub(super) fn write_leaf(&self, entries: &[Entry], depth: u32, grows: bool) -> Result<Held> {
        debug_assert!(!entries.is_empty() && entries.len() <= LEAF_MAX);
        let held = self.block_for_page(grows)?;
        let info = Info::new(kind::LEAF, 0, entries.len() as u64, entries.len() as u64 * 16);
        let place = entries.first().map_or(0, Entry::place);
        self.cx.fill(&held, info, self.back(depth), prefix(place, depth));
        if let Some(words) = self.cx.view().array::<{ LEAF_MAX * 2 }>(held.at + Block::WORDS) {
            for (pair, entry) in words.chunks_exact(2).zip(entries) {
                pair[0].store(entry.word, Ordering::Relaxed);
                pair[1].store(entry.value, Ordering::Relaxed);
            }
        }
        Ok(held)
    }

    /// Copies a leaf with one entry changed into a held block; it keeps at least one. What is copied is unvalidated.
    pub(super) fn copy_leaf(&self, from: usize, count: usize, edit: &Edit, place: u64, depth: u32, grows: bool) -> Result<Held> {
        let held = self.block_for_page(grows)?;
        let view = self.cx.view();
        view.copy(from + Block::WORDS, held.at + Block::WORDS);
        let put = |index: usize, entry: Entry| {
            let at = held.at + Block::WORDS + index.min(LEAF_MAX - 1) * 2;
            view.set(at, entry.word);
            view.set(at + 1, entry.value);
        };
        let count = match *edit {
            Edit::Replace(index, entry) => {
                put(index, entry);
                count
            }
            Edit::Insert(index, entry) => {
                (index..count).for_each(|moved| put(moved + 1, leaf_entry(self.cx, from, moved)));
                put(index, entry);
                count + 1
            }
            Edit::Remove(index) => {
                (index + 1..count).for_each(|moved| put(moved - 1, leaf_entry(self.cx, from, moved)));
                count - 1
            }
        };
        let info = Info::new(kind::LEAF, 0, count as u64, count as u64 * 16);
        self.cx.fill(&held, info, self.back(depth), prefix(place, depth));
        Ok(held)
    }

    /// Looks for an entry in a leaf. Gives how many it has, where an entry at `place` is or would be, and the entry.
    #[inline]
    pub(super) fn look_up(&self, step: &Step, place: u64, same: &impl Fn(u64) -> Option<bool>) -> Attempt<(usize, usize, Option<Entry>)> {
        let (cx, at) = (self.cx, step.at);
        let page = cx.view().array::<PAGE_WORDS>(at).ok_or(Stop::Moved)?;
        let info = Info(page[Block::info].load(Ordering::Relaxed));
        let count = (info.entries() as usize).min(LEAF_MAX);
        let mut index = 0;
        let mut found = None;
        for pair in page[Block::WORDS..].chunks_exact(2).take(count) {
            let entry = Entry { word: pair[0].load(Ordering::Relaxed), value: pair[1].load(Ordering::Relaxed) };
            if entry.place() > place {
                break;
            }
            if entry.place() == place && same(entry.value).ok_or(Stop::Moved)? {
                found = Some(entry);
                break;
            }
            index += 1;
        }
        if info.kind() != kind::LEAF || !cx.still(step.reference, at) {
            return Err(Stop::Moved);
        }
        Ok((count, index, found))
    }

    /// Writes an inner page into a held block. `grows`: as above.
    pub(super) fn write_inner(&self, inner: &Inner, place: u64, depth: u32, grows: bool) -> Result<Held> {
        let held = self.block_for_page(grows)?;
        self.begin_inner(&held, inner.counts, place, depth);
        if let Some(to) = self.cx.view().array::<16>(held.at + Block::WORDS) {
            to.iter().zip(inner.children).for_each(|(to, child)| to.store(child, Ordering::Relaxed));
        }
        Ok(held)
    }

    /// Copies an inner page, with one child replaced, into a held block. What is copied is unvalidated.
    #[inline(always)]
    pub(super) fn copy_inner(
        &self,
        from: usize,
        (index, child): (usize, u64),
        counts: Counts,
        place: u64,
        depth: u32,
        grows: bool,
    ) -> Result<Held> {
        let held = self.block_for_page(grows)?;
        self.cx.view().copy(from + Block::WORDS, held.at + Block::WORDS);
        self.begin_inner(&held, counts, place, depth);
        self.cx.view().set(held.at + Block::WORDS + (index & 0xf), child);
        Ok(held)
    }

    /// Writes everything of an inner page but its children.
    #[inline(always)]
    fn begin_inner(&self, held: &Held, counts: Counts, place: u64, depth: u32) {
        self.cx.fill(held, Info::new(kind::INNER, 0, 16, 144), self.back(depth), prefix(place, depth));
        self.cx.view().set(held.at + Block::WORDS + 16, counts.live);
        self.cx.view().set(held.at + Block::WORDS + 17, counts.pending << 32 | counts.gone & 0xffff_ffff);
    }

    fn back(&self, depth: u32) -> u64 {
        (self.root as u64) << 8 | u64::from(depth)
    }
}

/// An inner page's counts, unvalidated.
#[inline(always)]
pub(super) fn read_counts(cx: Context<'_>, at: usize) -> Counts {
    let marks = cx.view().get(at + Block::WORDS + 17);
    Counts { live: cx.view().get(at + Block::WORDS + 16), pending: marks >> 32, gone: marks & 0xffff_ffff }
}

/// More entries share one place than a page holds: with a keyed 60-bit hash, only damage does that.
pub(super) fn collision() -> Error {
    Error::Corrupt { what: "too many keys of one hash" }
}

/// Words of the block that a page is in, its header included.
pub(super) const PAGE_WORDS: usize = Block::WORDS + LEAF_MAX * 2;

const _: () = assert!(PAGE_WORDS == 256 / 8 && PAGE_WORDS == Block::WORDS + crate::view::COPIED);
