//! What is worth telling an operator, as records of the crate `log` under one target, with `event` and `segment` among
//! their key-values: who attached and left, whose death was settled and what it held, who keeps the segment, what is
//! full, who lags.
//!
//! Promise: nothing here is on the way of a message, nothing is told while a lock or the gate of a segment is held (who
//! listens may wait for something else), and what goes wrong again and again is told now and then.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Error;
use crate::holds::Holds;
use crate::os::clock;

/// The target of all records: the name of the Python package, whose logger they go to.
pub const TARGET: &str = "hypern_realtime_shm";
/// Microseconds between two tellings of the same trouble.
const AGAIN: u64 = 10_000_000;

/// A dead process that was settled.
#[derive(Clone, Debug)]
pub(crate) struct Settled {
    /// Its process id.
    pub pid: u64,
    /// Its slot.
    pub slot: u32,
    /// It was leaving in order.
    pub left: bool,
    /// What it held, when somebody listens.
    pub holds: Holds,
}

/// Would anybody hear of a death?
pub(crate) fn deaths_are_heard() -> bool {
    log::log_enabled!(target: TARGET, log::Level::Warn)
}

fn shown(name: Option<&str>) -> &str {
    name.unwrap_or("(private)")
}

/// A private segment is of one program, and of less interest.
fn level(name: Option<&str>) -> log::Level {
    if name.is_some() { log::Level::Info } else { log::Level::Debug }
}

pub(crate) fn attached(name: Option<&str>, slot: u32, size: u64) {
    let (segment, pid) = (shown(name), std::process::id());
    log::log!(target: TARGET, level(name), event = "attached", segment = segment, slot = slot, pid = pid;
        "process {pid} attached to segment {segment:?} ({size} bytes), slot {slot}");
}

pub(crate) fn detached(name: Option<&str>, slot: u32) {
    let (segment, pid) = (shown(name), std::process::id());
    log::log!(target: TARGET, level(name), event = "detached", segment = segment, slot = slot, pid = pid;
        "process {pid} left segment {segment:?}, slot {slot}");
}

/// To be called without the gate: whoever listens may take its time.
pub(crate) fn settled(name: Option<&str>, dead: &[Settled]) {
    let segment = shown(name);
    for Settled { pid, slot, left, holds } in dead {
        if *left {
            log::info!(target: TARGET, event = "reaped", segment = segment, slot = *slot, pid = *pid;
                "segment {segment:?}: process {pid} (slot {slot}) ended while it was leaving; what was left is settled");
        } else {
            log::warn!(target: TARGET, event = "reaped", segment = segment, slot = *slot, pid = *pid;
                "segment {segment:?}: process {pid} (slot {slot}) died; settled what it held: {holds}");
        }
    }
}

/// `before`: the process id of whose keeper it was, if that is attached still.
pub(crate) fn keeper_changed(name: Option<&str>, before: Option<u64>) {
    let (segment, pid) = (shown(name), std::process::id());
    let why = before.map_or(String::new(), |before| format!("; process {before}, which did before, is late or has left"));
    log::log!(target: TARGET, level(name), event = "keeper", segment = segment, pid = pid;
        "segment {segment:?}: process {pid} keeps it from now on{why}");
}

/// When each trouble was told last; one a kind is enough.
#[derive(Default)]
pub(crate) struct NowAndThen(AtomicU64);

impl NowAndThen {
    pub(crate) const fn new() -> NowAndThen {
        NowAndThen(AtomicU64::new(0))
    }

    /// Is it time to tell it again?
    pub(crate) fn is_due(&self) -> bool {
        let now = clock::monotonic_micros();
        let last = self.0.load(Ordering::Relaxed);
        let due = last == 0 || now.saturating_sub(last) >= AGAIN;
        due && self.0.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// The settings that raise what can be full, and when it was told.
static FULL: [(&str, NowAndThen); 6] = [
    ("size", NowAndThen::new()),
    ("max_processes", NowAndThen::new()),
    ("channels", NowAndThen::new()),
    ("ring_slots", NowAndThen::new()),
    ("waiters", NowAndThen::new()),
    ("", NowAndThen::new()),
];

/// Tells of an error that says that something is full, now and then; of any other nothing. For whoever hands errors to
/// a program that may swallow them.
pub fn full(error: &Error) {
    let Error::Full { used, capacity, setting, .. } = error else {
        return;
    };
    let known = FULL.iter().find(|(known, _)| known == setting).unwrap_or(&FULL[FULL.len() - 1]);
    if known.1.is_due() {
        log::warn!(target: TARGET, event = "full", setting = *setting, used = *used, capacity = *capacity; "{error}");
    }
}

pub(crate) fn history_given_up(name: Option<&str>, messages: u64) {
    let segment = shown(name);
    log::warn!(target: TARGET, event = "given_up", segment = segment, messages = messages;
        "segment {segment:?} is full: {messages} messages of history were given up; raise size");
}

/// A channel whose slowest handle has fallen behind, or has caught up again.
pub(crate) struct Lagging<'a> {
    pub channel: &'a str,
    pub client: &'a str,
    pub pid: Option<u64>,
    pub lag: u64,
    pub buffer: u64,
    pub handles: u64,
}

pub(crate) fn lagging(name: Option<&str>, seen: &Lagging<'_>) {
    let (segment, Lagging { channel, client, lag, buffer, handles, .. }) = (shown(name), seen);
    let pid = seen.pid.map_or_else(|| "which is gone".to_owned(), |pid| pid.to_string());
    log::warn!(target: TARGET, event = "lagging", segment = segment, channel = *channel, client = *client, lag = *lag, handles = *handles;
        "segment {segment:?}, channel {channel:?}: handles that lag: {handles}; the slowest, {client:?} of process {pid}, is {lag} messages behind, the buffer holds {buffer}");
}

pub(crate) fn caught_up(name: Option<&str>, channel: &str) {
    let segment = shown(name);
    log::info!(target: TARGET, event = "caught_up", segment = segment, channel = channel;
        "segment {segment:?}, channel {channel:?}: no handle lags any more");
}
