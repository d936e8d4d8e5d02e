//! Descriptors that are kept: a number, and the file it led to when it was opened.
//!
//! Somebody who closes descriptors he knows nothing of (a daemoniser) gives our numbers away, and the next
//! file that the program opens gets one. Promise: nothing is read from, written to, locked in or closed
//! through a number that leads elsewhere than it did.

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

/// A file as the kernel tells it from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its device.
    pub device: u64,
    /// Its inode.
    pub inode: u64,
}

impl Identity {
    /// What a descriptor leads to; `None`: nowhere.
    pub fn of(descriptor: impl AsFd) -> Option<Identity> {
        let stat = rustix::fs::fstat(descriptor).ok()?;
        Some(Identity { device: stat.st_dev, inode: stat.st_ino })
    }
}

/// Moves a new descriptor above the three standard ones: a program that is started without them must not have its
/// output written into a segment.
pub fn above_standard(descriptor: OwnedFd) -> Result<OwnedFd, Errno> {
    if descriptor.as_raw_fd() > 2 { Ok(descriptor) } else { rustix::io::fcntl_dupfd_cloexec(descriptor, 3) }
}

/// A descriptor of ours, while it is.
#[derive(Debug)]
pub struct Kept {
    descriptor: ManuallyDrop<OwnedFd>,
    identity: Option<Identity>,
}

impl Kept {
    /// Keeps a descriptor that was just opened.
    pub fn new(descriptor: OwnedFd) -> Kept {
        let identity = Identity::of(&descriptor);
        Kept { descriptor: ManuallyDrop::new(descriptor), identity }
    }

    /// The descriptor, if nobody closed it.
    pub fn get(&self) -> Option<BorrowedFd<'_>> {
        let descriptor = self.descriptor.as_fd();
        (self.identity.is_some() && Identity::of(descriptor) == self.identity).then_some(descriptor)
    }

    /// Its number, whatever it leads to.
    pub fn number(&self) -> i32 {
        self.descriptor.as_raw_fd()
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if self.get().is_some() {
            // SAFETY: dropped once, here, and not used afterwards.
            unsafe { ManuallyDrop::drop(&mut self.descriptor) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::shm;
    use std::os::fd::FromRawFd;

    #[test]
    fn a_number_that_leads_elsewhere_is_left_alone() {
        let kept = Kept::new(shm::memfd("ours").unwrap().into());
        assert!(kept.get().is_some());
        let stranger = shm::memfd("a stranger's").unwrap();
        // As if it had been closed and its number given to the stranger's file.
        rustix::io::dup2(
            &stranger,
            &mut ManuallyDrop::new(
                // SAFETY: only the number is used, and it is not closed.
                unsafe { OwnedFd::from_raw_fd(kept.number()) },
            ),
        )
        .unwrap();
        assert!(kept.get().is_none());
        let number = kept.number();
        drop(kept);
        // SAFETY: the number is the stranger's second descriptor now, still open, and closed here.
        let second = unsafe { OwnedFd::from_raw_fd(number) };
        assert_eq!(Identity::of(&second), Identity::of(&stranger));
    }
}
