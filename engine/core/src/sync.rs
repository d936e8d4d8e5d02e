//! The one door to atomics: `core`'s, or loom's under `--cfg loom`, so that the algorithms that
//! live in shared memory are the very ones the model checker runs.

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU64, Ordering, fence};
