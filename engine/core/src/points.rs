//! Crash points: numbered places between two steps at which a test kills or stops its process. They exist only
//! under `--cfg crash_points`; otherwise nothing of them is compiled.

/// Marks a place that a test may arm. The name must be one of `POINTS`.
macro_rules! point {
    ($name:literal) => {
        #[cfg(crash_points)]
        {
            const POINT: usize = $crate::points::number($name);
            $crate::points::pass(POINT);
        }
    };
}
pub(crate) use point;

#[cfg(crash_points)]
pub use armed::{Fate, POINTS, arm, meanwhile, number, pass};

#[cfg(crash_points)]
mod armed {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

    use rustix::process::{Signal, getpid, kill_process};

    /// Every point, by area.
    #[rustfmt::skip]
    pub const POINTS: &[&str] = &[
        "publish.ready", "publish.swapped", "publish.advanced", "publish.live", "publish.stored", "publish.done",
        "evict.freed", "evict.taken",
        "seal.head",
        "prepare.slot", "prepare.swapped", "prepare.started",
        "create.patterns", "create.made", "create.named", "create.beaten", "create.live", "create.cell", "create.roots",
        "create.units", "create.unit", "create.kindless", "create.ring",
        "remove.told", "remove.unnamed", "remove.retired", "remove.sealed",
        "subscribe.registered", "subscribe.anchored",
        "unsubscribe.removed", "unsubscribe.ended",
        "dedup.admitted", "dedup.marked", "dedup.counted", "dedup.indexed",
        "allocate.claimed", "allocate.unmarked",
        "free.freed", "free.head", "free.tail",
        "chain.written", "chain.cont",
        "change.drafted", "change.swapped", "change.live", "change.freed", "change.done",
        "group.sealed",
        "clear.unused", "clear.clearing", "clear.groups", "clear.messages", "clear.unit", "clear.units",
        "release.units",
        "close.unanchored",
        "pattern.anchored", "pattern.registered", "pattern.unregistered",
        "purge.sealed", "purge.unnamed", "relief.given_up", "relief.counting", "relief.added", "relief.counted",
        "track.hinted", "track.joined", "hint.written", "hint.taken",
        "untrack.left", "untrack.forgotten",
        "stale.left",
        "register.found",
        "beat.set", "timeouts.reported",
        "reap.settled", "reap.left", "reap.bells", "reap.scavenged", "reap.locked", "reap.turned",
        "new.reserved", "new.magic", "new.header", "new.formatted", "new.ready",
        "attach.locked", "attach.written", "attach.taken", "attach.cleared",
        "detach.leaving", "detach.settled", "detach.bells", "detach.free", "detach.unlocked",
        "settle.patterns", "settle.handles", "settle.members", "settle.bell", "settle.fifo",
        "prune.removed",
        "scavenge.cells", "scavenge.units", "scavenge.blocks",
        "bell.claimed", "bell.owned", "bell.opened", "bell.means", "bell.armed", "bell.collected", "bell.sleeping", "bell.freed",
        "ring.marked", "ring.dirty", "ring.ringing", "ring.rung",
    ];

    /// What happens at an armed point.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Fate {
        /// SIGKILL.
        Kill,
        /// SIGSTOP, once; whoever is told of it continues us.
        Stop,
    }

    static ARMED: AtomicUsize = AtomicUsize::new(usize::MAX);
    static LEFT: AtomicU64 = AtomicU64::new(0);
    static STOPS: AtomicU64 = AtomicU64::new(0);

    static MEANWHILE: AtomicUsize = AtomicUsize::new(usize::MAX);
    static OTHERS: Mutex<Option<Box<dyn FnOnce() + Send>>> = Mutex::new(None);

    /// What others do while this process is at a point, the next time that it comes there: what otherwise takes luck.
    ///
    /// # Panics
    /// After a panic in what others do.
    pub fn meanwhile(point: usize, others: impl FnOnce() + Send + 'static) {
        *OTHERS.lock().expect("nobody panicked") = Some(Box::new(others));
        MEANWHILE.store(point, Ordering::Release);
    }

    /// The number of a point.
    ///
    /// # Panics
    /// There is none of this name: at compile time, as `point!` asks.
    pub const fn number(name: &str) -> usize {
        let mut index = 0;
        while index < POINTS.len() {
            if same(POINTS[index].as_bytes(), name.as_bytes()) {
                return index;
            }
            index += 1;
        }
        panic!("this point is not listed")
    }

    const fn same(a: &[u8], b: &[u8]) -> bool {
        let mut index = 0;
        while index < a.len() && index < b.len() && a[index] == b[index] {
            index += 1;
        }
        a.len() == b.len() && index == a.len()
    }

    /// From here on this process meets its fate at a point, after passing it so often.
    pub fn arm(point: usize, fate: Fate, after: u64) {
        STOPS.store(u64::from(fate == Fate::Stop), Ordering::Relaxed);
        LEFT.store(after, Ordering::Relaxed);
        ARMED.store(point, Ordering::Relaxed);
    }

    /// Comes by a point.
    #[inline(never)]
    pub fn pass(point: usize) {
        if MEANWHILE.load(Ordering::Acquire) == point && MEANWHILE.swap(usize::MAX, Ordering::AcqRel) == point {
            let others = OTHERS.lock().expect("nobody panicked").take();
            others.into_iter().for_each(|others| others());
        }
        if ARMED.load(Ordering::Relaxed) != point || LEFT.fetch_sub(1, Ordering::Relaxed) != 0 {
            return;
        }
        ARMED.store(usize::MAX, Ordering::Relaxed);
        if STOPS.load(Ordering::Relaxed) != 0 {
            crate::os::process::stop_here();
        } else {
            kill_process(getpid(), Signal::KILL).expect("a process may signal itself");
        }
    }
}
