//! Deciding over many entries at once: as many leaves as there is room for change with one swap of the root.

use super::edit::{Draft, Edited, Verdict, planned};
use super::page::{DEPTH_MAX, Edit, Entries, Entry, Page, is_lone, last_below};
use super::{Attempt, Change, Root, Stop, Trie, root_of, with_patience};
use crate::error::{Error, Result};

type Decide<'f, 'a, T> = &'f mut dyn FnMut(&Entry, &mut Vec<T>) -> Attempt<Verdict<'a>>;

/// A sweep over many leaves.
struct Sweep<'f, 'a, T> {
    from: u64,
    only_marked: bool,
    budget: u32,
    next: Option<u64>,
    taken: Vec<T>,
    decide: Decide<'f, 'a, T>,
}

/// Leaves that a sweep changes with one swap of the root; fewer where the arena is full.
const BUDGETS: [u32; 3] = [256, 8, 1];

impl<'a> Trie<'a> {
    /// Decides over every entry from `from` on, in order of place, changing up to 256 leaves with one
    /// swap of the root. Gives what `decide` collected and where to go on. With `only_marked`, subtrees
    /// without pending joins or leaves are skipped.
    pub fn sweep<T>(
        &self,
        from: u64,
        only_marked: bool,
        mut decide: impl FnMut(&Entry, &mut Vec<T>) -> Attempt<Verdict<'a>>,
    ) -> Result<(Vec<T>, Option<u64>)> {
        let mut budgets = BUDGETS.into_iter();
        let mut attempt = |budget| {
            with_patience(self, |word| {
                let Root::Page(root) = root_of(word) else {
                    return Ok((Vec::new(), None));
                };
                let mut sweep = Sweep { from, only_marked, budget, next: None, taken: Vec::new(), decide: &mut decide };
                let mut draft = Draft::default();
                let outcome = self.sweep_below(root, 0, 0, &mut sweep, &mut draft);
                let (taken, next) = (sweep.taken, sweep.next);
                let outcome = outcome.map(|edited| edited.map(|edited| edited.reference));
                if self.commit(word, outcome, &draft)? { Ok((taken, next)) } else { Err(Stop::Moved) }
            })
        };
        let mut swept = attempt(budgets.next().unwrap_or(1));
        // Where there is no room for the new pages of many leaves, there is for a few.
        while let (Err(Error::Full { .. }), Some(budget)) = (&swept, budgets.next()) {
            swept = attempt(budget);
        }
        swept
    }

    fn sweep_below<T>(
        &self,
        reference: u64,
        depth: u32,
        prefix: u64,
        sweep: &mut Sweep<'_, 'a, T>,
        draft: &mut Draft<'a>,
    ) -> Attempt<Option<Edited>> {
        if last_below(prefix, depth) < sweep.from {
            return Ok(None);
        }
        if sweep.budget == 0 {
            sweep.next.get_or_insert(prefix.max(sweep.from));
            return Ok(None);
        }
        let page = self.page_at(reference, depth, prefix).ok_or(Stop::Moved)?;
        let before = page.counts();
        if sweep.only_marked && before.marked() == 0 {
            return Ok(None);
        }
        match page {
            Page::Leaf(found) => {
                let is_lone = depth == 0 && is_lone(reference, &found);
                let mut entries = Entries::new();
                let mut changed = false;
                for entry in found {
                    let change = if entry.place() < sweep.from { Change::Keep } else { (sweep.decide)(&entry, &mut sweep.taken)? };
                    match planned(change, Some(entry), entries.len(), entry.place(), draft) {
                        None => entries.push(entry),
                        Some(Edit::Replace(_, entry) | Edit::Insert(_, entry)) => {
                            changed = true;
                            entries.push(entry);
                        }
                        Some(Edit::Remove(_)) => changed = true,
                    }
                }
                if !changed {
                    return Ok(None);
                }
                sweep.budget -= 1;
                // As in `changed_lone`: without a page it takes no more than it frees.
                match &entries[..] {
                    _ if !is_lone => draft.old.push(reference),
                    [entry] if entry.may_be_lone() => return Ok(Some(Edited { reference: entry.value, before, after: before })),
                    _ => draft.grows = true,
                }
                self.rebuilt(&entries, depth, before, draft).map(Some)
            }
            Page::Inner(mut inner) => {
                if depth >= DEPTH_MAX {
                    return Err(Stop::Moved);
                }
                let mut changed = false;
                for index in 0..16 {
                    if inner.children[index] == 0 {
                        continue;
                    }
                    let below = prefix | (index as u64) << (60 - 4 * depth);
                    if let Some(edited) = self.sweep_below(inner.children[index], depth + 1, below, sweep, draft)? {
                        inner.children[index] = edited.reference;
                        inner.counts = inner.counts.exchange(edited.before, edited.after);
                        changed = true;
                    }
                }
                if !changed {
                    return Ok(None);
                }
                draft.old.push(reference);
                self.inner_rebuilt(inner, prefix, depth, before, draft).map(Some)
            }
        }
    }
}
