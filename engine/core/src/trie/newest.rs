//! Putting an entry without a record in the place of an older one; what has grown old beside it goes with the copy of its leaf,
//! so that a window of the latest needs no sweep of its own.

use super::edit::{Draft, Path};
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
            let mut path = Path::new();
            let leaf = self.descend(root, place, &mut path)?;
            let mut found = Entries::new();
            if let Some(leaf) = &leaf {
                read_leaf(leaf, path.len() as u32, &mut found)
                    .filter(|()| self.cx.are_still(leaf.reference, leaf.words))
                    .ok_or(Stop::Moved)?;
            }
            let before = Counts::of(&found);
            let mut new = Some(Entry::new(place, 0, value | VALUE_INLINE));
            let mut entries = Entries::new();
            for entry in found {
                if entry.place() > place {
                    entries.extend(new.take());
                }
                match standing(entry.value) {
                    Standing::Newer if entry.place() == place => return Ok(()),
                    Standing::Same if entry.place() == place => {}
                    Standing::Old => {}
                    // Two of one leaf may be alike but for their places.
                    _ => entries.push(entry),
                }
            }
            entries.extend(new);
            let mut draft = Draft { grows: true, ..Draft::default() };
            // Where values are inline, the root names no record.
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

#[cfg(all(test, not(modelled)))]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::geometry::Geometry;
    use crate::layout::Header;
    use crate::space::{Actor, Context, Space};
    use crate::trie::Change;

    const ORDINAL: u64 = (1 << 40) - 1;

    fn mark(id: u64) -> u64 {
        VALUE_INLINE | (id + 1) << 41
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        /// Ids come again, some are indexed late, and places are shared: what is inside the window is there with its latest
        /// ordinal, what is shown of the rest is outside of it, and the counts are exact.
        #[test]
        fn what_is_in_the_window_is_there(
            steps in proptest::collection::vec((0_u64..60, 0_u64..8), 1..400),
            window in 0_u64..80,
            crowded in any::<bool>(),
        ) {
            let space = Space::boxed(Geometry::tiny(4, 2, 2, [2000, 40, 4]));
            let actor = Actor::new(0, 1);
            let trie = Trie::new(Context { space: &space, actor: &actor }, Header::worlds);
            let place = |id: u64| if crowded { (id / 6) << 4 } else { space.hash(&id.to_le_bytes()).place() };
            let free = trie.cx.free_blocks();
            let (mut latest, mut next) = (BTreeMap::new(), 0_u64);
            for (id, late) in steps {
                let ordinal = if late == 7 { next.saturating_sub(5) } else { next };
                next += u64::from(late != 7);
                trie.put_newest(place(id), mark(id) | ordinal, |other| {
                    let (is_same, other) = (other & !ORDINAL == mark(id), other & ORDINAL);
                    match is_same {
                        true if other < ordinal => Standing::Same,
                        true => Standing::Newer,
                        false if other + window < ordinal + 1 => Standing::Old,
                        false => Standing::Other,
                    }
                })?;
                let known = latest.entry(id).or_insert(ordinal);
                *known = ordinal.max(*known);
                for (&id, &ordinal) in &latest {
                    let found = trie.find(place(id), |value| Some(value & !ORDINAL == mark(id)))?.map(|entry| entry.value & ORDINAL);
                    match ordinal + window >= next {
                        true => prop_assert_eq!(found, Some(ordinal)),
                        false => prop_assert!(found.is_none_or(|found| found + window < next)),
                    }
                }
                let mut listed = 0;
                trie.entries(|_| listed += 1)?;
                prop_assert_eq!(trie.live()?, listed);
            }
            let mut from = Some(0);
            while let Some(cursor) = from {
                from = trie.sweep(cursor, false, |_, _: &mut Vec<()>| Ok(Change::Remove))?.1;
            }
            prop_assert_eq!(trie.cx.free_blocks(), free);
        }
    }
}
