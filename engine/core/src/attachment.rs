//! What this process is in a segment: its slot, taken at attach or at a forked child's first use; its part in keeping; its
//! leave.

use std::sync::atomic::{AtomicBool, AtomicU64 as PrivateU64, Ordering as PrivateOrdering};
use std::sync::{Arc, Weak};

use once_cell::race::OnceBox;

use crate::attach::{Gate, UNLINK_WHEN_UNUSED, find_or_create, lost};
use crate::deaths::{Deaths, nobody_alive, settle_dead};
use crate::error::{Error, Result};
use crate::events::{self, NowAndThen};
use crate::geometry::{Geometry, Options};
use crate::hint::cold_path;
use crate::keeper;
use crate::lagging::Watcher;
use crate::layout::{Header, LAYOUT_VERSION};
use crate::os::fork::{Borrowed, Guarded};
use crate::os::lock::Lock;
use crate::os::{clock, fork, locks, shm};
use crate::owned::{Dead, Departure};
use crate::points::point;
use crate::process::{FREE, LEAVING, SlotState, TAKEN};
use crate::reap::settle;
use crate::space::{Actor, Context, Space, owner_slot};
use crate::sync::Ordering;

/// What one process of a family of forks is in the segment.
pub(crate) struct Membership {
    /// The process, as `fork::token` tells it.
    pub token: u64,
    pub actor: Actor,
    pub slot: SlotState,
    /// Unique over this program's life, forked children included.
    pub attachment: u64,
    pub keeper: AtomicBool,
    /// `Header::attaches` when last looked at.
    pub known: PrivateU64,
    /// The membership of a forked child, and so on.
    next: OnceBox<Membership>,
}

pub(crate) struct Attachment {
    pub name: Option<String>,
    pub space: Space,
    deaths: Arc<Deaths>,
    pub closed: AtomicBool,
    membership: OnceBox<Membership>,
    /// What the keeper sweeps.
    pub waitlists: Lock<Vec<Weak<dyn Swept>>>,
    /// Held while a lost descriptor is replaced.
    restoring: Lock<()>,
    /// `Header::evictions` when the keeper last told of them; all ones: it has not looked.
    evictions_told: PrivateU64,
    evictions_due: NowAndThen,
    /// What the keeper knows of handles that lag.
    watcher: Lock<Watcher>,
}

static ATTACHMENTS: PrivateU64 = PrivateU64::new(1);

/// Where sleepers are that the keeper looks after.
pub(crate) trait Swept: Send + Sync {
    /// Rings for whoever has news and was not told.
    fn sweep(&self);
}

/// Starts the keeper of an attachment; it ends with it.
pub(crate) fn keep(attachment: &Arc<Attachment>) {
    let kept = Arc::downgrade(attachment);
    keeper::start(move || {
        let goes_on = kept.upgrade().is_some_and(|attachment| attachment.keeper_round());
        // Nothing is held here: whoever listens to the log may take its time.
        log::logger().flush();
        goes_on
    });
}

impl Attachment {
    /// An attachment that has no slot yet.
    pub fn new(name: Option<String>, space: Space, file: Guarded) -> Attachment {
        let deaths = Arc::new(Deaths::new(file));
        Attachment {
            name,
            space: space.with_reaper(deaths.clone()),
            deaths,
            closed: AtomicBool::new(false),
            membership: OnceBox::new(),
            waitlists: Lock::default(),
            restoring: Lock::default(),
            evictions_told: PrivateU64::new(u64::MAX),
            evictions_due: NowAndThen::new(),
            watcher: Lock::default(),
        }
    }

    /// The segment's file. Where somebody closed our descriptor (a daemoniser closes all), it is opened anew by
    /// the segment's name, and our slot's byte locked again: until then we were alive by our pid.
    pub fn file(&self) -> Result<Borrowed<'_>> {
        if let Some(file) = self.deaths.file() {
            return Ok(file);
        }
        // One thread at a time: to two, each other's lock would be another process's.
        let _turn = self.restoring.lock();
        if self.closed.load(PrivateOrdering::Acquire) {
            return Err(Error::Closed);
        }
        if self.deaths.file().is_none()
            && let Some(name) = &self.name
            && let Ok(file) = shm::open_existing(name, LAYOUT_VERSION)
            && self.deaths.is_same(&file)
        {
            // Before any other thread has the file: where our pid cannot be seen we were taken for dead, and the slot may be
            // another's by now.
            if let Some(membership) = self.present() {
                let slot = membership.slot.slot;
                if !locks::try_lock(&file, self.space.slot_byte(slot))? || self.space.slot(slot) != membership.slot {
                    self.closed.store(true, PrivateOrdering::Release);
                    return Err(Error::Closed);
                }
            }
            self.deaths.restore(file);
        }
        self.deaths.file().ok_or_else(lost)
    }

    #[inline(always)]
    pub fn membership(&self) -> Result<&Membership> {
        if self.closed.load(PrivateOrdering::Relaxed) {
            cold_path();
            return Err(Error::Closed);
        }
        let token = fork::token();
        self.find(token).or_else(|place| self.join(place, token))
    }

    /// A process's membership, or the place where it is to be.
    #[inline(always)]
    fn find(&self, token: u64) -> std::result::Result<&Membership, &OnceBox<Membership>> {
        let mut place = &self.membership;
        while let Some(membership) = place.get() {
            if membership.token == token {
                return Ok(membership);
            }
            place = &membership.next;
        }
        Err(place)
    }

    /// Takes a slot: at attach, or in a forked child on its first use.
    #[cold]
    fn join<'a>(&'a self, place: &'a OnceBox<Membership>, token: u64) -> Result<&'a Membership> {
        let turn = Turn::take(token);
        let file = self.file()?;
        let gate = Gate::enter(&file)?;
        if let Some(membership) = place.get().filter(|membership| membership.token == token) {
            return Ok(membership);
        }
        let mut settled = Vec::new();
        let slot = match self.space.take_slot(&file) {
            Err(Error::Full { .. }) => {
                settled = settle_dead(&self.space, &file, None)?;
                self.space.take_slot(&file)?
            }
            other => other?,
        };
        let membership = Membership {
            token,
            actor: Actor::new(slot.slot, slot.incarnation()),
            slot,
            attachment: ATTACHMENTS.fetch_add(1, PrivateOrdering::Relaxed) ^ token << 32,
            keeper: AtomicBool::new(false),
            known: PrivateU64::new(self.space.view.get(Header::attaches)),
            next: OnceBox::new(),
        };
        drop(gate);
        let membership = place.get_or_init(|| Box::new(membership));
        drop(turn);
        events::settled(self.name.as_deref(), &settled);
        events::attached(self.name.as_deref(), membership.slot.slot, self.space.geometry.size);
        Ok(membership)
    }

    /// One round of keeping; false: there is nothing left to keep.
    fn keeper_round(&self) -> bool {
        if self.closed.load(PrivateOrdering::Acquire) {
            return false;
        }
        self.sweep();
        // Who died may have been settled on the way of this process, whoever keeps the segment.
        self.deaths.tell(self.name.as_deref());
        // A lost descriptor is noticed here at the latest.
        let _ = self.file();
        let now = clock::monotonic_micros();
        let beat = self.space.view.word(Header::keeper_beat);
        let last = beat.load(Ordering::Relaxed);
        // A beat, not a lock: a keeper that is stopped or slow is simply overtaken.
        let Ok(membership) = self.membership() else {
            return false;
        };
        let (me, keeper) = (membership.actor.owner, self.space.view.word(Header::keeper));
        let due = now.saturating_sub(last) >= keeper::due(keeper.load(Ordering::Relaxed) == me) || last > now;
        if due && beat.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let before = keeper.swap(me, Ordering::Relaxed);
            if before != me {
                events::keeper_changed(self.name.as_deref(), self.pid_of(before));
            }
            self.tell_of_trouble(membership, now);
            // What cannot be settled now is settled in a later round, by whoever can.
            return self.reap().is_ok() || !self.closed.load(PrivateOrdering::Acquire);
        }
        true
    }

    /// The process id of an owner, while it is attached.
    fn pid_of(&self, owner: u64) -> Option<u64> {
        let slot = self.space.slot(owner_slot(owner));
        (owner != 0 && slot.owner() == owner && slot.state() == TAKEN).then(|| u64::from(self.space.identity(slot.slot).pid))
    }

    /// What an operator should know of, and nobody else tells: history that is given up, handles that lag.
    fn tell_of_trouble(&self, membership: &Membership, now: u64) {
        let evictions = self.space.view.get(Header::evictions);
        let told = self.evictions_told.load(PrivateOrdering::Relaxed);
        if told == u64::MAX {
            // What was given up before we kept it was told by others.
            self.evictions_told.store(evictions, PrivateOrdering::Relaxed);
        } else if evictions > told && self.evictions_due.is_due() {
            self.evictions_told.store(evictions, PrivateOrdering::Relaxed);
            events::history_given_up(self.name.as_deref(), evictions - told);
        }
        // Held: by nobody but a keeper of a parent process, if at all.
        if let Some(mut watcher) = self.watcher.try_lock() {
            let cx = Context { space: &self.space, actor: &membership.actor };
            watcher.look(cx, self.name.as_deref(), now);
        }
    }

    /// Rings for sleepers whose publisher could not.
    fn sweep(&self) {
        // Held: somebody is just adding one; the next round sweeps.
        let lists: Vec<_> = match self.waitlists.try_look() {
            Some(lists) => lists.iter().filter_map(Weak::upgrade).collect(),
            None => return,
        };
        lists.iter().for_each(|list| list.sweep());
    }

    pub fn reap(&self) -> Result<usize> {
        let membership = self.membership()?;
        let file = self.file()?;
        self.deaths.tell(self.name.as_deref());
        let settled = settle_dead(&self.space, &file, Some(&membership.actor))?;
        events::settled(self.name.as_deref(), &settled);
        Ok(settled.len())
    }

    /// Ends this process's part in order.
    pub fn detach(&self) -> Result<()> {
        if self.closed.swap(true, PrivateOrdering::AcqRel) {
            return Ok(());
        }
        // A forked child that never used the segment has no part in it.
        self.present().map_or(Ok(()), |membership| self.leave(membership))
    }

    /// What this process is in the segment, if anything.
    pub fn present(&self) -> Option<&Membership> {
        self.find(fork::token()).ok()
    }

    /// Ends the waits of this process, which find the segment closed, and frees their bells.
    fn wake_waiting(&self, cx: Context<'_>, owner: u64) {
        cx.ring_own(owner);
        cx.settle_bells(|slot| slot == u64::from(cx.actor.slot));
        // Others' bells, too, must look closed to whoever tidies up once their owners are gone.
        cx.space.ringer.rest();
    }

    fn leave(&self, membership: &Membership) -> Result<()> {
        let space = &self.space;
        let cx = Context { space, actor: &membership.actor };
        let file = self.file();
        // From here on a reaper takes a death for a clean leave.
        space.turn_slot(membership.slot, LEAVING);
        point!("detach.leaving");
        let seen = space.slot(membership.slot.slot);
        if seen.owner() != membership.slot.owner() {
            return Ok(());
        }
        settle(cx, &Dead { owners: &[membership.actor.owner], departure: Departure::Clean })?;
        point!("detach.settled");
        self.wake_waiting(cx, membership.actor.owner);
        point!("detach.bells");
        cx.give_hints_back();
        // Without the file (see `file`) nobody can be kept away from the slot: it is free once the process is gone.
        let Ok(file) = file else {
            return Ok(());
        };
        let _turn = Turn::take(membership.token);
        // Another thread of ours may be in the middle of a change. Its blocks must stay ours until it can
        // write no more: the slot then waits, as leaving, for the process to be gone. (A look at every block: not
        // behind the gate, where all others who come and go would wait for it.)
        let in_the_middle = cx.holds_anything();
        let gate = Gate::enter(&file)?;
        if !in_the_middle {
            space.turn_slot(seen, FREE);
            point!("detach.free");
            locks::unlock(&file, space.slot_byte(seen.slot))?;
            point!("detach.unlocked");
        }
        if let Some(name) = &self.name
            && space.view.get(Header::flags) & UNLINK_WHEN_UNUSED != 0
            && nobody_alive(space, &file, Some(seen.slot))?
        {
            shm::unlink_if_same(name, LAYOUT_VERSION, &file)?;
        }
        drop(gate);
        self.deaths.tell(self.name.as_deref());
        events::detached(self.name.as_deref(), seen.slot);
        Ok(())
    }
}

/// One thread of this process joins or leaves at a time: the gate, a lock of the open file description, does not
/// keep threads apart. Marked by the process's token, so that a mark inherited over a fork counts for none.
struct Turn;

static JOINING: PrivateU64 = PrivateU64::new(0);

impl Turn {
    fn take(token: u64) -> Turn {
        loop {
            let seen = JOINING.load(PrivateOrdering::Relaxed);
            if seen != token && JOINING.compare_exchange(seen, token, PrivateOrdering::Acquire, PrivateOrdering::Relaxed).is_ok() {
                return Turn;
            }
            std::thread::sleep(std::time::Duration::from_micros(100));
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        JOINING.store(0, PrivateOrdering::Release);
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        // Whatever could not be done in order is done by a reaper.
        let _ = self.detach();
    }
}

/// Attaches by name. A slot is taken before anybody can unlink the segment as unused, or we look again.
pub(crate) fn attach_named(name: &str, create: Option<(&Geometry, &Options)>) -> Result<Attachment> {
    for _ in 0..1024 {
        let Some((space, file)) = find_or_create(name, create)? else {
            continue;
        };
        let attachment = Attachment::new(Some(name.to_owned()), space, file);
        attachment.membership()?;
        // Between the gate and our slot somebody may have left as the last and unlinked the name.
        let still_named = shm::same_file(name, LAYOUT_VERSION, &*attachment.file()?)?;
        if still_named {
            return Ok(attachment);
        }
    }
    Err(Error::Os {
        operation: "attaching to",
        subject: format!("segment {name:?}, which is unlinked again and again"),
        errno: libc::EAGAIN,
    })
}
