//! A segment: create, attach, detach, unlink; and what this process is in it.
//!
//! Creation, attaching and the last detaching happen under the lock of the file's first byte. The
//! kernel drops it with its holder, and who holds it does a bounded amount of work, so an attach
//! waits for a living process at most; for one that is stopped it gives up after five seconds with an
//! error. Everything else in the engine waits for nobody.

use std::sync::atomic::Ordering as PrivateOrdering;
use std::sync::{Arc, Weak};

use hashbrown::HashMap;

use crate::attach::{create_space, lost, unlink};
use crate::attachment::{Attachment, Swept, attach_named, keep};
use crate::error::{Error, Result};
use crate::geometry::Geometry;
pub use crate::geometry::Options;
use crate::layout::{Header, LAYOUT_VERSION};
use crate::os::bell::Shelf;
use crate::os::fork::Guarded;
use crate::os::lock::Lock;
use crate::os::shm;
use crate::process::{LEAVING, TAKEN};
use crate::reap::scavenge;
use crate::space::Context;

/// A segment that this process is attached to. Clones share the attachment.
#[derive(Clone)]
pub struct Segment(Arc<Attachment>);

/// A segment, who acts on it, and the number of that attachment.
pub(crate) type Attached<'a> = (Context<'a>, u64);

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
        let attachment = Arc::new(Attachment::new(None, space, guarded));
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
    pub(crate) fn attached(&self) -> Result<Attached<'_>> {
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
    #[inline(always)]
    pub(crate) fn owns_something(&self) -> Result<()> {
        match self.0.membership()?.keeper.load(PrivateOrdering::Relaxed) {
            true => Ok(()),
            false => self.begin_to_keep(),
        }
    }

    #[cold]
    #[inline(never)]
    fn begin_to_keep(&self) -> Result<()> {
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
