//! The segment's file: named, created, checked, reserved, unlinked.
//!
//! Promise: nothing is followed or opened that is not a regular file of this user that nobody else
//! may touch, and a file that was reserved can never cause a SIGBUS.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, MemfdFlags, Mode, OFlags, SealFlags, Stat};
use rustix::io::Errno;

use super::failed;
use super::kept::above_standard;
use crate::error::{Error, Result};

/// Longest name, in bytes.
const MAX_NAME: usize = 128;
/// Room for what comes behind it in the names of bells: `@identity.bell.generation`.
const BELL_SUFFIX: usize = 45;

/// Where segments live.
pub fn directory() -> &'static Path {
    Path::new("/dev/shm")
}

/// Refuses what cannot be a segment's name.
pub fn validate_name(name: &str) -> Result<()> {
    let wrong = name.is_empty() || name.len() > MAX_NAME || name.contains(['/', '\0']) || name == "." || name == "..";
    if wrong {
        return Err(Error::invalid(
            "name",
            format!("{name:?}"),
            format!("1 to {MAX_NAME} bytes of UTF-8 without '/' and NUL, and not \".\" or \"..\""),
        ));
    }
    Ok(())
}

/// `hypern-rt.<uid>.v<layout>.<name>`, with bytes outside `[A-Za-z0-9._-]` as %XX.
pub fn file_name(name: &str, layout: u32) -> Result<String> {
    validate_name(name)?;
    let mut file = format!("hypern-rt.{}.v{layout}.", rustix::process::geteuid().as_raw());
    for &byte in name.as_bytes() {
        if byte.is_ascii_alphanumeric() || b"._-".contains(&byte) {
            file.push(char::from(byte));
        } else {
            file.push_str(&format!("%{byte:02X}"));
        }
    }
    if file.len() > 255 - BELL_SUFFIX {
        return Err(Error::invalid("name", format!("{name:?}"), "short enough for a file name of 210 bytes when escaped"));
    }
    Ok(file)
}

/// The path of a segment's file.
pub fn path(name: &str, layout: u32) -> Result<PathBuf> {
    Ok(directory().join(file_name(name, layout)?))
}

fn refused(path: &Path, why: impl Into<String>) -> Error {
    Error::Refused { path: path.to_owned(), why: why.into() }
}

/// Regular file, our user's, nobody else's to touch.
fn check_owned(path: &Path, stat: &Stat) -> Result<()> {
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind != FileType::RegularFile {
        return Err(refused(path, format!("it is no regular file but a {kind:?}")));
    }
    let me = rustix::process::geteuid().as_raw();
    if stat.st_uid != me {
        return Err(refused(path, format!("it belongs to user {}, not to {me}", stat.st_uid)));
    }
    if stat.st_mode & 0o077 != 0 {
        return Err(refused(path, format!("its mode is {:o}; it must be 600", stat.st_mode & 0o7777)));
    }
    Ok(())
}

fn open(name: &str, layout: u32, flags: OFlags) -> Result<File> {
    let path = path(name, layout)?;
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = loop {
        match rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR).and_then(above_standard) {
            Ok(file) => break file,
            Err(Errno::INTR) => {}
            Err(Errno::NOENT) if !flags.contains(OFlags::CREATE) => return Err(Error::NotFound { name: name.to_owned() }),
            Err(Errno::LOOP) => return Err(refused(&path, "it is a symbolic link")),
            Err(Errno::ISDIR) => return Err(refused(&path, "it is a directory")),
            Err(Errno::ACCESS | Errno::PERM) => return Err(refused(&path, "it belongs to another user or its mode forbids it")),
            Err(Errno::NXIO | Errno::NODEV) => return Err(refused(&path, "it is no regular file")),
            Err(errno) => return Err(failed("opening", path.display(), errno)),
        }
    };
    let stat = rustix::fs::fstat(&file).map_err(|errno| failed("examining", path.display(), errno))?;
    check_owned(&path, &stat)?;
    Ok(File::from(file))
}

/// Opens the file of a segment, created with mode 0600 if there is none.
pub fn open_or_create(name: &str, layout: u32) -> Result<File> {
    open(name, layout, OFlags::RDWR | OFlags::CREATE)
}

/// Opens the file of a segment.
pub fn open_existing(name: &str, layout: u32) -> Result<File> {
    open(name, layout, OFlags::RDWR)
}

/// Opens the file of a segment to look at it: nothing can be written through it.
pub fn open_to_look(name: &str, layout: u32) -> Result<File> {
    open(name, layout, OFlags::RDONLY)
}

/// A file that has a segment's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The segment's name.
    pub name: String,
    /// The layout version in the file's name.
    pub layout: u32,
    /// The file.
    pub path: PathBuf,
}

/// The segments of this user, by the names of their files; what is in them is another matter.
pub fn list() -> Result<Vec<Listed>> {
    let failed = |error: std::io::Error| Error::Os {
        operation: "listing",
        subject: directory().display().to_string(),
        errno: error.raw_os_error().unwrap_or(libc::EIO),
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory()).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let listed = entry.file_name().to_str().and_then(parse_file_name);
        // A bell beside a segment has an @ in its name, which is escaped in a segment's.
        found.extend(listed.map(|(name, layout)| Listed { name, layout, path: entry.path() }));
    }
    found.sort_by(|a, b| (&a.name, a.layout).cmp(&(&b.name, b.layout)));
    Ok(found)
}

/// Name and layout version out of a file's name, if it is one that `file_name` gives.
fn parse_file_name(file: &str) -> Option<(String, u32)> {
    let prefix = format!("hypern-rt.{}.v", rustix::process::geteuid().as_raw());
    let (layout, escaped) = file.strip_prefix(&prefix)?.split_once('.')?;
    let layout = layout.parse().ok()?;
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escape = (byte == b'%').then(|| after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok()));
        match escape {
            Some(hex) => {
                bytes.push(u8::from_str_radix(hex?, 16).ok()?);
                rest = &after[2..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    let name = String::from_utf8(bytes).ok()?;
    (file_name(&name, layout).ok()? == file).then_some((name, layout))
}

/// When a file was made, in seconds since 1970; where the file system does not say, when it was last given a size.
pub fn made_at(file: &File) -> Result<f64> {
    let times = file.metadata().and_then(|about| about.created().or_else(|_| about.modified()));
    let time = times.map_err(|error| Error::Os {
        operation: "examining",
        subject: "the segment's file".to_owned(),
        errno: error.raw_os_error().unwrap_or(libc::EIO),
    })?;
    Ok(time.duration_since(std::time::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()))
}

/// Memory without a name, gone with its last descriptor and mapping.
pub fn memfd(label: &str) -> Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file: OwnedFd =
        rustix::fs::memfd_create(label, flags).and_then(above_standard).map_err(|errno| failed("creating memory", label, errno))?;
    Ok(File::from(file))
}

/// Nobody cuts it short or makes it longer from here on: memory without a name, once it is reserved.
pub fn fix_size(memory: &File) -> Result<()> {
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(memory, seals).map_err(|errno| failed("sealing", "a private segment", errno))
}

/// Makes every byte of the file real. `ftruncate` alone succeeds on a full tmpfs, and the first touch
/// then kills with SIGBUS.
pub fn reserve(file: &File, size: u64, subject: &str) -> Result<()> {
    // Asking first keeps a file that cannot fit from filling the memory of everybody else on the way.
    if available(file).is_some_and(|available| available < size) {
        return Err(no_space(file, size));
    }
    allocate(file, size, subject)
}

/// Bytes that its file system has left; `None`: it does not say.
fn available(file: &File) -> Option<u64> {
    let stat = rustix::fs::fstatvfs(file).ok().filter(|stat| stat.f_blocks > 0)?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

fn no_space(file: &File, size: u64) -> Error {
    Error::NoSpace { needed: size, available: available(file).unwrap_or(0), directory: directory().display().to_string() }
}

fn allocate(file: &File, size: u64, subject: &str) -> Result<()> {
    loop {
        // SAFETY: the descriptor is open as long as `file` is borrowed.
        match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, size as libc::off_t) } {
            0 => return Ok(()),
            libc::EINTR => {}
            libc::ENOSPC => return Err(no_space(file, size)),
            errno => {
                return Err(Error::Os { operation: "reserving memory for", subject: subject.to_owned(), errno });
            }
        }
    }
}

/// Bytes of a file of this length that are not there: a copy of a segment may have holes.
pub fn holes(file: &File, length: u64) -> Result<u64> {
    // `st_blocks` counts 512 bytes, whatever the file system's blocks are.
    Ok(length.saturating_sub((stat(file)?.st_blocks as u64).saturating_mul(512)))
}

/// Reserves what a file of this length lacks.
pub fn fill_holes(file: &File, length: u64, subject: &str) -> Result<()> {
    let missing = holes(file, length)?;
    if missing == 0 {
        return Ok(());
    }
    if available(file).is_some_and(|available| available < missing) {
        return Err(no_space(file, missing));
    }
    allocate(file, length, subject)
}

/// Is there nothing but zeros in the file's first `length` bytes?
pub fn is_zero(file: &File, length: u64) -> Result<bool> {
    use std::os::unix::fs::FileExt;
    let mut buffer = vec![0; 64 << 10];
    let mut at = 0;
    while at < length {
        let wanted = buffer.len().min((length - at) as usize);
        let got = file.read_at(&mut buffer[..wanted], at).map_err(|error| Error::Os {
            operation: "reading",
            subject: "the segment's file".to_owned(),
            errno: error.raw_os_error().unwrap_or(libc::EIO),
        })?;
        if got == 0 {
            break;
        }
        if buffer[..got].iter().any(|&byte| byte != 0) {
            return Ok(false);
        }
        at += got as u64;
    }
    Ok(true)
}

fn stat(file: &File) -> Result<Stat> {
    rustix::fs::fstat(file).map_err(|errno| failed("examining", "the segment's file", errno))
}

/// Bytes in the file.
pub fn size(file: &File) -> Result<u64> {
    Ok(stat(file)?.st_size as u64)
}

/// What the path leads to, no link followed; `None`: nothing.
fn stat_path(path: &Path) -> Result<Option<Stat>> {
    match rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(failed("examining", path.display(), errno)),
    }
}

/// Is this file still what the name leads to?
pub fn same_file(name: &str, layout: u32, file: &File) -> Result<bool> {
    let ours = stat(file)?;
    let there = stat_path(&path(name, layout)?)?;
    Ok(there.is_some_and(|there| (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)))
}

/// Removes a segment's name. False: there was none. What is not ours is refused and left alone.
pub fn unlink(name: &str, layout: u32) -> Result<bool> {
    let path = path(name, layout)?;
    let Some(stat) = stat_path(&path)? else {
        return Ok(false);
    };
    check_owned(&path, &stat)?;
    match rustix::fs::unlink(&path) {
        Ok(()) => {
            // The bells of those who are attached stay until they go; those of the killed go now.
            tidy(&format!("{}@", file_name(name, layout)?));
            Ok(true)
        }
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(failed("unlinking", path.display(), errno)),
    }
}

/// Removes the FIFOs beside segments of this layout that nobody has open: of processes that were killed after their
/// segment's name was removed.
pub fn tidy_all(layout: u32) -> Result<()> {
    let mark = "x";
    tidy(file_name(mark, layout)?.trim_end_matches(mark));
    Ok(())
}

/// Removes the FIFOs beside a segment (see `bell`) that nobody has open: those of processes that were killed.
/// `only`: the beginning of their names.
fn tidy(only: &str) {
    let Ok(entries) = std::fs::read_dir(directory()) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| name.starts_with(only) && name.contains('@')) else {
            continue;
        };
        let path: PathBuf = directory().join(name);
        if !matches!(stat_path(&path), Ok(Some(stat)) if FileType::from_raw_mode(stat.st_mode) == FileType::Fifo) {
            continue;
        }
        // Without a reader a writing end cannot be opened; with one, opening it does nothing.
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        if let Err(Errno::NXIO) = rustix::fs::open(&path, flags, Mode::empty()).map(File::from) {
            let _ = rustix::fs::unlink(&path);
        }
    }
}

/// Removes a segment's name if it still leads to this file.
pub fn unlink_if_same(name: &str, layout: u32, file: &File) -> Result<bool> {
    if same_file(name, layout, file)? { unlink(name, layout) } else { Ok(false) }
}

/// A new open file description of the same file, named or not: it shares no lock with the old one.
pub fn reopen(file: &File) -> Result<File> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    match rustix::fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).and_then(above_standard) {
        Ok(file) => Ok(File::from(file)),
        Err(errno) => Err(failed("reopening", path, errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::mapping::Mapping;
    use super::*;

    #[test]
    fn names_are_checked_and_escaped() {
        for bad in ["", "a/b", "a\0b", ".", "..", &"x".repeat(129)] {
            assert!(matches!(validate_name(bad), Err(Error::Invalid { argument: "name", .. })), "{bad:?}");
        }
        let name = file_name("chät room", 3).unwrap();
        assert!(name.ends_with(".v3.ch%C3%A4t%20room"), "{name}");
        assert_eq!(parse_file_name(&name), Some(("chät room".to_owned(), 3)));
        for stranger in [&name[1..], &format!("{name}@0.1"), &format!("{name}%4"), &name.replace("%20", "%2x")] {
            assert_eq!(parse_file_name(stranger), None, "{stranger}");
        }
        assert!(matches!(file_name(&"ä".repeat(64), 3), Err(Error::Invalid { .. })));
    }

    #[test]
    fn strangers_are_refused_and_left_alone() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let name = format!("test-strangers-{}", std::process::id());
        let path = path(&name, 9999).unwrap();
        let is_refused = |result: Result<File>| assert!(matches!(result, Err(Error::Refused { .. })), "{result:?}");
        symlink("/etc/hostname", &path).unwrap();
        is_refused(open_or_create(&name, 9999));
        assert!(matches!(unlink(&name, 9999), Err(Error::Refused { .. })));
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        is_refused(open_or_create(&name, 9999));
        std::fs::remove_dir(&path).unwrap();
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        is_refused(open_or_create(&name, 9999));
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, b"x").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        is_refused(open_existing(&name, 9999));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(open_existing(&name, 9999), Err(Error::NotFound { .. })));
    }

    #[test]
    fn memory_without_a_name_keeps_its_size() {
        let memory = memfd("a test").unwrap();
        reserve(&memory, 1 << 16, "a test").unwrap();
        fix_size(&memory).unwrap();
        assert!(memory.set_len(1).is_err());
        assert!(reopen(&memory).unwrap().set_len(1 << 20).is_err());
        assert_eq!(size(&memory).unwrap(), 1 << 16);
    }

    #[test]
    fn reserved_mapped_and_unlinked() {
        use std::os::unix::fs::FileExt;
        let name = format!("test-reserve-{}", std::process::id());
        let file = open_or_create(&name, 9999).unwrap();
        reserve(&file, 1 << 20, "a test").unwrap();
        assert_eq!(size(&file).unwrap(), 1 << 20);
        assert!(Mapping::new(&file, (1 << 20) + 1, true).is_err());
        assert_eq!(Mapping::new(&file, 1 << 20, true).unwrap().len(), 1 << 20);
        assert!(matches!(reserve(&file, 1 << 60, "a test"), Err(Error::NoSpace { .. })));
        let other = reopen(&file).unwrap();
        file.set_len(2 << 20).unwrap();
        file.write_all_at(b"kept", (1 << 20) + 5).unwrap();
        fill_holes(&file, 2 << 20, "a test").unwrap();
        assert!(stat(&file).unwrap().st_blocks * 512 >= 2 << 20, "a hole is left");
        let mut kept = [0; 4];
        file.read_exact_at(&mut kept, (1 << 20) + 5).unwrap();
        assert_eq!(&kept, b"kept");
        file.set_len(1 << 50).unwrap();
        assert!(matches!(fill_holes(&file, 1 << 50, "a test"), Err(Error::NoSpace { .. })));
        assert!(same_file(&name, 9999, &other).unwrap());
        assert!(unlink_if_same(&name, 9999, &other).unwrap());
        assert!(!unlink(&name, 9999).unwrap());
        assert!(!same_file(&name, 9999, &file).unwrap());
    }
}
