//! The keeper: a background thread of an attached process that settles dead ones within a second.
//! The role is a beat in the header, not a lock: whoever finds the beat old does the work. Never
//! started in a process that only creates, such as a master that will fork its workers.

use std::time::Duration;

/// How often somebody looks for dead processes.
pub const PERIOD: Duration = Duration::from_millis(250);

/// After how many microseconds without a beat the next is due: half a period later for others than who had the last
/// one, so that the role stays where it is for as long as it is filled.
pub(crate) const fn due(mine: bool) -> u64 {
    let period = PERIOD.as_micros() as u64;
    if mine { period } else { period + period / 2 }
}

/// Starts the thread. It ends when a round gives false, or with the process.
pub(crate) fn start(mut round: impl FnMut() -> bool + Send + 'static) {
    let thread = std::thread::Builder::new().name("hypern-shm-keeper".to_owned());
    // Without a thread (limits) the other processes' keepers and `reap` still do the work.
    let _ = thread.spawn(move || {
        while round() {
            std::thread::sleep(PERIOD / 2);
        }
    });
}
