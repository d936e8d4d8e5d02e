//! A segment: create, attach, detach, unlink; and what this process is in it.
//!
//! Creation, attaching and the last detaching happen under the lock of the file's first byte. The
//! kernel drops it with its holder, and who holds it does a bounded amount of work, so an attach
//! waits for a living process at most; for one that is stopped it gives up after five seconds with an
//! error. Everything else in the engine waits for nobody.

use std::sync::atomic::{AtomicBool, AtomicU64 as PrivateU64, Ordering as PrivateOrdering};
use std::sync::{Arc, Weak};

use hashbrown::HashMap;
use once_cell::race::OnceBox;

use crate::attach::{Gate, UNLINK_WHEN_UNUSED, create_space, find_or_create, lost, nobody_alive, settle_dead, unlink};
use crate::error::{Error, Result};
use crate::events::{self, NowAndThen};
use crate::geometry::Geometry;
pub use crate::geometry::Options;
use crate::keeper;
use crate::lagging::Watcher;
use crate::layout::{Header, LAYOUT_VERSION};
use crate::os::bell::Shelf;
use crate::os::fork::{Borrowed, Guarded};
use crate::os::lock::Lock;
use crate::os::{clock, fork, locks, shm};
use crate::owned::{Dead, Departure};
use crate::points::point;
use crate::process::{FREE, LEAVING, SlotState, TAKEN};
use crate::reap::{scavenge, settle};
use crate::space::{Actor, Context, Space, owner_slot};
use crate::sync::Ordering;

/// What one process of a family of forks is in the segment.
struct Membership {
    /// The process, as `fork::token` tells it.
    token: u64,
    actor: Actor,
    slot: SlotState,
    /// Unique over this program's life, forked children included.
    attachment: u64,
    keeper: AtomicBool,
    /// `Header::attaches` when last looked at.
    known: PrivateU64,
    /// The membership of a forked child, and so on.
    next: OnceBox<Membership>,
}

struct Attachment {
    name: Option<String>,
    space: Space,
    file: Guarded,
    closed: AtomicBool,
    membership: OnceBox<Membership>,
    /// What the keeper sweeps.
    waitlists: Lock<Vec<Weak<dyn Swept>>>,
    /// `Header::evictions` when the keeper last told of them; all ones: it has not looked.
    evictions_told: PrivateU64,
    evictions_due: NowAndThen,
    /// What the keeper knows of handles that lag.
    watcher: Lock<Watcher>,
}

/// A segment that this process is attached to. Clones share the attachment.
#[derive(Clone)]
pub struct Segment(Arc<Attachment>);

/// Where sleepers are that the keeper looks after.
pub(crate) trait Swept: Send + Sync {
    /// Rings for whoever has news and was not told.
    fn sweep(&self);
}

/// A segment without keeping this process attached.
#[derive(Clone)]
pub(crate) struct WeakSegment(Weak<Attachment>);

impl WeakSegment {
    pub(crate) fn upgrade(&self) -> Option<Segment> {
        self.0.upgrade().map(Segment)
    }
}

/// Attachments of this process by name, so that several managers share one slot.
static ATTACHED: Lock<Option<HashMap<String, Weak<Attachment>>>> = Lock::new(None);
/// Private attachments, for `detach_all`.
static PRIVATE: Lock<Vec<Weak<Attachment>>> = Lock::new(Vec::new());
static ATTACHMENTS: PrivateU64 = PrivateU64::new(1);

impl Segment {
    /// Attaches to the segment of this name; creates it if there is none.
    pub fn open(name: &str, options: &Options) -> Result<Segment> {
        let geometry = Geometry::divide(options)?;
        Segment::named(name, Some((&geometry, options)))
    }

    /// Attaches to the segment of this name.
    pub fn attach(name: &str) -> Result<Segment> {
        Segment::named(name, None)
    }

    fn named(name: &str, create: Option<(&Geometry, &Options)>) -> Result<Segment> {
        shm::validate_name(name)?;
        if let Some(segment) = Segment::known(name)? {
            return Ok(segment);
        }
        // Not under the lock: attaching may wait, and a fork meanwhile would leave the child a locked map.
        let attachment = Arc::new(attach_named(name, create)?);
        let known = Segment::known(name)?;
        if let Some(segment) = known {
            // Another thread was first; ours detaches when it is dropped.
            return Ok(segment);
        }
        let mut attached = ATTACHED.lock();
        attached.get_or_insert_with(HashMap::new).insert(name.to_owned(), Arc::downgrade(&attachment));
        Ok(Segment(attachment))
    }

    /// The attachment that this process has to the segment that the name leads to now.
    fn known(name: &str) -> Result<Option<Segment>> {
        let known = {
            let attached = ATTACHED.lock();
            attached.as_ref().and_then(|attached| attached.get(name)).and_then(Weak::upgrade)
        };
        let Some(attachment) = known.filter(|attachment| !attachment.closed.load(PrivateOrdering::Acquire)) else {
            return Ok(None);
        };
        // What was closed behind our back and has lost its name, too, is no segment to be shared.
        let same = match attachment.file() {
            Ok(file) => shm::same_file(name, LAYOUT_VERSION, &file)?,
            Err(_) => false,
        };
        Ok(same.then_some(Segment(attachment)))
    }

    /// A segment without a name, for this process and the children it forks.
    pub fn private(options: &Options) -> Result<Segment> {
        let geometry = Geometry::divide(options)?;
        let guarded = Guarded::new(shm::memfd("hypern-rt")?);
        let file = guarded.file().ok_or_else(lost)?;
        shm::reserve(&file, geometry.size, "a private segment")?;
        shm::fix_size(&file)?;
        let space = create_space(&file, None, &geometry, options)?;
        let attachment = Arc::new(Attachment {
            name: None,
            space,
            file: guarded,
            closed: AtomicBool::new(false),
            membership: OnceBox::new(),
            waitlists: Lock::default(),
            evictions_told: PrivateU64::new(u64::MAX),
            evictions_due: NowAndThen::new(),
            watcher: Lock::default(),
        });
        let segment = Segment(attachment);
        segment.attached()?;
        let mut private = PRIVATE.lock();
        private.retain(|other| other.strong_count() > 0);
        private.push(Arc::downgrade(&segment.0));
        Ok(segment)
    }

    /// Removes the name; attached processes go on. False: there was none.
    pub fn unlink_name(name: &str) -> Result<bool> {
        shm::validate_name(name)?;
        match shm::open_existing(name, LAYOUT_VERSION) {
            Ok(file) => unlink(name, &file),
            Err(Error::NotFound { .. }) => shm::tidy_all(LAYOUT_VERSION).map(|()| false),
            Err(error) => Err(error),
        }
    }

    /// Removes this segment's name, if it is still this segment's. False: it was not.
    pub fn unlink(&self) -> Result<bool> {
        match &self.0.name {
            Some(name) => unlink(name, &*self.0.file()?),
            None => Ok(false),
        }
    }

    /// The name; `None`: private.
    pub fn name(&self) -> Option<&str> {
        self.0.name.as_deref()
    }

    /// Bytes in all.
    pub fn size(&self) -> u64 {
        self.0.space.geometry.size
    }

    /// Was it closed in this process?
    pub fn is_closed(&self) -> bool {
        self.0.closed.load(PrivateOrdering::Acquire)
    }

    /// Do both handles share an attachment?
    pub fn ptr_eq(&self, other: &Segment) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Detaches in order: subscriptions end, members and clients stay. Again is harmless.
    pub fn close(&self) -> Result<()> {
        self.0.detach()
    }

    /// Segment and acting process; attaches a forked child on its first use.
    #[inline(always)]
    pub(crate) fn cx(&self) -> Result<Context<'_>> {
        Ok(self.attached()?.0)
    }

    /// As `cx`, with the number of the attachment: another in each forked child.
    #[inline(always)]
    pub(crate) fn attached(&self) -> Result<(Context<'_>, u64)> {
        let membership = self.0.membership()?;
        let cx = Context { space: &self.0.space, actor: &membership.actor };
        Ok((cx, membership.attachment))
    }

    /// The acting process if it is attached as `attachment`: never attaches anybody.
    pub(crate) fn joined(&self, attachment: u64) -> Option<Context<'_>> {
        let membership = self.0.present()?;
        let ours = membership.attachment == attachment && !self.is_closed();
        ours.then_some(Context { space: &self.0.space, actor: &membership.actor })
    }

    /// A handle that keeps nobody attached.
    pub(crate) fn downgrade(&self) -> WeakSegment {
        WeakSegment(Arc::downgrade(&self.0))
    }

    /// Where the segment's bells are found; `None`: it has no name.
    pub(crate) fn shelf(&self) -> Result<Option<Shelf>> {
        Shelf::of(self.name(), self.0.space.view.get(Header::identity))
    }

    /// Has the keeper look after a waitlist.
    pub(crate) fn sweeps(&self, list: Weak<dyn Swept>) {
        let mut lists = self.0.waitlists.lock();
        lists.retain(|list| list.strong_count() > 0);
        lists.push(list);
    }

    /// To be called before something is owned: whoever owns something keeps the segment in order.
    pub(crate) fn owns_something(&self) -> Result<()> {
        let membership = self.0.membership()?;
        // Nobody else ever attached to a private segment: there is nobody to notice.
        let alone = self.0.name.is_none() && self.0.space.view.get(Header::attaches) <= 1;
        if !alone && !membership.keeper.swap(true, PrivateOrdering::AcqRel) {
            keep(&self.0);
        }
        Ok(())
    }

    /// To be called by reads that show other processes' things: once another process has attached to
    /// a private segment, somebody must notice its death.
    pub(crate) fn tend(&self) -> Result<()> {
        let membership = self.0.membership()?;
        let attaches = self.0.space.view.get(Header::attaches);
        if self.0.name.is_none() && membership.known.swap(attaches, PrivateOrdering::Relaxed) != attaches {
            self.owns_something()?;
        }
        Ok(())
    }

    /// Starts the keeper of this process, which reaps within a second; normally it starts by itself.
    pub fn start_keeper(&self) -> Result<()> {
        let membership = self.0.membership()?;
        if !membership.keeper.swap(true, PrivateOrdering::AcqRel) {
            keep(&self.0);
        }
        Ok(())
    }

    /// Settles dead processes now; how many there were.
    pub fn reap(&self) -> Result<usize> {
        self.0.reap()
    }

    /// Does the kernel say that the process of this slot is gone? Where it cannot be asked, no.
    pub(crate) fn is_dead(&self, slot: u32) -> bool {
        let space = &self.0.space;
        self.0.file().is_ok_and(|file| space.is_dead(&file, space.slot(slot)).unwrap_or(false))
    }

    /// Everything that nothing refers to is returned; for tests and for an operator.
    pub fn scavenge(&self) -> Result<crate::reap::Scavenged> {
        let cx = self.cx()?;
        let space = &self.0.space;
        scavenge(cx, &|slot| !matches!(space.slot(slot as u32).state(), TAKEN | LEAVING))
    }
}

/// Starts the keeper of an attachment; it ends with it.
fn keep(attachment: &Arc<Attachment>) {
    let kept = Arc::downgrade(attachment);
    keeper::start(move || {
        let goes_on = kept.upgrade().is_some_and(|attachment| attachment.keeper_round());
        // Nothing is held here: whoever listens to the log may take its time.
        log::logger().flush();
        goes_on
    });
}

impl Attachment {
    /// The segment's file. Where somebody closed our descriptor (a daemoniser closes all), it is opened anew by
    /// the segment's name, and our slot's byte locked again: until then we were alive by our pid.
    fn file(&self) -> Result<Borrowed<'_>> {
        if let Some(file) = self.file.file() {
            return Ok(file);
        }
        if let Some(name) = &self.name
            && let Ok(file) = shm::open_existing(name, LAYOUT_VERSION)
            && self.file.restore(file)
            && let (Some(membership), Some(file)) = (self.present(), self.file.file())
        {
            let slot = membership.slot.slot;
            // Where our pid cannot be seen we were taken for dead, and the slot may be another's by now.
            if !locks::try_lock(&file, self.space.slot_byte(slot))? || self.space.slot(slot) != membership.slot {
                self.closed.store(true, PrivateOrdering::Release);
                return Err(Error::Closed);
            }
        }
        self.file.file().ok_or_else(lost)
    }

    #[inline(always)]
    fn membership(&self) -> Result<&Membership> {
        if self.closed.load(PrivateOrdering::Relaxed) {
            return Err(Error::Closed);
        }
        let token = fork::token();
        let mut place = &self.membership;
        while let Some(membership) = place.get() {
            if membership.token == token {
                return Ok(membership);
            }
            place = &membership.next;
        }
        self.join(place, token)
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

    fn reap(&self) -> Result<usize> {
        let membership = self.membership()?;
        let file = self.file()?;
        let settled = settle_dead(&self.space, &file, Some(&membership.actor))?;
        events::settled(self.name.as_deref(), &settled);
        Ok(settled.len())
    }

    /// Ends this process's part in order.
    fn detach(&self) -> Result<()> {
        if self.closed.swap(true, PrivateOrdering::AcqRel) {
            return Ok(());
        }
        // A forked child that never used the segment has no part in it.
        self.present().map_or(Ok(()), |membership| self.leave(membership))
    }

    /// What this process is in the segment, if anything.
    fn present(&self) -> Option<&Membership> {
        let token = fork::token();
        let mut place = &self.membership;
        while let Some(membership) = place.get() {
            if membership.token == token {
                return Some(membership);
            }
            place = &membership.next;
        }
        None
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
fn attach_named(name: &str, create: Option<(&Geometry, &Options)>) -> Result<Attachment> {
    for _ in 0..1024 {
        let Some((space, file)) = find_or_create(name, create)? else {
            continue;
        };
        let attachment = Attachment {
            name: Some(name.to_owned()),
            space,
            file,
            closed: AtomicBool::new(false),
            membership: OnceBox::new(),
            waitlists: Lock::default(),
            evictions_told: PrivateU64::new(u64::MAX),
            evictions_due: NowAndThen::new(),
            watcher: Lock::default(),
        };
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

/// Detaches this process from every segment in order: for a clean exit.
pub fn detach_all() {
    let named = ATTACHED.lock().take();
    let private = std::mem::take(&mut *PRIVATE.lock());
    let named = named.into_iter().flatten().map(|(_, attachment)| attachment);
    for attachment in named.chain(private).filter_map(|attachment| attachment.upgrade()) {
        // What cannot be left in order is settled by a reaper.
        let _ = attachment.detach();
    }
}
