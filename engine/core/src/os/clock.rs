//! Clocks, in microseconds. The monotonic one is one for all processes of the machine.

use rustix::time::{ClockId, clock_gettime};

fn micros(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    (time.tv_sec as u64).wrapping_mul(1_000_000).wrapping_add(time.tv_nsec as u64 / 1000)
}

/// Microseconds since some point in the past, never going back.
#[inline]
pub fn monotonic_micros() -> u64 {
    micros(ClockId::Monotonic)
}

/// The monotonic clock as of the kernel's last tick: some milliseconds behind `monotonic_micros`, never ahead of it, and never
/// going back. For what is written all the time and looked at in seconds; reading the processor's own clock waits for all
/// that is being done to be done, and costs as much as all else of a ping.
#[inline]
pub fn tick_micros() -> u64 {
    micros(ClockId::MonotonicCoarse)
}

/// Microseconds since 1970.
pub fn realtime_micros() -> u64 {
    micros(ClockId::Realtime)
}
