//! Who has died, as the kernel says, and settling them: by the keeper, by whoever asks for it, and by whoever finds the
//! segment full before a keeper came.
//!
//! Promise: it may be done by several at once, and be cut short anywhere; what is settled stays settled, and a slot is
//! free only once everything of its owner is.

use std::cell::Cell as Flag;
use std::fs::File;
use std::sync::atomic::{AtomicU64 as PrivateU64, Ordering as PrivateOrdering};

use crate::error::Result;
use crate::events::{self, Settled};
use crate::holds::owned_by;
use crate::layout::Header;
use crate::os::fork::{self, Borrowed, Guarded};
use crate::os::lock::Lock;
use crate::os::{clock, locks};
use crate::owned::{Dead, Departure};
use crate::points::point;
use crate::process::{FREE, LEAVING, SETTLED, SlotState, TAKEN};
use crate::reap::{scavenge, settle};
use crate::space::{Actor, Context, NO_SLOT, Reaper, Space};
use crate::sync::Ordering;

thread_local! {
    /// Is this thread settling?
    static SETTLING: Flag<bool> = const { Flag::new(false) };
}

/// The file whose locks tell who is alive, and the deaths that nobody was told of yet.
pub(crate) struct Deaths {
    file: Guarded,
    /// With the token of the process that settled them: what a forked child inherits, its parent tells.
    untold: Lock<(u64, Vec<Settled>)>,
    /// Monotonic microseconds until which nobody looks for want of room again.
    rest: PrivateU64,
}

/// So many times as long as a look in vain took, none is taken for want of room: a look asks the kernel of each process, and a
/// full segment is to refuse at about the cost of one that nobody else is attached to.
const REST: u64 = 10;
/// No longer than this, in microseconds: somebody may die meanwhile, and who was stopped took no time for it.
const LONGEST_REST: u64 = 5_000;

impl Deaths {
    /// None yet.
    pub fn new(file: Guarded) -> Deaths {
        Deaths { file, untold: Lock::default(), rest: PrivateU64::new(0) }
    }

    /// The segment's file; `None`: its descriptor is lost.
    pub fn file(&self) -> Option<Borrowed<'_>> {
        self.file.file()
    }

    /// Puts the same file, opened again, in the place of a lost descriptor.
    pub fn restore(&self, file: File) {
        self.file.restore(file);
    }

    /// Is it the segment's file?
    pub fn is_same(&self, file: &File) -> bool {
        self.file.is_same(file)
    }

    /// Tells of the deaths that were settled where nothing may be told.
    pub fn tell(&self, name: Option<&str>) {
        let (process, untold) = self.untold.try_lock().map(|mut untold| std::mem::take(&mut *untold)).unwrap_or_default();
        if process == fork::token() {
            events::settled(name, &untold);
        }
    }

    fn keep_untold(&self, settled: Vec<Settled>) {
        let mut untold = self.untold.lock();
        if untold.0 != fork::token() {
            *untold = (fork::token(), Vec::new());
        }
        untold.1.extend(settled);
    }
}

impl Reaper for Deaths {
    fn reap(&self, cx: Context<'_>) -> Result<bool> {
        let before = clock::monotonic_micros();
        let Some(file) = self.file.file().filter(|_| before >= self.rest.load(PrivateOrdering::Relaxed)) else {
            return Ok(false);
        };
        let Some(settled) = settle_if_dead(cx, &file)? else {
            let after = clock::monotonic_micros();
            let rest = after.saturating_sub(before).saturating_mul(REST).min(LONGEST_REST);
            self.rest.store(after.saturating_add(rest), PrivateOrdering::Relaxed);
            return Ok(false);
        };
        // Who finds a segment full may hold something, and is to wait for nobody who listens.
        if !settled.is_empty() {
            self.keep_untold(settled);
        }
        // Even where another process was faster: what they held is free.
        Ok(true)
    }
}

/// Settles every dead process; tells which it was us who settled. The actor may be one without a slot while we attach.
pub(crate) fn settle_dead(space: &Space, file: &File, actor: Option<&Actor>) -> Result<Vec<Settled>> {
    let spare = Actor::without_slot();
    let cx = Context { space, actor: actor.unwrap_or(&spare) };
    Ok(settle_if_dead(cx, file)?.unwrap_or_default())
}

/// The same. `None`: nobody was dead.
fn settle_if_dead(cx: Context<'_>, file: &File) -> Result<Option<Vec<Settled>>> {
    // What settling needs room for, it does not find by settling.
    if SETTLING.try_with(|settling| settling.replace(true)).unwrap_or(true) {
        return Ok(None);
    }
    let settled = settle_all(cx, file);
    let _ = SETTLING.try_with(|settling| settling.set(false));
    settled
}

fn settle_all(cx: Context<'_>, file: &File) -> Result<Option<Vec<Settled>>> {
    let Context { space, actor } = cx;
    let (mut crashed, mut left) = (Vec::new(), Vec::new());
    for slot in (0..space.geometry.slots).filter(|&slot| slot != actor.slot) {
        let seen = space.slot(slot);
        if matches!(seen.state(), TAKEN | LEAVING) && space.is_dead(file, seen)? {
            if seen.state() == TAKEN { crashed.push(seen) } else { left.push(seen) }
        }
    }
    if crashed.is_empty() && left.is_empty() {
        return Ok(None);
    }
    // Counted before it goes, and only where somebody wants to know.
    let mut held = events::deaths_are_heard().then(|| owned_by(cx, &crashed).0.by_owner);
    let owners = |slots: &[SlotState]| slots.iter().map(SlotState::owner).collect::<Vec<_>>();
    settle(cx, &Dead { owners: &owners(&crashed), departure: Departure::Crash })?;
    point!("reap.settled");
    settle(cx, &Dead { owners: &owners(&left), departure: Departure::Clean })?;
    point!("reap.left");
    let dead: Vec<SlotState> = crashed.into_iter().chain(left).collect();
    cx.settle_bells(|slot| dead.iter().any(|seen| u64::from(seen.slot) == slot && space.slot(seen.slot) == *seen));
    point!("reap.bells");
    // Without a slot we act behind the gate, alone: what such an actor held before us, it left behind.
    let alone = actor.slot == NO_SLOT;
    let held_by_dead = |slot: u64| dead.iter().any(|seen| u64::from(seen.slot) == slot && space.slot(seen.slot) == *seen);
    scavenge(cx, &|slot| held_by_dead(slot) || alone && slot == u64::from(NO_SLOT))?;
    point!("reap.scavenged");
    let mut settled = Vec::new();
    for seen in dead {
        // Only whoever locks the byte may let the slot be taken again; where a child still holds it,
        // the slot waits.
        let byte = space.slot_byte(seen.slot);
        let state = if locks::try_lock(file, byte)? { FREE } else { SETTLED };
        point!("reap.locked");
        let pid = u64::from(space.identity(seen.slot).pid);
        if space.turn_slot(seen, state) {
            let holds = held.as_mut().and_then(|held| held.remove(&seen.owner())).unwrap_or_default();
            settled.push(Settled { pid, slot: seen.slot, left: seen.state() == LEAVING, holds });
        }
        point!("reap.turned");
        if state == FREE {
            locks::unlock(file, byte)?;
        }
    }
    space.view.word(Header::reaps).fetch_add(settled.len() as u64, Ordering::Relaxed);
    Ok(Some(settled))
}

/// Is no process alive in any other slot?
pub(crate) fn nobody_alive(space: &Space, file: &File, except: Option<u32>) -> Result<bool> {
    for slot in (0..space.geometry.slots).filter(|&slot| Some(slot) != except) {
        let seen = space.slot(slot);
        if matches!(seen.state(), TAKEN | LEAVING) && !space.is_dead(file, seen)? {
            return Ok(false);
        }
    }
    Ok(true)
}
