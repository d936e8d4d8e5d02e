//! What a thread remembers of channels by name. Only memory, as every `Target`: what is stale is looked up again. Per thread, so
//! without a lock that a fork could find held.

use std::cell::RefCell;
use std::hash::BuildHasher;
use std::rc::Rc;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::bound::Bound;
use crate::hint::cold_path;
use crate::target::Target;

/// Names remembered before everything is forgotten.
const REMEMBERED: usize = 16 << 10;

/// What is remembered of a channel.
struct Known {
    name: Box<str>,
    hash: u64,
    target: Target,
}

impl Known {
    /// Is it the channel of this name?
    #[inline(always)]
    fn is(&self, facade: u64, name: &str) -> bool {
        self.target.is_of(facade) && is_same(self.name.as_bytes(), name.as_bytes())
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
pub(crate) fn recall<R>(facade: u64, name: &str, with: impl FnOnce(&mut Target) -> R) -> Option<R> {
    NAMES.with_borrow_mut(|names| {
        // The second time it is the one. (Once in here, so that `with` becomes part of its caller.)
        loop {
            if let Some(known) = names.known.get_mut(names.last)
                && known.is(facade, name)
            {
                return Some(with(&mut known.target));
            }
            cold_path();
            names.last = names.index_of(facade, name)?;
        }
    })
}

/// Remembers where a channel is.
pub(crate) fn remember(facade: u64, name: &str, bound: &Rc<Bound>) {
    let new = || Target::of(facade, bound.clone());
    if recall(facade, name, |target| *target = new()).is_some() {
        return;
    }
    NAMES.with_borrow_mut(|names| {
        if names.known.len() >= REMEMBERED {
            names.known.clear();
            names.table.clear();
        }
        let hash = names.hasher.hash_one(name);
        names.last = names.known.len();
        names.known.push(Known { name: name.into(), hash, target: new() });
        names.table.insert_unique(hash, names.last, |&index| names.known.get(index).map_or(0, |known| known.hash));
    });
}
