//! Waiting in an event loop: many things waited for behind one bell, whose descriptor the loop watches.
//!
//! Promise: what is parked here and has news is named by `take` once the descriptor was readable, and
//! costs what has news, not what is parked. Nothing here waits. The keeper's sweep rings for publishers
//! that were killed between publishing and ringing.

use std::sync::{Arc, Weak};

use hashbrown::{HashMap, HashSet};

use crate::attachment::Swept;
use crate::doorbell::{BUCKETS, Bell};
use crate::error::{Error, Result};
use crate::os::bell::{Receiving, receiving};
use crate::os::lock::{Guard, Lock};
use crate::points::point;
use crate::segment::Segment;
use crate::source::{Cells, Source};
use crate::space::Context;

struct Wait {
    source: Arc<dyn Source>,
    cells: Cells,
}

#[derive(Default)]
struct Waits {
    next: u64,
    by_token: HashMap<u64, Wait>,
    by_bucket: HashMap<u32, Vec<u64>>,
    /// Cells whose interest bit is set, and for how many waits.
    armed: HashMap<u32, usize>,
    /// Watched things that may have news that nobody has looked for yet.
    unseen: HashSet<u64>,
}

/// A bell with a descriptor, and what waits behind it. One for each event loop.
pub struct Waitlist {
    segment: Segment,
    attachment: u64,
    bell: Bell,
    descriptor: Receiving,
    waits: Lock<Waits>,
}

impl Waitlist {
    /// A new one for a loop of this process.
    ///
    /// # Errors
    /// `Full` when all bells are in use; the kernel's when it gives no descriptor.
    pub fn new(segment: &Segment) -> Result<Arc<Waitlist>> {
        segment.start_keeper()?;
        let (cx, attachment) = segment.attached()?;
        let bells = u64::from(cx.space.geometry.bells);
        let full =
            Error::Full { what: "the places of waiting event loops and threads are", used: bells, capacity: bells, setting: "waiters" };
        let bell = match cx.claim_bell() {
            None if cx.reap()? => cx.claim_bell(),
            claimed => claimed,
        };
        let bell = bell.ok_or(full)?;
        let (descriptor, [kind, pid, number]) =
            receiving(segment.shelf()?.as_ref(), bell.number, bell.generation).inspect_err(|_| bell.give_up(cx))?;
        point!("bell.opened");
        bell.set_means(cx, kind, pid, number);
        point!("bell.means");
        bell.sleep(cx);
        let list = Arc::new(Waitlist { segment: segment.clone(), attachment, bell, descriptor, waits: Lock::default() });
        let swept: Weak<dyn Swept> = Arc::downgrade(&list) as _;
        segment.sweeps(swept);
        Ok(list)
    }

    fn waits(&self) -> Guard<'_, Waits> {
        self.waits.lock()
    }

    /// Ours as long as this is the process that made it and it has not detached.
    fn cx(&self) -> Result<Context<'_>> {
        self.segment.joined(self.attachment).ok_or(Error::Closed)
    }

    /// Is it for things of this segment?
    pub fn is_of(&self, segment: &Segment) -> bool {
        self.segment.ptr_eq(segment)
    }

    /// Is it of no use any more: the segment closed, or this a forked child?
    pub fn is_stale(&self) -> bool {
        self.segment.joined(self.attachment).is_none()
    }

    /// What the loop watches for reading.
    pub fn fileno(&self) -> i32 {
        self.descriptor.number()
    }

    /// How many things wait.
    pub fn len(&self) -> usize {
        self.waits().by_token.len()
    }

    /// Does nothing wait?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn insert(&self, cx: Context<'_>, waits: &mut Waits, source: &Arc<dyn Source>) -> u64 {
        let token = waits.next;
        waits.next += 1;
        let cells = source.cells();
        for &cell in &cells {
            let count = waits.armed.entry(cell).or_insert(0);
            *count += 1;
            if *count == 1 {
                self.bell.arm(cx, cell);
            }
            waits.by_bucket.entry(cell % BUCKETS).or_default().push(token);
        }
        waits.by_token.insert(token, Wait { source: source.clone(), cells });
        token
    }

    fn remove(&self, cx: Context<'_>, waits: &mut Waits, token: u64) -> bool {
        waits.unseen.remove(&token);
        let Some(wait) = waits.by_token.remove(&token) else {
            return false;
        };
        for &cell in &wait.cells {
            if let Some(count) = waits.armed.get_mut(&cell) {
                *count -= 1;
                if *count == 0 {
                    waits.armed.remove(&cell);
                    self.bell.disarm(cx, cell);
                }
            }
            if let Some(tokens) = waits.by_bucket.get_mut(&(cell % BUCKETS)) {
                if let Some(at) = tokens.iter().position(|&other| other == token) {
                    tokens.swap_remove(at);
                }
                if tokens.is_empty() {
                    waits.by_bucket.remove(&(cell % BUCKETS));
                }
            }
        }
        true
    }

    /// Parks a wait until `take` names its token. `None`: there is news already, and nothing was parked.
    pub fn park(&self, source: &Arc<dyn Source>) -> Result<Option<u64>> {
        let cx = self.cx()?;
        let mut waits = self.waits();
        let token = self.insert(cx, &mut waits, source);
        // Armed first: what is published from here on rings.
        let news = source.has_news();
        if !matches!(news, Ok(false)) {
            self.remove(cx, &mut waits, token);
            return news.map(|_| None);
        }
        Ok(Some(token))
    }

    /// Gives a wait up. False: it was taken already.
    pub fn unpark(&self, token: u64) -> bool {
        match self.cx() {
            Ok(cx) => self.remove(cx, &mut self.waits(), token),
            Err(_) => self.waits().by_token.remove(&token).is_some(),
        }
    }

    /// To be called when the descriptor is readable: takes the waits that have news.
    pub fn take(&self) -> Result<Vec<u64>> {
        let cx = self.cx()?;
        self.descriptor.drain();
        let mut waits = self.waits();
        // From here on news rings again; what came before is in the dirty bits.
        self.bell.sleep(cx);
        let mut taken = Vec::new();
        for token in self.candidates(cx, &waits) {
            // An error is news: whoever waits will meet it.
            let news = waits.by_token.get(&token).is_some_and(|wait| wait.source.has_news().unwrap_or(true));
            if news && self.remove(cx, &mut waits, token) {
                taken.push(token);
            }
        }
        Ok(taken)
    }

    fn candidates(&self, cx: Context<'_>, waits: &Waits) -> Vec<u64> {
        let mut tokens = Vec::new();
        self.bell.collect(cx, |bucket| tokens.extend(waits.by_bucket.get(&bucket).into_iter().flatten()));
        tokens
    }

    /// Takes everything that waits, news or not: the segment is closed, or the loop ends.
    pub fn take_all(&self) -> Vec<u64> {
        let mut waits = self.waits();
        let tokens: Vec<u64> = waits.by_token.keys().copied().collect();
        match self.cx() {
            Ok(cx) => {
                for &token in &tokens {
                    self.remove(cx, &mut waits, token);
                }
            }
            Err(_) => *waits = Waits { next: waits.next, ..Waits::default() },
        }
        tokens
    }

    /// Watches a thing until `unpark`: the descriptor is readable while it, or another one watched here, may
    /// have news. For loops that call `try_recv` by themselves.
    pub fn watch(&self, source: &Arc<dyn Source>) -> Result<u64> {
        let cx = self.cx()?;
        let mut waits = self.waits();
        let token = self.insert(cx, &mut waits, source);
        if source.has_news().unwrap_or(true) {
            waits.unseen.insert(token);
            self.ring_for(cx, &waits, token);
        }
        Ok(token)
    }

    /// To be called when a watched thing was found empty: the descriptor is no longer readable on its account.
    pub fn found_empty(&self, token: u64) -> Result<()> {
        let cx = self.cx()?;
        let mut waits = self.waits();
        let waits = &mut *waits;
        for other in self.candidates(cx, waits) {
            waits.unseen.insert(other);
        }
        waits.unseen.remove(&token);
        if waits.unseen.is_empty() {
            self.descriptor.drain();
            self.bell.sleep(cx);
            for other in self.candidates(cx, waits) {
                waits.unseen.insert(other);
            }
        }
        let Some(wait) = waits.by_token.get(&token) else {
            return Ok(());
        };
        if wait.source.has_news().unwrap_or(true) {
            waits.unseen.insert(token);
        }
        if let Some(&token) = waits.unseen.iter().next() {
            self.ring_for(cx, waits, token);
        }
        Ok(())
    }

    fn ring_for(&self, cx: Context<'_>, waits: &Waits, token: u64) {
        if let Some(&cell) = waits.by_token.get(&token).and_then(|wait| wait.cells.first()) {
            cx.ring(self.bell.number, cell);
        }
    }
}

impl Swept for Waitlist {
    // A publisher was killed or is stopped.
    fn sweep(&self) {
        let Ok(cx) = self.cx() else {
            return;
        };
        // Held: its loop is at it.
        let Some(waits) = self.waits.try_look() else {
            return;
        };
        for wait in waits.by_token.values() {
            if let (true, Some(&cell)) = (wait.source.has_news().unwrap_or(true), wait.cells.first()) {
                cx.ring(self.bell.number, cell);
                // Who cleans up behind a user's back may have removed the FIFO from under us.
                self.descriptor.ring();
            }
        }
    }
}

impl Drop for Waitlist {
    fn drop(&mut self) {
        // In a forked child it is the parent's; after a detach it was freed with everything else.
        if let Ok(cx) = self.cx() {
            for &cell in self.waits().armed.keys() {
                self.bell.disarm(cx, cell);
            }
            self.bell.release(cx);
        }
    }
}
