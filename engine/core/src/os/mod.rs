//! The one door to the kernel: shared memory files, OFD locks, forks, processes, clocks.
//! Promise: every unsafe call of the engine outside `view` is here, retried on EINTR where that is
//! right, and reported as an error with the operation and what it was about.

pub mod bell;
pub mod clock;
pub mod fork;
pub mod kept;
pub mod lock;
pub mod locks;
pub mod mapping;
pub mod process;
pub mod shm;

use crate::error::Error;

/// An error from an error number of rustix.
pub(crate) fn failed(operation: &'static str, subject: impl std::fmt::Display, errno: rustix::io::Errno) -> Error {
    Error::Os { operation, subject: subject.to_string(), errno: errno.raw_os_error() }
}
