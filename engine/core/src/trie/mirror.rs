//! A private mirror of a trie, brought up to date by what changed.
//!
//! A page's ref never repeats, so a subtree under a ref that was seen before is the same subtree: an update
//! descends only where refs differ and costs what changed. Nothing is kept in the segment for it.
//!
//! Promise: after `update` the mirror holds each entry as it stood at one moment during the call, and the
//! deltas, in order, are what turned the mirror before into the mirror now.

use super::page::{DEPTH_MAX, Entry, Page, nibble};
use super::{Attempt, Root, Stop, Trie, root_of, with_patience};
use crate::error::Result;
use crate::record::Record;

/// What happened to an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delta<T> {
    /// It is there now.
    Added(T),
    /// It was there. One that was replaced is removed and added.
    Removed(T),
}

struct Kept<T> {
    entry: Entry,
    value: T,
}

enum Node<T> {
    Leaf { reference: u64, kept: Vec<Kept<T>> },
    Inner { reference: u64, children: Box<[Node<T>; 16]> },
}

impl<T> Default for Node<T> {
    fn default() -> Node<T> {
        Node::Leaf { reference: 0, kept: Vec::new() }
    }
}

/// A mirror whose entries are kept as `T`.
pub struct Mirror<T> {
    node: Node<T>,
    word: u64,
}

impl<T> Default for Mirror<T> {
    fn default() -> Mirror<T> {
        Mirror { node: Node::default(), word: 0 }
    }
}

/// What is remembered of an entry; `None`: nothing, it does not count.
pub type Make<'f, T> = &'f mut dyn FnMut(&Entry, &Record) -> Option<T>;

impl<T: Clone> Mirror<T> {
    /// The root word that it mirrors; 0: none yet.
    pub fn word(&self) -> u64 {
        self.word
    }

    /// Brings the mirror up to date. Roots of other tries will do: what they share with this one is nothing.
    pub fn update(&mut self, trie: &Trie<'_>, make: Make<'_, T>) -> Result<Vec<Delta<T>>> {
        let mut deltas = Vec::new();
        let node = &mut self.node;
        self.word = with_patience(trie, |word| {
            match root_of(word) {
                // Should a page move on, what is up to date so far stays, and the next attempt skips it.
                Root::Page(reference) => node.update(trie, reference, (0, 0), make, &mut deltas)?,
                Root::Empty | Root::Sealed => node.drain(&mut deltas),
            }
            Ok(word)
        })?;
        Ok(deltas)
    }

    /// Empties the mirror.
    pub fn clear(&mut self) -> Vec<Delta<T>> {
        let mut deltas = Vec::new();
        self.node.drain(&mut deltas);
        self.word = 0;
        deltas
    }
}

impl<T: Clone> Node<T> {
    fn reference(&self) -> u64 {
        match self {
            Node::Leaf { reference, .. } | Node::Inner { reference, .. } => *reference,
        }
    }

    fn update(
        &mut self,
        trie: &Trie<'_>,
        now: u64,
        (depth, prefix): (u32, u64),
        make: Make<'_, T>,
        deltas: &mut Vec<Delta<T>>,
    ) -> Attempt<()> {
        if self.reference() == now {
            return Ok(());
        }
        match trie.page_at(now, depth, prefix).ok_or(Stop::Moved)? {
            Page::Leaf(entries) => self.become_leaf(trie, now, &entries, make, deltas),
            Page::Inner(_) if depth >= DEPTH_MAX => Err(Stop::Moved),
            Page::Inner(inner) => {
                let children = self.split(depth);
                for ((child, &now), nibble) in children.iter_mut().zip(&inner.children).zip(0_u64..) {
                    if now == 0 {
                        child.drain(deltas);
                    } else {
                        child.update(trie, now, (depth + 1, prefix | nibble << (60 - 4 * depth)), make, deltas)?;
                    }
                }
                if let Node::Inner { reference, .. } = self {
                    *reference = now;
                }
                Ok(())
            }
        }
    }

    /// The children of an inner node, which a leaf becomes first.
    fn split(&mut self, depth: u32) -> &mut [Node<T>; 16] {
        if let Node::Leaf { kept, .. } = self {
            let kept = std::mem::take(kept);
            let mut children: Box<[Node<T>; 16]> = Box::default();
            for one in kept {
                if let Node::Leaf { kept, .. } = &mut children[nibble(one.entry.place(), depth)] {
                    kept.push(one);
                }
            }
            *self = Node::Inner { reference: 0, children };
        }
        match self {
            Node::Inner { children, .. } => children,
            Node::Leaf { .. } => unreachable!("it was made an inner node just now"),
        }
    }

    fn become_leaf(&mut self, trie: &Trie<'_>, now: u64, entries: &[Entry], make: Make<'_, T>, deltas: &mut Vec<Delta<T>>) -> Attempt<()> {
        // First everything that may fail, then what changes the mirror.
        let mut fresh = Vec::with_capacity(entries.len());
        for entry in entries {
            let read = match self.holds(entry) {
                true => None,
                false => Some(make(entry, &trie.cx.record(entry.value).ok_or(Stop::Moved)?)),
            };
            fresh.push((*entry, read));
        }
        let mut old = Vec::new();
        self.flatten(&mut old);
        let mut kept = Vec::with_capacity(fresh.len());
        let mut added = Vec::new();
        for (entry, read) in fresh {
            match read {
                None => {
                    if let Some(at) = old.iter().position(|one: &Kept<T>| one.entry == entry) {
                        kept.push(old.swap_remove(at));
                    }
                }
                Some(Some(value)) => {
                    added.push(Delta::Added(value.clone()));
                    kept.push(Kept { entry, value });
                }
                Some(None) => {}
            }
        }
        deltas.extend(old.into_iter().map(|one| Delta::Removed(one.value)));
        deltas.extend(added);
        *self = Node::Leaf { reference: now, kept };
        Ok(())
    }

    fn holds(&self, entry: &Entry) -> bool {
        match self {
            Node::Leaf { kept, .. } => kept.iter().any(|one| one.entry == *entry),
            Node::Inner { children, .. } => children.iter().any(|child| child.holds(entry)),
        }
    }

    fn flatten(&mut self, out: &mut Vec<Kept<T>>) {
        match self {
            Node::Leaf { kept, .. } => out.append(kept),
            Node::Inner { children, .. } => children.iter_mut().for_each(|child| child.flatten(out)),
        }
    }

    fn drain(&mut self, deltas: &mut Vec<Delta<T>>) {
        let mut old = Vec::new();
        self.flatten(&mut old);
        deltas.extend(old.into_iter().map(|one| Delta::Removed(one.value)));
        *self = Node::default();
    }
}
