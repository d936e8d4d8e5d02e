//! What a doorbell rings in the kernel: a futex for a thread, a descriptor for an event loop.
//!
//! Promise: ringing never blocks, never raises a signal and touches nothing but a FIFO of this user's.
//! A FIFO lies beside the segment under a name that no other bell ever has; it goes with its owner, with
//! whoever settles a dead owner, or, where nobody of its segment is left, with the segment's name.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::thread::futex;

use super::kept::{Kept, above_standard};
use super::{failed, process, shm};
use crate::error::{Error, Result};
use crate::layout::{LAYOUT_VERSION, means};
use crate::sync::AtomicU64;

/// How a wait in the kernel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// Rung, or the word had changed before, or the time is over: look.
    Look,
    /// A signal came.
    Signal,
}

fn half(word: &AtomicU64) -> &AtomicU32 {
    // SAFETY: the first four bytes of a live, aligned AtomicU64 are a live, aligned AtomicU32; both are
    // only ever accessed atomically, here by the kernel alone.
    unsafe { &*std::ptr::from_ref(word).cast::<AtomicU32>() }
}

/// Waits while the word's lower half is `expected`'s, at most `time`.
pub fn futex_wait(word: &AtomicU64, expected: u64, time: Duration) -> Woken {
    let time = futex::Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) };
    // Not private: the waker is another process.
    match futex::wait(half(word), futex::Flags::empty(), expected as u32, Some(&time)) {
        Err(Errno::INTR) => Woken::Signal,
        _ => Woken::Look,
    }
}

/// Ends the waits on a word.
pub fn futex_wake(word: &AtomicU64) {
    // Nobody there is no failure.
    let _ = futex::wake(half(word), futex::Flags::empty(), i32::MAX as u32);
}

/// Where a named segment's bells are found: the beginning of their paths.
#[derive(Clone, Debug)]
pub struct Shelf(String);

impl Shelf {
    /// The shelf of a segment; `None`: the segment has no name, and its bells are pipes.
    pub fn of(name: Option<&str>, identity: u64) -> Result<Option<Shelf>> {
        let Some(name) = name else {
            return Ok(None);
        };
        Ok(Some(Shelf(format!("{}@{:08x}", shm::path(name, LAYOUT_VERSION)?.display(), identity as u32))))
    }

    fn path(&self, bell: u32, generation: u64) -> String {
        format!("{}.{bell}.{generation}", self.0)
    }

    /// Removes the FIFO of one life of a bell, if it is there; anything else is left there.
    pub fn remove(&self, bell: u32, generation: u64) {
        let path = self.path(bell, generation);
        let ours = rustix::fs::statat(CWD, &path, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| is_own_fifo(&stat));
        if ours {
            // Gone meanwhile is gone.
            let _ = rustix::fs::unlink(&path);
        }
    }
}

/// The waiting end of a descriptor bell: readable when it was rung.
pub struct Receiving {
    descriptor: Kept,
}

/// Makes what the loop waits on. Gives it with what the bell says of it: means, pid, descriptor.
pub fn receiving(shelf: Option<&Shelf>, bell: u32, generation: u64) -> Result<(Receiving, [u64; 3])> {
    let Some(shelf) = shelf else {
        // Both ends in one descriptor, found by others of the family through /proc.
        let (reading, writing) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|errno| failed("making", "a pipe to wait on", errno))?;
        let path = format!("/proc/self/fd/{}", reading.as_raw_fd());
        let descriptor = rustix::fs::open(&path, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
            .and_then(above_standard)
            .map_err(|errno| failed("opening", path, errno))?;
        drop((reading, writing));
        let number = descriptor.as_raw_fd() as u64;
        return Ok((Receiving { descriptor: Kept::new(descriptor) }, [means::PIPE, u64::from(process::current().pid), number]));
    };
    let path = shelf.path(bell, generation);
    loop {
        match rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0) {
            Ok(()) => {}
            // No other bell ever has this name: what is there was planted, and is not ours to remove.
            Err(Errno::EXIST) => {
                let why = "it lies where the bell of an event loop was to be made; remove it".to_owned();
                return Err(Error::Refused { path: path.into(), why });
            }
            Err(errno) => return Err(failed("making", &path, errno)),
        }
        // Its own writing end too, so that it never looks closed.
        match open_fifo(&path) {
            Ok(descriptor) => return Ok((Receiving { descriptor: Kept::new(descriptor) }, [means::FIFO, 0, 0])),
            // Somebody tidied up before we had it open.
            Err(Errno::NOENT) => {}
            Err(errno) => {
                shelf.remove(bell, generation);
                return Err(failed("opening", &path, errno));
            }
        }
    }
}

fn is_own_fifo(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Fifo && stat.st_uid == rustix::process::geteuid().as_raw()
}

/// Opens a FIFO of this user's, without ever blocking; anything else is refused.
fn open_fifo(path: &str) -> std::result::Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    // A link of /proc is the way to a pipe; anywhere else a link is somebody's trick.
    let flags = if path.starts_with("/proc/") { flags } else { flags | OFlags::NOFOLLOW };
    let descriptor = rustix::fs::open(path, flags, Mode::empty()).and_then(above_standard)?;
    if is_own_fifo(&rustix::fs::fstat(&descriptor)?) { Ok(descriptor) } else { Err(Errno::ACCESS) }
}

impl Receiving {
    /// The descriptor's number.
    pub fn number(&self) -> i32 {
        self.descriptor.number()
    }

    /// Rings from inside: whatever became of the path that others find it by.
    pub fn ring(&self) {
        ring(&self.descriptor);
    }

    /// Takes the rings that are in it.
    pub fn drain(&self) {
        let mut bytes = [0_u8; 256];
        if let Some(descriptor) = self.descriptor.get() {
            while matches!(rustix::io::read(descriptor, &mut bytes), Ok(256) | Err(Errno::INTR)) {}
        }
    }
}

/// Opens what somebody else waits on; `None`: nobody does any more.
pub fn ringing(shelf: Option<&Shelf>, kind: u64, bell: u32, generation: u64, pid: u64, descriptor: u64) -> Option<Kept> {
    let path = match (kind, shelf) {
        (means::FIFO, Some(shelf)) => shelf.path(bell, generation),
        (means::PIPE, None) => format!("/proc/{}/fd/{}", pid as u32, descriptor as u32),
        _ => return None,
    };
    open_fifo(&path).ok().map(Kept::new)
}

/// Rings. A full FIFO is as good as rung. False: the descriptor was closed by somebody else.
pub fn ring(descriptor: &Kept) -> bool {
    let Some(descriptor) = descriptor.get() else {
        return false;
    };
    let _ = rustix::io::write(descriptor, &[1]);
    true
}
