//! A segment's file in this process's memory.

use std::fs::File;
use std::ptr::NonNull;

use rustix::io::Errno;

use super::failed;
use super::shm::{reopen, size};
use crate::error::{Error, Result};

/// A shared mapping of a file's beginning, page-aligned, unmapped on drop.
///
/// A mapping keeps the open file description that it was made of, and that one's locks, for as long as it lives, in
/// forked children too. So it is made of one of its own, that nobody locks anything with.
pub struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping is memory that any thread may use; `Mapping` itself never reads or writes it.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `len` bytes; refuses a file that has fewer.
    pub fn new(file: &File, len: usize, writable: bool) -> Result<Mapping> {
        use rustix::mm::{MapFlags, ProtFlags};
        if len == 0 || size(file)? < len as u64 {
            return Err(Error::Corrupt { what: "the file is shorter than a segment" });
        }
        let protection = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        let file = reopen(file)?;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours. The
        // file is at least `len` long and, being reserved, stays backed.
        let base = unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, protection, MapFlags::SHARED, &file, 0) };
        match base.map(|base| NonNull::new(base.cast::<u8>())) {
            Ok(Some(base)) => Ok(Mapping { base, len }),
            Ok(None) => Err(failed("mapping", "the segment", Errno::FAULT)),
            Err(errno) => Err(failed("mapping", "the segment", errno)),
        }
    }

    /// Its first byte.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Bytes mapped.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `new` mapped, and nobody holds references into it any more:
        // they all borrow a view, which owns this mapping. It cannot fail for such a range.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::super::shm::{memfd, reserve};
    use super::*;

    #[test]
    fn a_mapping_keeps_no_lock() {
        use crate::os::locks;
        let file = memfd("mapped").unwrap();
        reserve(&file, 4096, "a test").unwrap();
        let mapping = Mapping::new(&file, 4096, true).unwrap();
        let observer = reopen(&file).unwrap();
        assert!(locks::try_lock(&file, 5).unwrap());
        assert!(locks::is_held(&observer, 5).unwrap());
        drop(file);
        assert!(!locks::is_held(&observer, 5).unwrap(), "the lock outlived its last descriptor");
        drop(mapping);
    }
}
