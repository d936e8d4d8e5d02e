//! What processes own, counted over the whole segment: for who looks on, and for the log when one has died.
//! Promise: nothing is written.

use hashbrown::HashMap;
use serde::Serialize;

use crate::cells::Cell;
use crate::error::Result;
use crate::layout::{Channel, Group, World, cell_kind, state};
use crate::process::SlotState;
use crate::reap::each_cell;
use crate::record::Front;
use crate::space::Context;
use crate::trie::Trie;

/// What a process owns, alone or with others.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Holds {
    /// Blocks that it is writing just now.
    pub blocks: u64,
    /// Open handles.
    pub handles: u64,
    /// Registered subscriptions.
    pub subscriptions: u64,
    /// Members it tracks.
    pub members: u64,
    /// Heartbeat clients it watches.
    pub clients: u64,
    /// Subscriptions to topic patterns.
    pub topics: u64,
}

/// What is owned, by owner; and what nobody owns.
#[derive(Default)]
pub(crate) struct Owned {
    /// By slot and incarnation.
    pub by_owner: HashMap<u64, Holds>,
    /// What nobody owns.
    pub ownerless: Holds,
}

impl Owned {
    /// Counts an entry for each of its owners that is attached, or as ownerless.
    fn count(&mut self, owners: &[u64], of: impl Fn(&mut Holds) -> &mut u64) {
        let mut owned = false;
        for owner in owners {
            if let Some(holds) = self.by_owner.get_mut(owner) {
                *of(holds) += 1;
                owned = true;
            }
        }
        if !owned {
            *of(&mut self.ownerless) += 1;
        }
    }
}

impl std::fmt::Display for Holds {
    /// Only what there is.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all = [
            (self.handles, "handles"),
            (self.subscriptions, "subscriptions"),
            (self.members, "members"),
            (self.clients, "heartbeat clients"),
            (self.topics, "topic patterns"),
            (self.blocks, "blocks it was writing"),
        ];
        let held: Vec<String> = all.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect();
        f.write_str(if held.is_empty() { "nothing" } else { "" })?;
        f.write_str(&held.join(", "))
    }
}

/// What the processes of these slots own; and what could not be read, in words.
pub(crate) fn owned_by(cx: Context<'_>, slots: &[SlotState]) -> (Owned, Vec<String>) {
    let geometry = &cx.space.geometry;
    let (mut owned, mut unread) = (Owned::default(), Vec::new());
    let mut by_slot = HashMap::new();
    for slot in slots {
        owned.by_owner.insert(slot.owner(), Holds::default());
        by_slot.insert(u64::from(slot.slot), slot.owner());
    }
    for (_, at) in (0..geometry.total_blocks()).filter_map(|block| geometry.block(block)) {
        let word = cx.view().get(at);
        if state::of(word) == state::HELD
            && let Some(holds) = by_slot.get(&state::owner(word)).and_then(|owner| owned.by_owner.get_mut(owner))
        {
            holds.blocks += 1;
        }
    }
    let listed = each_cell(cx, |cell, kind| {
        if let Err(error) = count_owned(cx, &mut owned, cell, kind)
            // What is wrong with a cell that is just being made, or becoming another, is not wrong.
            && matches!(cell.state(cx), Some(state::LIVE | state::RETIRED))
        {
            unread.push(format!("cell {}, whose its entries are: {error}", cell.number()));
        }
        Ok(())
    });
    unread.extend(listed.err().map(|error| format!("the cells: {error}")));
    (owned, unread)
}

fn count_owned(cx: Context<'_>, owned: &mut Owned, cell: Cell, kind: u64) -> Result<()> {
    let mut count = |field: usize, of: fn(&mut Holds) -> &mut u64| owners(cell.trie(cx, field), |owners| owned.count(owners, of));
    match kind {
        cell_kind::CHANNEL | cell_kind::BROADCAST => {
            count(Channel::handles, |holds| &mut holds.handles)?;
            count(Channel::subscribers, |holds| &mut holds.subscriptions)
        }
        cell_kind::GROUP => count(Group::members, |holds| &mut holds.members),
        cell_kind::WORLD => {
            count(World::heartbeats, |holds| &mut holds.clients)?;
            for field in [World::manager_topics, World::free_topics, World::patterns] {
                count(field, |holds| &mut holds.topics)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Calls `see` with the owners of each live entry of a group. An entry whose record has moved on is left out.
fn owners(group: Trie<'_>, mut see: impl FnMut(&[u64])) -> Result<()> {
    let mut front = Front::default();
    group.entries(|entry| {
        if entry.is_live() && group.cx.front(entry.value, &mut front).is_some() {
            see(&front.owners);
        }
    })
}
