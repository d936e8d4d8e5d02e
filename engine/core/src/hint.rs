//! What the compiler is told of paths.

/// What leads to where this is called is seldom taken, and kept out of the way of what is usual. (As `std::hint::cold_path`, which
/// needs Rust 1.95.)
#[cold]
#[inline(always)]
pub(crate) const fn cold_path() {}
