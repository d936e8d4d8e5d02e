//! What a thread remembers of channels by name: where they are, and how many handles they had under
//! which root. Only memory: a cell's state word says whether its life is still open, a root word
//! whether the count still holds, so what is stale is looked up again. Per thread, so without a lock
//! that a fork could find held.

use std::cell::RefCell;
use std::hash::BuildHasher;
use std::rc::Rc;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::bound::Bound;
use crate::hint::cold_path;
use crate::layout::Channel;
use crate::space::Context;
use crate::sync::Ordering;
use crate::view::CellWords;

/// Names remembered before everything is forgotten.
const REMEMBERED: usize = 16 << 10;

/// What is remembered of a channel.
pub(crate) struct Known {
    facade: u64,
    name: Box<str>,
    hash: u64,
    /// Where it is. Not copied: it would be passed on from hand to hand.
    pub bound: Rc<Bound>,
    /// The root word of its handles when they were counted, and the count.
    pub heard: (u64, u64),
}

impl Known {
    /// Is it the channel of this name?
    #[inline(always)]
    fn is(&self, facade: u64, name: &str) -> bool {
        self.facade == facade && is_same(self.name.as_bytes(), name.as_bytes())
    }

    /// How many handles the channel has, unless their root word is not any more the one under which they were counted.
    pub fn heard_now(&self, cx: Context<'_>) -> Option<u64> {
        self.heard_in(self.bound.words(cx)?)
    }

    /// The same by the words of its cell.
    #[inline(always)]
    pub fn heard_in(&self, cell: &CellWords) -> Option<u64> {
        let root = cell[Channel::handles].load(Ordering::Acquire);
        (root == self.heard.0).then_some(self.heard.1)
    }
}

#[derive(Default)]
struct Names {
    hasher: DefaultHashBuilder,
    known: Vec<Known>,
    /// Where in `known` a name is.
    table: HashTable<usize>,
    /// The one asked for last: who publishes much does so to one channel for a while, and then there is nothing to be hashed.
    last: usize,
}

impl Names {
    #[inline(never)]
    fn index_of(&self, facade: u64, name: &str) -> Option<usize> {
        let hash = self.hasher.hash_one(name);
        self.table.find(hash, |&index| self.known.get(index).is_some_and(|known| known.is(facade, name))).copied()
    }
}

thread_local! {
    static NAMES: RefCell<Names> = RefCell::default();
}

/// As `==`, which calls a function that is made for longer texts.
#[inline(always)]
fn is_same(one: &[u8], other: &[u8]) -> bool {
    fn ends<const N: usize>(bytes: &[u8]) -> Option<([u8; N], [u8; N])> {
        Some((*bytes.first_chunk()?, *bytes.last_chunk()?))
    }
    if one.len() != other.len() {
        return false;
    }
    match one.len() {
        17.. | 0..4 => one == other,
        8.. => ends::<8>(one) == ends::<8>(other),
        4.. => ends::<4>(one) == ends::<4>(other),
    }
}

/// Calls `with` with what is remembered of a facade's channel.
#[inline]
pub(crate) fn recall<R>(facade: u64, name: &str, with: impl FnOnce(&mut Known) -> R) -> Option<R> {
    NAMES.with_borrow_mut(|names| {
        // The second time it is the one. (Once in here, so that `with` becomes part of its caller.)
        loop {
            if let Some(known) = names.known.get_mut(names.last)
                && known.is(facade, name)
            {
                return Some(with(known));
            }
            cold_path();
            names.last = names.index_of(facade, name)?;
        }
    })
}

/// Remembers where a channel is.
pub(crate) fn remember(facade: u64, name: &str, bound: &Rc<Bound>) {
    if recall(facade, name, |known| (known.bound, known.heard) = (bound.clone(), (0, 0))).is_some() {
        return;
    }
    NAMES.with_borrow_mut(|names| {
        if names.known.len() >= REMEMBERED {
            names.known.clear();
            names.table.clear();
        }
        let hash = names.hasher.hash_one(name);
        names.last = names.known.len();
        names.known.push(Known { facade, name: name.into(), hash, bound: bound.clone(), heard: (0, 0) });
        names.table.insert_unique(hash, names.last, |&index| names.known.get(index).map_or(0, |known| known.hash));
    });
}
