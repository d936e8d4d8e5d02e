//! The persistent hash trie under everything keyed: directories, members, subscribers, heartbeats.
//!
//! A root word names an immutable page; pages name pages, and leaves name records. A change copies
//! the path from leaf to root into blocks that nobody else sees yet and swaps the root word once:
//! before the swap nothing happened, after it everything did. Nobody waits for anybody, counts live
//! in the pages and are exact, and a process killed anywhere leaves either the old tree or the new
//! one, plus unreferenced blocks for the scavenger.
//! Sources: P. Bagwell, "Ideal Hash Trees", 2001; J. Driscoll et al., "Making Data Structures
//! Persistent", 1989 (path copying); H.-J. Boehm, MSPC 2012 (validation after copying).
//!
//! ```text
//! ref  = generation:36 | block:28
//! leaf   up to 12 × (place:60 flags:4, value)             place: 60 bits of the key's keyed hash
//! inner  16 × ref, live:64, pending:32 | gone:32          the counts of everything below
//! root = ref, or EMPTY | tag, or SEALED | tag             tags never repeat
//! ```
//!
//! The first entry of a group needs no leaf if it has a record and no flags: the root names the record. Once there was a
//! leaf, there is one until the group is empty again, so that no root word repeats.

mod edit;
mod list;
mod mirror;
mod newest;
mod page;
mod sweep;

pub use edit::{Change, Verdict};
pub use mirror::{Delta, Mirror};
pub use newest::Standing;
#[cfg(not(modelled))]
pub(crate) use page::is_lone;
pub use page::{Counts, Entry, GONE, PENDING, Page};

use crate::cells::Cell;
use crate::error::{Error, Result};
use crate::layout::{Block, kind, reference};
use crate::points::point;
use crate::record::Record;
use crate::space::Context;
use crate::sync::{Ordering, fence};
use crate::view::View;

use page::{DEPTH_MAX, Step, child_of, info_of, leaf_entries, lone_entry, nibble};

/// One group: a root word and what hangs from it.
#[derive(Clone, Copy)]
pub struct Trie<'a> {
    /// Segment and actor.
    pub cx: Context<'a>,
    /// Word index of the root.
    pub root: usize,
    /// The life of the cell that the root is in; `None`: the root is of the segment itself, for ever.
    life: Option<Cell>,
}

/// Why an attempt ended early.
#[derive(Debug)]
pub enum Stop {
    /// A page or record was freed under the walk: start again at the root.
    Moved,
    /// A real error.
    Failed(Error),
}

/// What one attempt on one root word gives.
pub type Attempt<T> = std::result::Result<T, Stop>;

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Failed(error)
    }
}

/// What a root word says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    /// No entry.
    Empty,
    /// The group is gone.
    Sealed,
    /// The ref of the root page, or of the only entry's record.
    Page(u64),
}

/// Reads a root word.
pub fn root_of(word: u64) -> Root {
    match word & reference::BLOCK_MASK {
        reference::EMPTY => Root::Empty,
        reference::SEALED => Root::Sealed,
        // A cell that is just being made into another.
        _ if word == 0 => Root::Sealed,
        _ => Root::Page(word),
    }
}

/// Retries an attempt while pages move under it. A validation that fails although the root word has
/// not changed means damage, since all pages of a published tree are there while its root is.
pub(crate) fn with_patience<T>(trie: &Trie<'_>, mut attempt: impl FnMut(u64) -> Attempt<T>) -> Result<T> {
    let mut stuck = Stuck::default();
    for _ in 0..1 << 22 {
        match attempt(trie.word()) {
            Ok(value) => return Ok(value),
            Err(Stop::Failed(error)) => return Err(error),
            Err(Stop::Moved) => stuck.at(trie)?,
        }
    }
    Err(damaged())
}

fn damaged() -> Error {
    Error::Corrupt { what: "a page refers to blocks that are not there" }
}

/// Tells a tree that changes under its reader from one that is damaged: all pages of a published tree
/// are there while its root is.
#[derive(Default)]
pub(crate) struct Stuck {
    root: u64,
    strikes: u32,
}

impl Stuck {
    /// Something had moved on. An error when the root has not, again and again.
    #[cold]
    pub(crate) fn at(&mut self, trie: &Trie<'_>) -> Result<()> {
        // SYNC trie.moved (R): the relaxed load that showed a page of another life, with this fence, makes
        // the swap of the root that came before the page's release visible to the next load of the root.
        fence(Ordering::Acquire);
        let root = trie.cx.word(trie.root).load(Ordering::Acquire);
        self.strikes = if root == self.root { self.strikes + 1 } else { 0 };
        self.root = root;
        if self.strikes > 3 { Err(damaged()) } else { Ok(()) }
    }
}

impl<'a> Trie<'a> {
    /// The group whose root word has this index, whatever life its cell is in.
    pub fn new(cx: Context<'a>, root: usize) -> Trie<'a> {
        Trie { cx, root, life: None }
    }

    /// A group of one life of a cell: sealed for whoever comes when that life is over.
    #[inline(always)]
    pub fn of_life(cx: Context<'a>, cell: Cell, field: usize) -> Trie<'a> {
        Trie { cx, root: cell.at() + field, life: Some(cell) }
    }

    /// Are they of one root and one life?
    pub(crate) fn is_same(&self, other: &Trie<'_>) -> bool {
        (self.root, self.life) == (other.root, other.life)
    }

    /// The root word now. A word of the cell's next life is never given: it reads as sealed.
    #[inline(always)]
    pub(crate) fn word(&self) -> u64 {
        // SYNC trie.root (R): pairs with (W) in `edit::swap`: pages before the root that names them.
        let word = self.cx.word(self.root).load(Ordering::Acquire);
        // SYNC cell.life (R): pairs with (W) in `new_cell`: a new life's state word is written before its roots, so
        // after reading one of them it shows. A word of this life read here can be swapped only while it is there,
        // and no root word ever repeats.
        match self.life {
            Some(cell) if !cell.is_generation(self.cx) => reference::SEALED,
            _ => word,
        }
    }

    /// What the root word says now.
    pub fn root(&self) -> Root {
        root_of(self.word())
    }

    /// Asks for the lines of the record at a place, or at the next in its leaf: who is about to change several tries asks in each
    /// of them first, so that what is in no cache comes at the same time. Unvalidated, as nothing is made of it.
    pub fn expect(&self, place: u64) {
        let Root::Page(mut reference) = self.root() else {
            return;
        };
        for depth in 0..DEPTH_MAX {
            let Some(words) = self.cx.page_words(reference) else {
                return;
            };
            let Some(child) = child_of(words, nibble(place, depth)) else {
                let found = leaf_entries(words, info_of(words).entries()).find(|entry| entry.place() >= place);
                if let Some((_, record)) = found.and_then(|entry| self.cx.block(reference::block(entry.value))) {
                    View::expect(record);
                }
                return;
            };
            reference = child;
        }
    }

    /// Finds the entry at `place` for which `same(value)` says yes (`None`: its record moved on).
    #[inline]
    pub fn find(&self, place: u64, same: impl Fn(u64) -> Option<bool>) -> Result<Option<Entry>> {
        with_patience(self, |word| self.find_from(word, place, &same))
    }

    #[inline]
    fn find_from(&self, word: u64, place: u64, same: &impl Fn(u64) -> Option<bool>) -> Attempt<Option<Entry>> {
        let Root::Page(mut reference) = root_of(word) else {
            return Ok(None);
        };
        let cx = self.cx;
        for depth in 0..=DEPTH_MAX {
            let words = cx.words_of(reference).ok_or(Stop::Moved)?;
            if let Some(child) = child_of(words, nibble(place, depth)).filter(|_| depth < DEPTH_MAX) {
                if !cx.are_still(reference, words) {
                    return Err(Stop::Moved);
                }
                if child == 0 {
                    return Ok(None);
                }
                reference = child;
                continue;
            }
            let info = info_of(words);
            if info.kind() != kind::LEAF {
                return self.find_lone(&Step { reference, words }, depth, place, same);
            }
            for entry in leaf_entries(words, info.entries()).filter(|entry| entry.place() == place) {
                if !cx.are_still(reference, words) {
                    return Err(Stop::Moved);
                }
                if same(entry.value).ok_or(Stop::Moved)? {
                    return Ok(Some(entry));
                }
            }
            return if cx.are_still(reference, words) { Ok(None) } else { Err(Stop::Moved) };
        }
        Err(Stop::Moved)
    }

    /// The same where the root names the only entry's record.
    #[inline]
    fn find_lone(&self, step: &Step<'_>, depth: u32, place: u64, same: &impl Fn(u64) -> Option<bool>) -> Attempt<Option<Entry>> {
        let entry = lone_entry(step, depth).filter(|_| self.cx.are_still(step.reference, step.words)).ok_or(Stop::Moved)?;
        let is_it = entry.place() == place && same(entry.value).ok_or(Stop::Moved)?;
        Ok(is_it.then_some(entry))
    }

    /// Finds the entry and record of a key.
    #[inline]
    pub fn get(&self, place: u64, key: &[u8]) -> Result<Option<(Entry, Record)>> {
        self.get_if(place, |value| self.cx.has_key(value, key))
    }

    /// Finds the entry at `place` for which `same(value)` says yes, and its record.
    pub fn get_if(&self, place: u64, same: impl Fn(u64) -> Option<bool>) -> Result<Option<(Entry, Record)>> {
        with_patience(self, |word| match self.find_from(word, place, &same)? {
            None => Ok(None),
            Some(entry) => {
                let record = self.cx.record(entry.value).ok_or(Stop::Moved)?;
                Ok(Some((entry, record)))
            }
        })
    }

    /// Replaces a hot word of a key's live record by what `later` makes of it (`None`: leaves it). Gives the value after it;
    /// `None`: there is no such record.
    pub fn touch(&self, place: u64, key: &[u8], field: usize, later: impl Fn(u64) -> Option<u64>) -> Result<Option<u64>> {
        with_patience(self, |word| match self.find_from(word, place, &|value| self.cx.has_key(value, key))? {
            Some(entry) if entry.is_live() => {
                let (_, at) = self.cx.life(entry.value).ok_or(Stop::Moved)?;
                // A record that was replaced meanwhile: the one that replaced it is touched.
                self.cx.set_hot(entry.value, at, field, &later).map(Some).ok_or(Stop::Moved)
            }
            _ => Ok(None),
        })
    }

    /// How many entries there are, by kind. One page read.
    #[inline]
    pub fn counts(&self) -> Result<Counts> {
        with_patience(self, |word| match root_of(word) {
            Root::Page(reference) => self.page(reference).map(|page| page.counts()).ok_or(Stop::Moved),
            Root::Empty | Root::Sealed => Ok(Counts::default()),
        })
    }

    /// How many entries are live. One page read, no copy.
    #[inline]
    pub fn live(&self) -> Result<u64> {
        with_patience(self, |word| match root_of(word) {
            Root::Page(reference) => self.live_below(reference).ok_or(Stop::Moved),
            Root::Empty | Root::Sealed => Ok(0),
        })
    }

    /// Are there pending joins, or leaves not yet taken? One page read, no copy.
    #[inline]
    pub fn is_marked(&self) -> Result<bool> {
        with_patience(self, |word| match root_of(word) {
            Root::Page(reference) => self.marked_below(reference).ok_or(Stop::Moved),
            Root::Empty | Root::Sealed => Ok(false),
        })
    }

    /// EMPTY → SEALED with a new tag: nothing can be added any more. True: it is sealed now.
    pub fn seal_if_empty(&self) -> bool {
        let root = self.cx.word(self.root);
        for _ in 0..1 << 16 {
            let word = self.word();
            match root_of(word) {
                Root::Sealed => return true,
                Root::Page(_) => return false,
                Root::Empty if root.compare_exchange(word, self.cx.space.fresh_sealed(), Ordering::AcqRel, Ordering::Relaxed).is_ok() => {
                    return true;
                }
                Root::Empty => {}
            }
        }
        false
    }

    /// Seals the group whatever is in it and frees its pages and records. `still_mine` is asked after
    /// the root word was read and before it is swapped: the word then belongs to the life that is
    /// being cleared, and a root word never repeats.
    pub fn seal_and_free(&self, still_mine: impl Fn() -> bool) {
        let root = self.cx.word(self.root);
        for _ in 0..1 << 16 {
            let word = self.word();
            if root_of(word) == Root::Sealed || !still_mine() {
                return;
            }
            if root.compare_exchange(word, self.cx.space.fresh_sealed(), Ordering::AcqRel, Ordering::Acquire).is_ok() {
                point!("group.sealed");
                if let Root::Page(reference) = root_of(word) {
                    self.free_below(reference, 0);
                }
                return;
            }
        }
    }

    fn free_below(&self, reference: u64, depth: u32) {
        let Some(page) = self.page(reference) else {
            return;
        };
        match page {
            page::Page::Leaf(entries) => {
                for entry in entries {
                    self.free_value(entry.value);
                }
            }
            page::Page::Inner(inner) if depth < DEPTH_MAX => {
                for child in inner.children.into_iter().filter(|&child| child != 0) {
                    self.free_below(child, depth + 1);
                }
            }
            page::Page::Inner(_) => {}
        }
        self.cx.free(reference);
    }

    /// Frees the record that an entry referred to; inline values are no refs.
    fn free_value(&self, value: u64) {
        if value & VALUE_INLINE == 0
            && let Some((_, at)) = self.cx.life(value)
        {
            let info = crate::arena::Info(self.cx.view().get(at + Block::info));
            if info.kind() == kind::RECORD {
                self.cx.free(value);
            }
        }
    }

    /// Is the page that `reference` names part of the tree, at this depth under this prefix?
    pub fn has_page(&self, reference: u64, depth: u32, prefix: u64) -> Result<bool> {
        with_patience(self, |word| {
            let Root::Page(mut at) = root_of(word) else {
                return Ok(false);
            };
            for level in 0..=depth.min(DEPTH_MAX) {
                if level == depth {
                    return Ok(at == reference);
                }
                match self.page(at).ok_or(Stop::Moved)? {
                    page::Page::Inner(inner) => at = inner.children[nibble(prefix, level)],
                    page::Page::Leaf(_) => return Ok(false),
                }
                if at == 0 {
                    return Ok(false);
                }
            }
            Ok(false)
        })
    }

    /// Does an entry at `place` have this very value?
    pub fn has_value(&self, place: u64, value: u64) -> Result<bool> {
        Ok(self.find(place, |found| Some(found == value))?.is_some())
    }
}

/// Set in values that are no refs. A ref with it would need a generation of 2^35 in one block.
pub const VALUE_INLINE: u64 = 1 << 63;

#[cfg(all(test, not(modelled)))]
mod tests;
