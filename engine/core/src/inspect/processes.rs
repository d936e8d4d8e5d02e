//! Who is attached: alive, stopped or dead, asleep or awake, and what each holds.

use hashbrown::HashMap;
use serde::Serialize;

use super::{Inspector, Problems};
use crate::arena::Info;
use crate::cells::Cell;
use crate::error::Result;
use crate::layout::{Bell, Block, Channel, Group, Header, Slot, World as WorldCell, cell_kind, kind, means, state};
use crate::os::clock;
use crate::os::process;
use crate::presence::unix_seconds;
use crate::process::{LEAVING, SETTLED, SlotState, TAKEN};
use crate::reap::each_cell;
use crate::sync::Ordering;
use crate::{doorbell, trie};

/// Bytes of a command line that are shown.
const COMMAND: usize = 256;

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

/// One of its event loops or threads that wait.
#[derive(Clone, Debug, Serialize)]
pub struct WaiterRow {
    /// The bell's number.
    pub bell: u32,
    /// `thread` or `event loop`.
    pub waits_as: &'static str,
    /// `awake`, `asleep`, `being rung` or `rung`.
    pub state: &'static str,
}

/// One process.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessRow {
    /// Its slot.
    pub slot: u32,
    /// Its process id, in its own pid namespace.
    pub pid: u64,
    /// Its start time, in clock ticks since boot.
    pub start_time: u64,
    /// How many processes have had the slot, this one included.
    pub incarnation: u64,
    /// `running`, `sleeping` or `stopped` as the kernel says; `alive`: it has its lock and cannot be seen from here;
    /// `leaving`; `dead`: it is to be reaped; `settled`: it was reaped, and a child keeps its slot.
    pub state: &'static str,
    /// Is it alive?
    pub alive: bool,
    /// When it attached, in seconds since 1970.
    pub attached_at: f64,
    /// Seconds since then.
    pub attached_seconds: f64,
    /// Did its keeper beat last?
    pub keeper: bool,
    /// `asleep` when every loop and thread that waits is asleep, `awake` when one is not; `None`: none waits.
    pub waiting: Option<&'static str>,
    /// Its event loops and threads that wait.
    pub waiters: Vec<WaiterRow>,
    /// What it owns.
    pub holds: Holds,
    /// The beginning of its command line; `None`: it cannot be seen from here.
    pub command: Option<String>,
}

/// Processes.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessRows {
    /// By slot.
    pub processes: Vec<ProcessRow>,
    /// Members that nobody owns: their processes left in order.
    pub ownerless_members: u64,
    /// Heartbeat clients that nobody owns.
    pub ownerless_clients: u64,
    /// What could not be read.
    pub problems: Vec<String>,
}

/// What is owned, by owner; and what nobody owns.
#[derive(Default)]
struct Owned {
    by_owner: HashMap<u64, Holds>,
    ownerless: Holds,
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

impl Inspector {
    /// Who is attached, and what each holds. Reads every entry of the segment once.
    pub fn processes(&self) -> ProcessRows {
        let mut problems = Problems::default();
        let slots: Vec<SlotState> = (0..self.space.geometry.slots)
            .map(|slot| self.space.slot(slot))
            .filter(|slot| matches!(slot.state(), TAKEN | LEAVING | SETTLED))
            .collect();
        let mut owned = self.owned(&slots, &mut problems);
        let mut waiters = self.waiters();
        let keeper = self.cx().view().get(Header::keeper);
        let processes = slots
            .iter()
            .map(|slot| {
                let holds = owned.by_owner.remove(&slot.owner()).unwrap_or_default();
                self.process(*slot, holds, waiters.remove(&slot.owner()).unwrap_or_default(), keeper)
            })
            .collect();
        let (ownerless_members, ownerless_clients) = (owned.ownerless.members, owned.ownerless.clients);
        ProcessRows { processes, ownerless_members, ownerless_clients, problems: problems.0 }
    }

    fn process(&self, slot: SlotState, holds: Holds, waiters: Vec<WaiterRow>, keeper: u64) -> ProcessRow {
        let identity = self.space.identity(slot.slot);
        let alive = slot.state() != SETTLED && !self.is_dead(slot.slot);
        let state = match (slot.state(), alive) {
            (SETTLED, _) => "settled",
            (_, false) => "dead",
            (LEAVING, true) => "leaving",
            (_, true) => match process::activity(&identity) {
                Some('T' | 't') => "stopped",
                Some('R') => "running",
                Some(_) => "sleeping",
                None => "alive",
            },
        };
        let since = self.cx().view().get(self.space.slot_at(slot.slot) + Slot::since);
        let awake = waiters.iter().any(|waiter| waiter.state != "asleep");
        ProcessRow {
            slot: slot.slot,
            pid: u64::from(identity.pid),
            start_time: identity.start_time,
            incarnation: slot.incarnation(),
            state,
            alive,
            attached_at: unix_seconds(self.cx(), since),
            attached_seconds: clock::monotonic_micros().saturating_sub(since) as f64 / 1e6,
            keeper: slot.owner() == keeper,
            waiting: (!waiters.is_empty()).then_some(if awake { "awake" } else { "asleep" }),
            waiters,
            holds,
            command: process::command(&identity, COMMAND),
        }
    }

    /// Who waits, by owner.
    fn waiters(&self) -> HashMap<u64, Vec<WaiterRow>> {
        let cx = self.cx();
        let mut waiters: HashMap<u64, Vec<WaiterRow>> = HashMap::new();
        for bell in 0..self.space.geometry.bells {
            let Some(at) = self.space.geometry.bell(bell) else {
                continue;
            };
            if state::of(cx.word(at).load(Ordering::Acquire)) == state::HELD {
                let waits_as = if cx.view().get(at + Bell::kind) == means::FUTEX { "thread" } else { "event loop" };
                let state = doorbell::owner_is(cx.view().get(at + Bell::bell));
                waiters.entry(cx.view().get(at + Bell::owner)).or_default().push(WaiterRow { bell, waits_as, state });
            }
        }
        waiters
    }

    /// What the processes of these slots own.
    fn owned(&self, slots: &[SlotState], problems: &mut Problems) -> Owned {
        let (cx, geometry) = (self.cx(), &self.space.geometry);
        let mut owned = Owned::default();
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
            let counted = self.count_owned(&mut owned, cell, kind);
            self.keep_of_cell(problems, cell, &format!("cell {}, whose its entries are", cell.number), counted);
            Ok(())
        });
        problems.keep("the cells", listed);
        owned
    }

    fn count_owned(&self, owned: &mut Owned, cell: Cell, kind: u64) -> Result<()> {
        let mut count =
            |field: usize, of: fn(&mut Holds) -> &mut u64| self.owners(cell.trie(self.cx(), field), |owners| owned.count(owners, of));
        match kind {
            cell_kind::CHANNEL | cell_kind::BROADCAST => {
                count(Channel::handles, |holds| &mut holds.handles)?;
                count(Channel::subscribers, |holds| &mut holds.subscriptions)
            }
            cell_kind::GROUP => count(Group::members, |holds| &mut holds.members),
            cell_kind::WORLD => {
                count(WorldCell::heartbeats, |holds| &mut holds.clients)?;
                for field in [WorldCell::manager_topics, WorldCell::free_topics, WorldCell::patterns] {
                    count(field, |holds| &mut holds.topics)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Calls `see` with the owners of each live entry of a group. Only the owners are copied: keys and values may be
    /// long, and there may be a million of them. An entry whose record has moved on is left out.
    fn owners(&self, group: trie::Trie<'_>, mut see: impl FnMut(&[u64])) -> Result<()> {
        let cx = self.cx();
        let mut owners = Vec::new();
        group.entries(|entry| {
            if !entry.is_live() {
                return;
            }
            let Some((_, at)) = cx.life(entry.value) else {
                return;
            };
            if Info(cx.view().get(at + Block::info)).kind() != kind::RECORD {
                return;
            }
            let first = at + Block::WORDS;
            // At most as many as lie in the smallest block; a record with more has others for company.
            let count = (cx.view().get(first) >> 32 & 0xffff).min(23) as usize;
            owners.clear();
            owners.extend((1..=count).map(|index| cx.view().get(first + index)));
            if cx.still(entry.value, at) {
                see(&owners);
            }
        })
    }
}
