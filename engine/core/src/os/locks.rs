//! OFD byte-range locks: owned by an open file description, dropped by the kernel with its last
//! descriptor, before a dead process's zombie is reaped. Unlike POSIX record locks they do not vanish
//! when any descriptor of the file is closed. A forked child shares them until it closes or reopens.

use std::fs::File;
use std::os::fd::AsRawFd;

use crate::error::{Error, Result};

fn range(kind: libc::c_int, offset: u64) -> libc::flock {
    // SAFETY: `flock` is plain data for which all zeros is a value; OFD locks want l_pid 0.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    range.l_type = kind as libc::c_short;
    range.l_whence = libc::SEEK_SET as libc::c_short;
    range.l_start = offset as libc::off_t;
    range.l_len = 1;
    range
}

/// Runs one fcntl; gives the range as the kernel left it, or the error number.
fn control(file: &File, command: libc::c_int, mut range: libc::flock) -> std::result::Result<libc::flock, i32> {
    loop {
        // SAFETY: the descriptor is open as long as `file` is borrowed, and `range` lives over the call.
        if unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut range) } == 0 {
            return Ok(range);
        }
        match std::io::Error::last_os_error().raw_os_error() {
            Some(libc::EINTR) => {}
            errno => return Err(errno.unwrap_or(libc::EIO)),
        }
    }
}

fn failed(operation: &'static str, offset: u64, errno: i32) -> Error {
    Error::Os { operation, subject: format!("byte {offset} of the segment"), errno }
}

/// Locks one byte exclusively, without waiting. False: somebody else has it.
pub fn try_lock(file: &File, offset: u64) -> Result<bool> {
    match control(file, libc::F_OFD_SETLK, range(libc::F_WRLCK, offset)) {
        Ok(_) => Ok(true),
        Err(libc::EAGAIN | libc::EACCES) => Ok(false),
        Err(errno) => Err(failed("locking", offset, errno)),
    }
}

/// Unlocks one byte.
pub fn unlock(file: &File, offset: u64) -> Result<()> {
    let unlocked = control(file, libc::F_OFD_SETLK, range(libc::F_UNLCK, offset));
    unlocked.map(drop).map_err(|errno| failed("unlocking", offset, errno))
}

/// Does another open file description hold the byte?
pub fn is_held(file: &File, offset: u64) -> Result<bool> {
    is_range_held(file, offset, 1)
}

/// Does another open file description hold any byte from here on?
pub fn is_any_held(file: &File, offset: u64) -> Result<bool> {
    // A length of 0 reaches to the end, wherever it is.
    is_range_held(file, offset, 0)
}

fn is_range_held(file: &File, offset: u64, length: libc::off_t) -> Result<bool> {
    let range = libc::flock { l_len: length, ..range(libc::F_WRLCK, offset) };
    let found = control(file, libc::F_OFD_GETLK, range);
    let found = found.map_err(|errno| failed("asking for the lock of", offset, errno))?;
    Ok(found.l_type != libc::F_UNLCK as libc::c_short)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::shm;

    #[test]
    fn one_description_at_a_time() {
        let first = shm::memfd("locks").unwrap();
        let second = shm::reopen(&first).unwrap();
        assert!(try_lock(&first, 5).unwrap());
        assert!(try_lock(&first, 5).unwrap(), "the holder may lock again");
        assert!(!is_held(&first, 5).unwrap(), "its own lock is not another's");
        assert!(is_held(&second, 5).unwrap());
        assert!(is_any_held(&second, 0).unwrap());
        assert!(!is_any_held(&second, 6).unwrap());
        assert!(!try_lock(&second, 5).unwrap());
        assert!(try_lock(&second, 6).unwrap());
        unlock(&first, 5).unwrap();
        assert!(try_lock(&second, 5).unwrap());
        drop(second);
        assert!(!is_held(&first, 5).unwrap(), "dropped with its last descriptor");
    }
}
