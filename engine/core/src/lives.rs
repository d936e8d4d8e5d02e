//! Blocks by their refs: is a block still in the life that a ref names, and what do its hot words say?
//!
//! Promise: what was copied out of a block counts only if the block was in that life all the while, and what is said in a hot word is
//! said in that life or not at all. Source of the read protocol: H.-J. Boehm, "Can seqlocks get along with programming language
//! memory models?", MSPC 2012.

use crate::layout::{Block, reference};
use crate::space::Context;
use crate::sync::{AtomicU64, Ordering, fence};
use crate::view::{View, Words};

/// Swaps of a hot word that fail one after the other, each because another succeeded; only damage can make more.
const PATIENCE: u32 = 1 << 20;

/// A hot word's value, tagged with the life it belongs to.
#[inline(always)]
pub const fn hot(generation: u64, value: u64) -> u64 {
    generation << 48 | value & HOT_MASK
}
/// The value bits of a hot word; all ones is also the largest value.
pub const HOT_MASK: u64 = (1 << 48) - 1;

/// After copying: does a block's state word still say the life that `reference` names?
#[inline(always)]
fn is_still(reference: u64, state: &AtomicU64) -> bool {
    // SYNC arena.fill (R): pairs with the release fence of whoever claimed the block since.
    fence(Ordering::Acquire);
    reference::is_life(reference, state.load(Ordering::Relaxed))
}

impl<'a> Context<'a> {
    /// The class of a block and its first words.
    #[inline(always)]
    pub fn block(self, block: u32) -> Option<(usize, &'a Words)> {
        let (class, at) = self.space.geometry.block(block)?;
        Some((class, self.view().array(at)?))
    }

    /// The state word of the block that a ref names, if it is still that life.
    #[inline(always)]
    pub fn life(self, reference: u64) -> Option<(usize, usize)> {
        let (class, at) = self.space.geometry.block(reference::block(reference))?;
        // A look that only refuses early: what was written before the ref was published is seen by who read the ref
        // (ring.publish, trie.root), and what is copied counts once it is validated.
        reference::is_life(reference, self.word(at).load(Ordering::Acquire)).then_some((class, at))
    }

    /// The words of the block that a ref names, if it is still that life; as `life`.
    #[inline(always)]
    pub fn words_of(self, reference: u64) -> Option<&'a Words> {
        self.place_of(reference).map(|(_, words)| words)
    }

    /// The same with its class.
    #[inline(always)]
    pub fn place_of(self, reference: u64) -> Option<(usize, &'a Words)> {
        let place = self.block(reference::block(reference))?;
        reference::is_life(reference, place.1[Block::state].load(Ordering::Acquire)).then_some(place)
    }

    /// The same of a page that will be read whole.
    #[inline(always)]
    pub fn page_words(self, reference: u64) -> Option<&'a Words> {
        let (_, words) = self.block(reference::block(reference))?;
        View::expect(words);
        reference::is_life(reference, words[Block::state].load(Ordering::Acquire)).then_some(words)
    }

    /// As `still`, of words that were looked up before.
    #[inline(always)]
    pub fn are_still(self, reference: u64, words: &Words) -> bool {
        is_still(reference, &words[Block::state])
    }

    /// After copying: is it still that life? If so, what was copied belongs to it.
    #[inline(always)]
    pub fn still(self, reference: u64, at: usize) -> bool {
        is_still(reference, self.word(at))
    }

    /// A hot word's value, if it belongs to the life that `reference` names.
    #[inline]
    pub fn hot(self, reference: u64, at: usize, field: usize) -> Option<u64> {
        let words: &Words = self.view().array(at)?;
        let word = words.get(field)?.load(Ordering::Acquire);
        (word >> 48 == reference::generation(reference) & 0xffff && self.are_still(reference, words)).then_some(word & HOT_MASK)
    }

    /// Replaces a hot word's value by what `change` makes of it (`None`: leave it), and gives the value that stands after it.
    /// A record's hot word of another life never matches; in blocks that hold no record, nobody reads what is left of one. So a
    /// process that slept through a reuse changes nothing, but what it is given may be of a life that is over.
    #[inline]
    pub fn set_hot(self, reference: u64, at: usize, field: usize, mut change: impl FnMut(u64) -> Option<u64>) -> Option<u64> {
        let word: &AtomicU64 = self.word(at + field);
        let life = reference::generation(reference) & 0xffff;
        for _ in 0..PATIENCE {
            let seen = word.load(Ordering::Acquire);
            if seen >> 48 != life || !self.still(reference, at) {
                return None;
            }
            let Some(value) = change(seen & HOT_MASK) else {
                return Some(seen & HOT_MASK);
            };
            let new = hot(life, value);
            if word.compare_exchange(seen, new, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                return Some(value & HOT_MASK);
            }
        }
        None
    }
}
