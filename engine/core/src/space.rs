//! The segment as the algorithms see it: words, geometry, hash key, and who is acting.
//! No clock, no pid and no kernel in here: tests and loom run the same code on a boxed slice.

use std::sync::Arc;

use crossbeam_utils::CachePadded;
use siphasher::{sip::SipHasher13, sip128};

use crate::error::Result;
use crate::geometry::Geometry;
use crate::layout::{Header, Slot, reference, state};
use crate::mutants::without;
use crate::sync::{AtomicU64, Ordering};
use crate::view::View;

/// A segment's words and what divides them.
pub struct Space {
    /// The words.
    pub view: View,
    /// The validated capacities: a private copy that nobody outside can change.
    pub geometry: Geometry,
    /// What rings a bell whose owner sleeps: the kernel, or a test's stand-in.
    pub ringer: Box<dyn Ringer>,
    /// What makes room in the arena when nothing else can.
    pub(crate) last_resort: Option<LastResort>,
    /// Who settles the dead, where there is a kernel to ask.
    pub(crate) reaper: Option<Arc<dyn Reaper>>,
    key: (u64, u64),
}

/// Makes room. False: there is none to be made.
pub(crate) type LastResort = for<'a> fn(Context<'a>) -> Result<bool>;

/// The kernel's part of settling the dead.
pub(crate) trait Reaper: Send + Sync {
    /// Settles whoever is dead. False: nobody was, or this thread is at it.
    fn reap(&self, cx: Context<'_>) -> Result<bool>;
}

/// The kernel's part of waking somebody. Called with the bell's number and which of its lives is meant.
pub trait Ringer: Send + Sync {
    /// Makes the owner's wait end.
    fn ring(&self, space: &Space, bell: u32, generation: u64);
    /// This life of a bell is over: what it had in the kernel goes.
    fn freed(&self, bell: u32, generation: u64);
    /// This process rings no more: what it keeps to ring others goes.
    fn rest(&self);
}

/// Rings nothing: where nobody can sleep.
pub struct Silent;

impl Ringer for Silent {
    fn ring(&self, _: &Space, _: u32, _: u64) {}
    fn freed(&self, _: u32, _: u64) {}
    fn rest(&self) {}
}

/// How many blocks may be remembered of one class: as many as fit into two lines.
pub(crate) const HINTS: usize = 15;

/// Blocks of one class that this process freed or found lately, which are in the caches: a stack, with its top aside, where the
/// first stays until it is taken. Only hints: where two threads are here at once, one may be lost (`claim_hidden` finds it) or be
/// got twice.
#[derive(Default)]
pub(crate) struct Hints {
    /// Block number + 1; 0: none. Aside, as who publishes frees one and takes one, in turns.
    top: AtomicU64,
    /// Where the next of the others is put, unless another thread has moved it elsewhere since.
    next: AtomicU64,
    /// Block numbers + 1; 0: none.
    others: [AtomicU64; HINTS - 1],
}

impl Hints {
    /// Remembers a block. False: there are `most`.
    #[inline(always)]
    pub fn push(&self, block: u32, most: usize) -> bool {
        if self.top.load(Ordering::Relaxed) != 0 {
            return self.push_other(block, most - 1);
        }
        self.top.store(u64::from(block) + 1, Ordering::Relaxed);
        true
    }

    /// Takes the one on top.
    #[inline(always)]
    pub fn pop_top(&self) -> Option<u32> {
        let top = self.top.load(Ordering::Relaxed);
        if top == 0 {
            return None;
        }
        self.top.store(0, Ordering::Relaxed);
        Some(top as u32 - 1)
    }

    /// Takes one.
    pub fn pop(&self) -> Option<u32> {
        self.pop_top().or_else(|| self.pop_other())
    }

    /// Takes all; no more than there may be, as other threads add to them.
    pub fn take_all(&self) -> impl Iterator<Item = u32> {
        (0..HINTS).map_while(|_| self.pop())
    }

    #[inline(never)]
    fn push_other(&self, block: u32, most: usize) -> bool {
        let places = &self.others[..most.min(HINTS - 1)];
        let is_free = |at: &usize| places.get(*at).is_some_and(|place| place.load(Ordering::Relaxed) == 0);
        let next = self.next.load(Ordering::Relaxed) as usize;
        let Some(at) = Some(next).filter(is_free).or_else(|| (0..places.len()).find(is_free)) else {
            return false;
        };
        places[at].store(u64::from(block) + 1, Ordering::Relaxed);
        self.next.store(at as u64 + 1, Ordering::Relaxed);
        true
    }

    #[inline]
    fn pop_other(&self) -> Option<u32> {
        let there = |at: usize| Some((at, self.others.get(at)?.load(Ordering::Relaxed))).filter(|&(_, block)| block != 0);
        let next = self.next.load(Ordering::Relaxed) as usize;
        let (at, block) = there(next.wrapping_sub(1)).or_else(|| (0..self.others.len()).rev().find_map(there))?;
        self.others[at].store(0, Ordering::Relaxed);
        self.next.store(at as u64, Ordering::Relaxed);
        Some(block as u32 - 1)
    }
}

/// The slot of an actor that has none.
pub(crate) const NO_SLOT: u32 = 0xfff;

/// The acting process: its slot and its private hints. Hints are only hints: every one is checked
/// by the compare-and-swap that claims the block.
pub struct Actor {
    /// Its slot, the owner in state words.
    pub slot: u32,
    /// The lower bits of a state word of what it holds.
    held: u64,
    /// incarnation << 12 | slot: the owner wherever owners are kept.
    pub owner: u64,
    /// Blocks freed lately, per class.
    pub(crate) hints: [CachePadded<Hints>; 3],
    /// Where the next search of a class's bitmap begins.
    pub(crate) cursors: [AtomicU64; 3],
    /// Where the next search for cells, for units, and for history to give up begins.
    pub(crate) cell_cursor: AtomicU64,
    pub(crate) unit_cursor: AtomicU64,
    pub(crate) pressure_cursor: AtomicU64,
    /// How much history must have been given up in all before hidden blocks are looked for again.
    pub(crate) hidden_due: AtomicU64,
    pub(crate) bell_cursor: AtomicU64,
    /// One more than `removals` when no removed channel was found that could be given up.
    pub(crate) nothing_removed: AtomicU64,
}

impl Actor {
    /// One that looks on, or acts behind the gate, alone.
    pub(crate) fn without_slot() -> Actor {
        Actor::new(NO_SLOT, 0)
    }

    /// An actor in a slot.
    pub fn new(slot: u32, incarnation: u64) -> Actor {
        let cursor = || AtomicU64::new(u64::from(slot) * 7);
        Actor {
            slot,
            held: state::pack(0, u64::from(slot), state::HELD),
            owner: owner(incarnation, slot),
            hints: std::array::from_fn(|_| CachePadded::default()),
            cursors: std::array::from_fn(|_| cursor()),
            cell_cursor: AtomicU64::new(0),
            unit_cursor: AtomicU64::new(0),
            pressure_cursor: AtomicU64::new(0),
            hidden_due: AtomicU64::new(0),
            bell_cursor: AtomicU64::new(0),
            nothing_removed: AtomicU64::new(0),
        }
    }

    /// The state word by which it claims what is `free`: HELD, one generation later.
    #[inline(always)]
    pub(crate) const fn next_life(&self, free: u64) -> u64 {
        state::next(free) | self.held
    }
}

/// An owner: which slot in which incarnation. Never 0, as incarnations start at 1.
pub const fn owner(incarnation: u64, slot: u32) -> u64 {
    incarnation << 12 | slot as u64 & 0xfff
}

/// The slot of an owner.
pub const fn owner_slot(owner: u64) -> u32 {
    (owner & 0xfff) as u32
}

/// The keyed hash of a name or an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hash(pub u64);

impl Hash {
    /// The 60 bits that place an entry in a trie, in the upper bits of a word.
    #[inline(always)]
    pub const fn place(self) -> u64 {
        self.0 & !0xf
    }

    /// The place of a pair: 40 bits of the first, 20 bits of the second, so that all pairs of one
    /// first half are neighbours.
    #[inline(always)]
    pub const fn pair(self, second: Hash) -> u64 {
        self.0 & PAIR_MASK | second.0 >> 40 & !0xf & !PAIR_MASK
    }
}

/// A client's id and its hash.
pub(crate) type Client<'a> = (&'a str, Hash);

/// The bits of a pair's place that come from its first half.
pub const PAIR_MASK: u64 = !0 << 24;

impl Space {
    /// Wraps words of a known geometry.
    pub fn new(view: View, geometry: Geometry, ringer: Box<dyn Ringer>) -> Space {
        let key = (view.get(Header::key0), view.get(Header::key1));
        Space { view, geometry, ringer, last_resort: None, reaper: None, key }
    }

    /// With what is to make room when nothing else can: known to higher layers.
    pub(crate) fn with_last_resort(self, last_resort: LastResort) -> Space {
        Space { last_resort: Some(last_resort), ..self }
    }

    /// With who is to settle the dead before anything is given up for want of room.
    pub(crate) fn with_reaper(self, reaper: Arc<dyn Reaper>) -> Space {
        Space { reaper: Some(reaper), ..self }
    }

    /// A small segment on the heap, ready for use: for tests and for the model checker.
    pub fn boxed(geometry: Geometry) -> Space {
        Space::boxed_with(geometry, Box::new(Silent))
    }

    /// As `boxed`, with a stand-in for the kernel.
    pub fn boxed_with(geometry: Geometry, ringer: Box<dyn Ringer>) -> Space {
        let view = View::boxed(geometry.words);
        let space = Space::new(view, geometry, ringer);
        space.format();
        space
    }

    /// Fills in what a fresh, zeroed segment needs before anybody may use it.
    pub fn format(&self) {
        self.view.set(Header::worlds, self.fresh_empty());
        for class in 0..3 {
            let blocks = self.geometry.ordinary(class) as usize;
            for word in 0..blocks.div_ceil(64) {
                let bits = (blocks - word * 64).min(64);
                self.view.set(self.geometry.bits_at[class] + word, !0 >> (64 - bits));
            }
        }
    }

    /// An EMPTY root word whose tag was never used before.
    pub fn fresh_empty(&self) -> u64 {
        self.fresh_tag() << reference::BLOCK_BITS | reference::EMPTY
    }

    /// A SEALED root word whose tag was never used before.
    pub fn fresh_sealed(&self) -> u64 {
        self.fresh_tag() << reference::BLOCK_BITS | reference::SEALED
    }

    fn fresh_tag(&self) -> u64 {
        if without("root_tag") {
            return 0;
        }
        self.view.word(Header::tags).fetch_add(1, Ordering::Relaxed) & reference::GENERATION_MASK
    }

    /// The keyed hash of a name or an id: SipHash-1-3, with the segment's random key.
    #[inline]
    pub fn hash(&self, bytes: &[u8]) -> Hash {
        Hash(SipHasher13::new_with_keys(self.key.0, self.key.1).hash(bytes))
    }

    /// Another of twice as many bits, under the same key; either half stands by itself.
    pub fn wide_hash(&self, bytes: &[u8]) -> (Hash, u64) {
        let hash = sip128::SipHasher13::new_with_keys(self.key.0, self.key.1).hash(bytes);
        (Hash(hash.h1), hash.h2)
    }

    /// The first word of a slot.
    #[inline(always)]
    pub fn slot_at(&self, slot: u32) -> usize {
        self.geometry.slots_at + slot.min(self.geometry.slots - 1) as usize * Slot::WORDS
    }

    /// Is `index` a word that may be a root: one of the header's or inside a cell?
    pub fn may_be_root(&self, index: usize) -> bool {
        let cells = self.geometry.cells_at..self.geometry.units_at;
        index == Header::worlds || cells.contains(&index)
    }
}

/// A space and who acts on it: what every algorithm takes.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The segment.
    pub space: &'a Space,
    /// The acting process.
    pub actor: &'a Actor,
}

impl<'a> Context<'a> {
    /// Settles whoever is dead, where there is a kernel to ask. False: nobody was.
    pub(crate) fn reap(self) -> Result<bool> {
        self.space.reaper.as_ref().map_or(Ok(false), |reaper| reaper.reap(self))
    }

    /// The words.
    #[inline(always)]
    pub fn view(self) -> &'a View {
        &self.space.view
    }

    /// The word at `index`.
    #[inline(always)]
    pub fn word(self, index: usize) -> &'a AtomicU64 {
        self.space.view.word(index)
    }
}

#[cfg(all(test, not(modelled)))]
mod tests {
    use super::*;

    #[test]
    fn hints_give_each_block_once_the_top_first_and_then_the_last() {
        for most in [4, HINTS] {
            let hints = Hints::default();
            assert_eq!(hints.pop(), None);
            // Block 0 is one like any other.
            let taken = (0..20).take_while(|&block| hints.push(block, most)).count();
            assert_eq!(taken, most);
            let expected: Vec<u32> = std::iter::once(0).chain((1..most as u32).rev()).collect();
            assert_eq!(std::iter::from_fn(|| hints.pop()).collect::<Vec<_>>(), expected);
            assert!(hints.push(7, most) && hints.pop() == Some(7) && hints.pop().is_none());
        }
    }

    #[test]
    fn a_late_thread_hides_no_hints() {
        for late in 0..HINTS as u64 {
            let hints = Hints::default();
            assert!((0..10).all(|block| hints.push(block, HINTS)));
            // Of a thread that had looked when there were more of them, or fewer.
            hints.next.store(late, Ordering::Relaxed);
            assert!(hints.push(10, HINTS));
            let mut found: Vec<u32> = std::iter::from_fn(|| hints.pop()).collect();
            found.sort_unstable();
            assert_eq!(found, (0..=10).collect::<Vec<_>>());
        }
    }

    #[test]
    fn pairs_of_one_first_half_are_neighbours() {
        let space = Space::boxed(Geometry::tiny(1, 1, 1, [4, 0, 0]));
        let alice = space.hash(b"alice");
        let places: Vec<u64> = (0..100).map(|i| alice.pair(space.hash(format!("room {i}").as_bytes()))).collect();
        assert!(places.iter().all(|place| place & PAIR_MASK == alice.0 & PAIR_MASK && place & 0xf == 0));
        assert!(places.windows(2).any(|pair| pair[0] != pair[1]));
    }
}
