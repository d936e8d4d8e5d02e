//! The arena: fixed-size blocks of three classes, each with a state word that is the only truth about it.
//!
//! `word = generation:48 | owner slot:12 | state:4`, `FREE → HELD(owner) → LIVE → FREE`, and
//! `HELD → CONT → FREE` for the later blocks of a chain. There is no free list to corrupt and no
//! lock to die with: claiming and freeing are one compare-and-swap of that word. The bitmaps and
//! the private hints only say where a free block may be found.
//!
//! Promise: a block is in one owner's hands at a time; who frees it names the life it means, so a
//! process that slept through a reuse does no harm. How blocks are read: `lives`.

use crate::error::{Error, Result};
use crate::hint::cold_path;
use crate::layout::{Block, Header, reference, state};
use crate::lives::hot;
use crate::mutants::without;
use crate::points::point;
use crate::space::{Context, HINTS, Hints};
use crate::sync::{Ordering, fence};
use crate::view::{View, Words};

/// Which classes to try, best first.
pub type Preference = [usize; 3];
/// For pages and whatever fits 192 bytes.
pub const SMALL: Preference = [0, 1, 2];
pub(crate) const MEDIUM: Preference = [1, 2, 0];
pub(crate) const LARGE: Preference = [2, 1, 0];

/// Most free blocks taken from a bitmap at once.
const REFILL: u32 = 8;
/// One of so many blocks of a class may be taken at once: what one process has as hints, others give up history for.
const REFILL_SHARE: u32 = 256;
/// Searches that give history up to others, before a full arena is an error.
const ROUNDS: u32 = 16;

/// How many private hints a class may hoard.
const HOARD: [usize; 3] = [HINTS, 8, 4];
/// A search for hidden blocks that finds fewer than one of so many is in vain.
const HIDDEN_SHARE: u64 = 64;
/// After one in vain, the history of one block of so many is given up first: a pass over all of them costs little beside that.
const HIDDEN_REST: u64 = 4;

/// A block that this process holds and alone may write. Two words, so that it is passed on in registers.
#[derive(Clone, Copy, Debug)]
pub struct Held<'a> {
    /// Its first words, looked up once.
    pub words: &'a Words,
    /// The ref that names this life of it.
    pub reference: u64,
}

impl Held<'_> {
    /// Its state word, until it is published.
    #[inline(always)]
    pub fn word(&self) -> u64 {
        self.words[Block::state].load(Ordering::Relaxed)
    }

    /// HELD → LIVE from the state word of this life that was read before the block was published: harmless when whoever replaced the
    /// reference to it has already freed it. Nobody reads through the state word: it only tells scavengers that the
    /// reference is there.
    #[inline(always)]
    pub fn make_live_from(&self, word: u64) {
        let _ = self.words[Block::state].compare_exchange(word, state::with(word, state::LIVE), Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Sets one of its header's words.
    #[inline(always)]
    pub fn set(&self, field: usize, value: u64) {
        if let Some(word) = self.words.get(field) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// Sets a hot word.
    #[inline(always)]
    pub fn set_hot(&self, field: usize, value: u64) {
        self.set(field, hot(reference::generation(self.reference), value));
    }
}

/// The `info` word of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info(pub u64);

impl Info {
    /// Packs kind, flags, entries and length.
    #[inline(always)]
    pub const fn new(kind: u64, flags: u64, entries: u64, bytes: u64) -> Info {
        Info(kind & 0xff | (flags & 0xff) << 8 | (entries & 0xff) << 16 | bytes << 32)
    }
    /// The same with another length.
    #[inline(always)]
    pub const fn of_bytes(self, bytes: usize) -> Info {
        Info(self.0 & 0xffff_ffff | (bytes as u64) << 32)
    }
    /// One of `layout::kind`.
    #[inline(always)]
    pub const fn kind(self) -> u64 {
        self.0 & 0xff
    }
    /// Kind-specific flags; of a message: how many words of prefix come before its payload.
    #[inline(always)]
    pub const fn flags(self) -> u64 {
        self.0 >> 8 & 0xff
    }
    /// Entries of a leaf.
    #[inline(always)]
    pub const fn entries(self) -> u64 {
        self.0 >> 16 & 0xff
    }
    /// Bytes of content in the whole chain.
    #[inline(always)]
    pub const fn bytes(self) -> u64 {
        self.0 >> 32
    }
}

impl<'a> Context<'a> {
    /// CAS FREE → HELD, generation + 1.
    #[inline(always)]
    fn claim(self, block: u32) -> Option<Held<'a>> {
        let (_, words) = self.block(block)?;
        let state_word = &words[Block::state];
        let free = state_word.load(Ordering::Relaxed);
        if state::of(free) != state::FREE {
            cold_path();
            return None;
        }
        let held = self.actor.next_life(free);
        // SYNC arena.free (R): pairs with (W) in `free_life`: what the last life's readers and writers
        // did happened before this life begins.
        state_word.compare_exchange(free, held, Ordering::AcqRel, Ordering::Relaxed).ok()?;
        point!("allocate.claimed");
        // SYNC arena.fill (W): pairs with the acquire fence before every re-check: whoever reads a
        // byte written below also sees that the block had moved on.
        fence(Ordering::Release);
        Some(Held { words, reference: reference::to(held, block) })
    }

    /// Remembers a freed block: in the private hints, else in the shared bitmap; the reserve is looked through.
    #[inline(always)]
    fn hint(self, block: u32) {
        if block >= self.space.geometry.reserve_from {
            cold_path();
            self.hint_larger(block);
        } else if !self.actor.hints[0].push(block, HOARD[0]) {
            self.mark_free(0, block);
        }
    }

    #[inline(never)]
    fn hint_larger(self, block: u32) {
        let class = self.space.geometry.class_of(block);
        if class > 0 && !self.actor.hints[class].push(block, HOARD[class]) {
            self.mark_free(class, block);
        }
    }

    /// Makes all private hints everybody's.
    pub fn give_hints_back(self) {
        for (class, hints) in self.actor.hints.iter().enumerate() {
            hints.take_all().for_each(|block| self.mark_free(class, block));
        }
    }

    #[inline(never)]
    fn mark_free(self, class: usize, block: u32) {
        let index = (block - self.space.geometry.first_of(class)) as usize;
        let bits = self.word(self.space.geometry.bits_at[class] + index / 64);
        bits.fetch_or(1 << (index % 64), Ordering::Relaxed);
        // What was in use before what was not: it is in the caches, and its pages are there.
        let (cursor, index) = (&self.actor.cursors[class], (index / 64) as u64);
        if index < cursor.load(Ordering::Relaxed) {
            cursor.store(index, Ordering::Relaxed);
        }
    }

    /// A free block of a class among those that this process freed or found lately.
    #[inline(always)]
    pub(crate) fn claim_hinted(self, class: usize) -> Option<Held<'a>> {
        let hints = &self.actor.hints[class];
        if let Some(block) = hints.pop_top()
            && let Some(held) = self.claim(block)
        {
            return Some(held);
        }
        self.claim_other(hints)
    }

    /// None is on top, or it was taken by others.
    #[inline(never)]
    fn claim_other(self, hints: &Hints) -> Option<Held<'a>> {
        hints.take_all().find_map(|block| self.claim(block))
    }

    fn claim_from_bitmap(self, class: usize) -> Option<Held<'a>> {
        let geometry = &self.space.geometry;
        let words = (geometry.blocks[class] as usize).div_ceil(64);
        if words == 0 {
            return None;
        }
        let first = geometry.first_of(class);
        let refill = (geometry.blocks[class] / REFILL_SHARE).clamp(1, REFILL);
        let start = self.actor.cursors[class].load(Ordering::Relaxed) as usize % words;
        for step in 0..words {
            let index = (start + step) % words;
            let bits = self.word(geometry.bits_at[class] + index);
            // Others set bits meanwhile; a word has 64.
            for _ in 0..128 {
                let seen = bits.load(Ordering::Relaxed);
                if seen == 0 {
                    break;
                }
                // A few at once, the first to be tried, the rest hints for the next time.
                let mut few = 0;
                for _ in 0..refill {
                    few |= (seen & !few) & (seen & !few).wrapping_neg();
                }
                // Whoever clears a bit is the one to try: a process killed here hides these free
                // blocks until the next `resync`.
                let mut ours = bits.fetch_and(!few, Ordering::Relaxed) & few;
                point!("allocate.unmarked");
                let mut held = None;
                while ours != 0 {
                    let number = index * 64 + ours.trailing_zeros() as usize;
                    ours &= ours - 1;
                    if number >= geometry.blocks[class] as usize {
                        continue;
                    }
                    let block = first + number as u32;
                    if held.is_some() {
                        // It is wanted soon.
                        if let Some((_, words)) = self.block(block) {
                            View::expect(words);
                        }
                        self.hint(block);
                    } else {
                        held = self.claim(block);
                    }
                }
                if held.is_some() {
                    self.actor.cursors[class].store(index as u64, Ordering::Relaxed);
                    return held;
                }
            }
        }
        None
    }

    /// Sets the bit of every free block of a class and counts them: the state words are the truth,
    /// the bits may have been lost with a process.
    pub fn resync(self, class: usize) -> u32 {
        let geometry = &self.space.geometry;
        let first = geometry.first_of(class);
        let mut free = 0;
        for number in 0..geometry.ordinary(class) {
            let block = first + number;
            if let Some((_, at)) = geometry.block(block)
                && state::of(self.word(at).load(Ordering::Relaxed)) == state::FREE
            {
                free += 1;
                let bits = self.word(geometry.bits_at[class] + number as usize / 64);
                if bits.load(Ordering::Relaxed) >> (number % 64) & 1 == 0 {
                    self.mark_free(class, block);
                }
            }
        }
        free
    }

    /// Claims a block of the first class in `preference` that has one. When all are taken, history
    /// is given up, oldest first, until one is free.
    #[inline(always)]
    pub fn allocate(self, preference: Preference) -> Result<Held<'a>> {
        match self.claim_hinted(preference[0]) {
            Some(held) => Ok(held),
            None => self.allocate_elsewhere(preference),
        }
    }

    /// As `allocate`, for a change that adds nothing and so frees as many blocks as it takes: where all others are in
    /// use, from the reserve. So whoever leaves can leave, whatever is full. (A mark on a group's only entry
    /// takes a page and frees none: it is one that adds.)
    pub fn allocate_for_less(self, preference: Preference) -> Result<Held<'a>> {
        self.allocate(preference).or_else(|error| {
            let geometry = &self.space.geometry;
            (geometry.reserve_from..geometry.blocks[0]).find_map(|block| self.claim(block)).ok_or(error)
        })
    }

    /// Nothing in the hints: the bitmaps, the other classes, the history, the state words themselves; then what removed
    /// channels keep.
    #[cold]
    #[inline(never)]
    fn allocate_elsewhere(self, preference: Preference) -> Result<Held<'a>> {
        for _ in 0..=self.space.geometry.cells {
            if let Some(held) = self.allocate_from_history(preference) {
                return Ok(held);
            }
            let relieved = self.space.last_resort.map_or(Ok(false), |relieve| relieve(self));
            if !relieved? {
                break;
            }
        }
        // Others may have made room since.
        if let Some(held) = self.allocate_from_history(preference) {
            return Ok(held);
        }
        let geometry = &self.space.geometry;
        // The reserve does not count.
        let ordinary = (0..geometry.reserve_from).chain(geometry.blocks[0]..geometry.total_blocks());
        let capacity = ordinary.clone().count() as u64;
        Err(Error::Full { what: "the arena's blocks are", used: capacity - self.free_among(ordinary), capacity, setting: "size" })
    }

    fn allocate_from_history(self, preference: Preference) -> Option<Held<'a>> {
        for class in preference {
            if let Some(held) = self.claim_hinted(class).or_else(|| self.claim_from_bitmap(class)) {
                return Some(held);
            }
        }
        if let Some(held) = self.claim_hidden(preference) {
            return Some(held);
        }
        for _ in 0..ROUNDS {
            let mut relieved = false;
            for class in preference {
                for _ in 0..self.space.geometry.blocks[class] {
                    if !self.relieve(class) {
                        break;
                    }
                    relieved = true;
                    if let Some(held) = self.claim_hinted(class).or_else(|| self.claim_from_bitmap(class)) {
                        return Some(held);
                    }
                }
            }
            for class in preference {
                if self.resync(class) > 0
                    && let Some(held) = self.claim_from_bitmap(class).or_else(|| self.claim_any(class))
                {
                    return Some(held);
                }
            }
            // Otherwise others took what was given up for us.
            if !relieved {
                break;
            }
        }
        None
    }

    /// Before history is given up: are there free blocks that no bit tells of, as threads lost them as hints, or other processes have
    /// them as theirs?
    fn claim_hidden(self, preference: Preference) -> Option<Held<'a>> {
        let given_up = self.view().get(Header::evictions);
        if given_up < self.actor.hidden_due.load(Ordering::Relaxed) {
            return None;
        }
        let free: u64 = preference.iter().map(|&class| u64::from(self.resync(class))).sum();
        let blocks = u64::from(self.space.geometry.total_blocks());
        if free * HIDDEN_SHARE < blocks {
            self.actor.hidden_due.store(given_up.saturating_add(blocks / HIDDEN_REST).saturating_add(1), Ordering::Relaxed);
        }
        preference.iter().find_map(|&class| self.claim_from_bitmap(class))
    }

    /// Goes by the state words alone: others may have taken the bits of what is free, as hints or on their way.
    fn claim_any(self, class: usize) -> Option<Held<'a>> {
        let geometry = &self.space.geometry;
        let first = geometry.first_of(class);
        // The reserve is for others.
        (first..first + geometry.ordinary(class)).find_map(|block| self.claim(block))
    }

    /// How many blocks are free now.
    pub fn free_blocks(self) -> u64 {
        self.free_among(0..self.space.geometry.total_blocks())
    }

    fn free_among(self, blocks: impl Iterator<Item = u32>) -> u64 {
        blocks
            .filter_map(|block| self.space.geometry.block(block))
            .filter(|&(_, at)| state::of(self.word(at).load(Ordering::Relaxed)) == state::FREE)
            .count() as u64
    }

    /// HELD → LIVE, once something refers to the block. Fails harmlessly when whoever replaced that
    /// reference has already freed it.
    #[inline(always)]
    pub fn make_live(self, held: &Held<'_>) {
        let word = held.word();
        if reference::is_life(held.reference, word) {
            held.make_live_from(word);
        }
    }

    /// Frees the life of a block that `reference` names, with the rest of its chain. True: it was us.
    #[inline]
    pub fn free(self, reference: u64) -> bool {
        let block = reference::block(reference);
        let Some((_, words)) = self.block(block) else {
            return false;
        };
        let word = words[Block::state].load(Ordering::Acquire);
        let ours = reference::is_life(reference, word) || without("generation_in_free") && state::of(word) != state::FREE;
        ours && self.free_life(block, words, word)
    }

    /// The same of a block that was looked up, in the life that its state word showed.
    #[inline(always)]
    pub fn free_life(self, block: u32, words: &Words, mut word: u64) -> bool {
        let next = words[Block::next].load(Ordering::Relaxed);
        // HELD may turn LIVE under us once; a third look would be another life.
        for _ in 0..3 {
            // SYNC arena.free (W): pairs with (R) in `claim`.
            match words[Block::state].compare_exchange(word, state::with(word, state::FREE), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    point!("free.freed");
                    self.hint(block);
                    if next != 0 {
                        cold_path();
                        point!("free.head");
                        self.free_tail(next);
                    }
                    return true;
                }
                Err(now) if state::is_life(word, now) || without("generation_in_free") && state::of(now) != state::FREE => word = now,
                Err(_) => return false,
            }
        }
        false
    }

    /// Frees the later blocks of a chain. Who finds one freed leaves the rest to whoever freed it.
    pub fn free_tail(self, mut reference: u64) {
        for _ in 0..self.space.geometry.total_blocks() {
            let Some((_, at)) = self.space.geometry.block(reference::block(reference)) else {
                return;
            };
            let word = self.word(at).load(Ordering::Acquire);
            if !reference::is_life(reference, word) || state::of(word) != state::CONT {
                return;
            }
            let next = self.view().get(at + Block::next);
            let freed = state::with(word, state::FREE);
            if self.word(at).compare_exchange(word, freed, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                return;
            }
            self.hint(reference::block(reference));
            point!("free.tail");
            if next == 0 {
                return;
            }
            reference = next;
        }
    }

    /// Does this process hold any block at this moment?
    pub fn holds_anything(self) -> bool {
        let geometry = &self.space.geometry;
        let mut words = (0..geometry.total_blocks()).filter_map(|block| geometry.block(block)).map(|(_, at)| self.view().get(at));
        words.any(|word| state::of(word) == state::HELD && state::owner(word) == u64::from(self.actor.slot))
    }
}
