//! The one door to atomics: `core`'s, or a model checker's under `--cfg modelled`, so that the algorithms that
//! live in shared memory are the very ones it runs: loom's with `--cfg loom`, shuttle's with `--cfg shuttle`.

#[cfg(not(modelled))]
pub use core::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(shuttle)]
pub use shuttle::sync::atomic::{AtomicU64, Ordering, fence};

/// A full fence behind a locked swap of this thread: what was swapped is seen by others before what is
/// loaded next is read. On x86-64 the swap itself is that fence, and only the compiler must be told.
#[inline(always)]
pub fn fence_after_swap() {
    #[cfg(all(target_arch = "x86_64", not(modelled)))]
    core::sync::atomic::compiler_fence(Ordering::SeqCst);
    #[cfg(not(all(target_arch = "x86_64", not(modelled))))]
    fence(Ordering::SeqCst);
}
