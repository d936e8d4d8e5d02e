//! Putting an entry without a record in the place of an older one; what has grown old beside it goes with the copy of its leaf,
//! so that a window of the latest needs no sweep of its own.

use super::edit::Draft;
use super::page::{Counts, Entries, Entry, read_leaf};
use super::{Root, Stop, Trie, VALUE_INLINE, root_of, with_patience};
use crate::error::Result;

/// What an entry in the same leaf is to one that is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Another, which stays.
    Other,
    /// Another, which goes.
    Old,
    /// The one that is replaced.
    Same,
    /// The one, and newer: nothing is put.
    Newer,
}

impl Trie<'_> {
    /// Puts an inline value at `place`, unless `standing` says of one there that it is newer.
    pub fn put_newest(&self, place: u64, value: u64, standing: impl Fn(u64) -> Standing) -> Result<()> {
        with_patience(self, |word| {
            let root = match root_of(word) {
                Root::Sealed => return Ok(()),
                Root::Empty => None,
                Root::Page(reference) => Some(reference),
            };
            let (mut path, leaf) = self.descend(root, place)?;
            let mut entries = Entries::new();
            if let Some(leaf) = &leaf {
                read_leaf(leaf.words, &mut entries).filter(|()| self.cx.are_still(leaf.reference, leaf.words)).ok_or(Stop::Moved)?;
            }
            let before = Counts::of(&entries);
            let stands = |entry: &Entry| match standing(entry.value) {
                // Two of one leaf may be alike but for their places.
                Standing::Same | Standing::Newer if entry.place() != place => Standing::Other,
                standing => standing,
            };
            if entries.iter().any(|entry| stands(entry) == Standing::Newer) {
                return Ok(());
            }
            entries.retain(|entry| stands(entry) == Standing::Other);
            let index = entries.iter().position(|entry| entry.place() > place).unwrap_or(entries.len());
            entries.insert(index, Entry::new(place, 0, value | VALUE_INLINE));
            let mut draft = Draft { grows: true, ..Draft::default() };
            draft.old.extend(leaf.map(|leaf| leaf.reference));
            let outcome = self.rebuilt(&entries, path.len() as u32, before, &mut draft).and_then(|leaf| {
                let mut reference = leaf.reference;
                while let Some(step) = path.pop() {
                    reference = self.changed_inner(&step, path.len() as u32, place, (reference, leaf.before, leaf.after), &mut draft)?;
                }
                Ok(Some(reference))
            });
            if self.commit(word, outcome, &draft)? { Ok(()) } else { Err(Stop::Moved) }
        })
    }
}
