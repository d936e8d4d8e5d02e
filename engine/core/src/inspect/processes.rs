//! Who is attached: alive, stopped or dead, asleep or awake, and what each holds.

use hashbrown::HashMap;
use serde::Serialize;

use super::{Inspector, Problems};
use crate::doorbell;
use crate::holds::{Holds, owned_by};
use crate::layout::{Bell, Header, Slot, means, state};
use crate::member::unix_seconds;
use crate::os::clock;
use crate::os::process;
use crate::process::{LEAVING, SETTLED, SlotState, TAKEN};
use crate::sync::Ordering;

/// Bytes of a command line that are shown.
const COMMAND: usize = 256;

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

impl Inspector {
    /// Who is attached, and what each holds. Reads every entry of the segment once.
    pub fn processes(&self) -> ProcessRows {
        let mut problems = Problems::default();
        let slots: Vec<SlotState> = (0..self.space.geometry.slots)
            .map(|slot| self.space.slot(slot))
            .filter(|slot| matches!(slot.state(), TAKEN | LEAVING | SETTLED))
            .collect();
        let (mut owned, unread) = owned_by(self.cx(), &slots);
        problems.0.extend(unread);
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
}
