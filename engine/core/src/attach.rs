//! Files into spaces: creating, attaching to, clearing and leaving a segment's file, behind the gate.
//! Promise: a segment is seen finished or not at all, and one that is unlinked is never attached to.

use std::fs::File;
use std::time::Duration;

use crate::check::look_over;
use crate::deaths::{nobody_alive, settle_dead};
use crate::error::{Error, Result};
use crate::events;
use crate::geometry::{Geometry, Options};
use crate::kernel::Kernel;
use crate::layout::{Header, LAYOUT_VERSION, MAGIC, fingerprint};
use crate::os::bell::Shelf;
use crate::os::fork::Guarded;
use crate::os::mapping::Mapping;
use crate::os::{clock, locks, shm};
use crate::owned::{Dead, Departure};
use crate::points::point;
use crate::reap::{scavenge, settle};
use crate::relief::last_resort;
use crate::space::{Actor, Context, Silent, Space};
use crate::sync::Ordering;
use crate::view::View;

/// Flag in the header: unlink when the last process is gone.
pub(crate) const UNLINK_WHEN_UNUSED: u64 = 1;
/// How long an attach waits for another process's attach or detach.
const PATIENCE: Duration = Duration::from_secs(5);
/// Findings that an error names.
const FINDINGS_TOLD: usize = 3;
/// The byte of the file under whose lock segments are created, attached to and unlinked.
const GATE: u64 = 0;

/// The lock of the file's first byte, while it lives.
pub(crate) struct Gate<'f>(&'f File);

impl<'f> Gate<'f> {
    pub(crate) fn enter(file: &'f File) -> Result<Gate<'f>> {
        let start = std::time::Instant::now();
        loop {
            if locks::try_lock(file, GATE)? {
                return Ok(Gate(file));
            }
            if start.elapsed() > PATIENCE {
                return Err(Error::Os {
                    operation: "waiting for another process that is creating, attaching to or leaving",
                    subject: "the segment".to_owned(),
                    errno: libc::ETIMEDOUT,
                });
            }
            std::thread::sleep(Duration::from_micros(500));
        }
    }
}

impl Drop for Gate<'_> {
    fn drop(&mut self) {
        // Should this fail, the kernel still drops the lock with the descriptor.
        let _ = locks::unlock(self.0, GATE);
    }
}

/// One look at the name: the file that it leads to, created and filled if need be. `None`: it was unlinked
/// while we waited; look again.
pub(crate) fn find_or_create(name: &str, create: Option<(&Geometry, &Options)>) -> Result<Option<(Space, Guarded)>> {
    // Guarded before anything is locked: a child that another thread forks meanwhile shares none of it.
    let guarded = Guarded::new(match create {
        Some(_) => shm::open_or_create(name, LAYOUT_VERSION)?,
        None => shm::open_existing(name, LAYOUT_VERSION)?,
    });
    let file = guarded.file().ok_or_else(lost)?;
    let gate = Gate::enter(&file)?;
    if !shm::same_file(name, LAYOUT_VERSION, &file)? {
        return Ok(None);
    }
    let ready = content(&file, shm::size(&file)?)? == Content::Finished;
    let space = match (ready, create) {
        (true, _) => open_space(name, &file)?,
        // What a creator that died left half done is thrown away. By name: should the bytes lie and somebody be
        // attached, a file cut short would kill him.
        (false, Some(_)) if shm::size(&file)? > 0 => {
            if locks::is_any_held(&file, GATE + 1)? {
                return Err(Error::Corrupt { what: "the header says that it is unfinished, and processes are attached" });
            }
            shm::unlink_if_same(name, LAYOUT_VERSION, &file)?;
            return Ok(None);
        }
        (false, Some((geometry, options))) => match shm::reserve(&file, geometry.size, name).and_then(|()| shm::tidy_all(LAYOUT_VERSION)) {
            Ok(()) => create_space(&file, Some(name), geometry, options),
            Err(error) => Err(error),
        }
        .or_else(|error| shm::unlink_if_same(name, LAYOUT_VERSION, &file).and(Err(error)))?,
        (false, None) => return Err(Error::NotFound { name: name.to_owned() }),
    };
    let mut settled = Vec::new();
    if ready && nobody_alive(&space, &file, None)? {
        settled = settle_dead(&space, &file, None)?;
        clear_connections(name, &space)?;
        point!("attach.cleared");
    }
    drop(gate);
    events::settled(Some(name), &settled);
    Ok(Some((space, guarded)))
}

/// Somebody in this process closed a descriptor that is not theirs.
pub(crate) fn lost() -> Error {
    Error::Os {
        operation: "using",
        subject: "the descriptor of the segment, which something in this process closed, and which no name leads to any more".to_owned(),
        errno: libc::EBADF,
    }
}

/// Removes a segment's name if it leads to this file, behind its gate: nobody then removes the name of the segment
/// that was made after this one. False: it leads elsewhere, or nowhere.
pub(crate) fn unlink(name: &str, file: &File) -> Result<bool> {
    // By a description of its own, so that another thread of this process behind the gate counts as another, too.
    let own = shm::reopen(file)?;
    // Whoever is stopped behind the gate keeps nobody from removing the name.
    let gate = Gate::enter(&own).ok();
    let removed = shm::unlink_if_same(name, LAYOUT_VERSION, &own);
    drop(gate);
    removed
}

/// Nobody was attached: what belongs to connections is of a former run. Nothing moves now, so that everything can
/// be looked at: nobody begins anew on ruins.
fn clear_connections(name: &str, space: &Space) -> Result<()> {
    let actor = Actor::without_slot();
    let cx = Context { space, actor: &actor };
    let cleared = settle(cx, &Dead { owners: &[], departure: Departure::Everybody });
    cx.settle_bells(|_| true);
    let cleared = cleared.and_then(|()| scavenge(cx, &|_| true).map(drop));
    let mut findings = look_over(cx, &|_| true);
    findings.extend(cleared.err().map(|error| error.to_string()));
    if findings.is_empty() {
        return Ok(());
    }
    findings.truncate(FINDINGS_TOLD);
    Err(Error::Damaged { name: name.to_owned(), findings })
}

/// What a file in a segment's place is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// A finished segment, or something else altogether: either way nothing to be made anew.
    Finished,
    /// Empty, or what a creator that died left.
    Unfinished,
}

fn content(file: &File, length: u64) -> Result<Content> {
    let header = Header::WORDS as u64 * 8;
    if length == 0 {
        return Ok(Content::Unfinished);
    }
    if length >= header {
        let view = View::mapped(Mapping::new(file, header as usize, false)?);
        // SYNC segment.ready (R): pairs with (W) in `create_space`.
        let finished = view.word(Header::version).load(Ordering::Acquire) != 0;
        match (view.get(Header::magic), finished) {
            (MAGIC, false) => return Ok(Content::Unfinished),
            (_, true) => return Ok(Content::Finished),
            (0, false) => {}
            _ => return Ok(Content::Finished),
        }
    }
    // A creator reserves zeros and says first that the file is a segment's: anything else is not ours to finish.
    Ok(if shm::is_zero(file, length)? { Content::Unfinished } else { Content::Finished })
}

/// Fills a reserved, zeroed file: that it is a segment's is stored first, the version last.
pub(crate) fn create_space(file: &File, name: Option<&str>, geometry: &Geometry, options: &Options) -> Result<Space> {
    point!("new.reserved");
    let view = View::mapped(Mapping::new(file, geometry.size as usize, true)?);
    let random = random_words()?;
    view.word(Header::magic).store(MAGIC, Ordering::Release);
    point!("new.magic");
    for (index, value) in [
        (Header::fingerprint, fingerprint()),
        (Header::size, geometry.size),
        (Header::slots, u64::from(geometry.slots)),
        (Header::cells, u64::from(geometry.cells)),
        (Header::units, u64::from(geometry.units)),
        (Header::small, u64::from(geometry.blocks[0])),
        (Header::medium, u64::from(geometry.blocks[1])),
        (Header::large, u64::from(geometry.blocks[2])),
        (Header::bells, u64::from(geometry.bells)),
        (Header::key0, random[0]),
        (Header::key1, random[1]),
        (Header::identity, random[2]),
        (Header::clock_offset, clock::realtime_micros().wrapping_sub(clock::monotonic_micros())),
        (Header::flags, if options.unlink_when_unused { UNLINK_WHEN_UNUSED } else { 0 }),
    ] {
        view.set(index, value);
    }
    point!("new.header");
    let kernel = Kernel::new(Shelf::of(name, random[2])?);
    let space = Space::new(view, geometry.clone(), Box::new(kernel)).with_last_resort(last_resort);
    space.format();
    point!("new.formatted");
    // SYNC segment.ready (W): everything before the version; pairs with (R) in `content` and `open_space`.
    space.view.word(Header::version).store(u64::from(LAYOUT_VERSION), Ordering::Release);
    point!("new.ready");
    Ok(space)
}

/// The hash key, and what tells this segment from all others.
fn random_words() -> Result<[u64; 3]> {
    let mut random = [0_u8; 24];
    // A fuzzer's findings are to be repeated.
    if !cfg!(fuzzing) {
        getrandom::fill(&mut random).map_err(|error| Error::Os {
            operation: "reading random bytes for",
            subject: "the segment's hash key".to_owned(),
            errno: error.raw_os_error().unwrap_or(libc::EIO),
        })?;
    }
    Ok([0, 8, 16].map(|at| random[at..at + 8].iter().fold(0, |word, &byte| word << 8 | u64::from(byte))))
}

/// Maps a finished segment, to be used.
fn open_space(name: &str, file: &File) -> Result<Space> {
    let (view, geometry) = map(name, file, true)?;
    let kernel = Kernel::new(Shelf::of(Some(name), view.get(Header::identity))?);
    Ok(Space::new(view, geometry, Box::new(kernel)).with_last_resort(last_resort))
}

/// Maps a finished segment, to be looked at: nothing can be written, nobody can be rung.
pub(crate) fn look_space(name: &str, file: &File) -> Result<Space> {
    if content(file, shm::size(file)?)? == Content::Unfinished {
        return Err(Error::NotFound { name: name.to_owned() });
    }
    // Even a look at a hole takes memory, and is a SIGBUS where there is none.
    if shm::holes(file, shm::size(file)?)? > 0 {
        let why = "it has holes, as a sparse copy has: copy it with cp --sparse=never".to_owned();
        return Err(Error::Refused { path: shm::path(name, LAYOUT_VERSION)?, why });
    }
    let (view, geometry) = map(name, file, false)?;
    Ok(Space::new(view, geometry, Box::new(Silent)))
}

/// Maps a finished segment after checking that it is one, of this layout, and sound.
fn map(name: &str, file: &File, writable: bool) -> Result<(View, Geometry)> {
    let length = shm::size(file)?;
    if length < Header::WORDS as u64 * 8 {
        return Err(Error::Refused {
            path: shm::path(name, LAYOUT_VERSION)?,
            why: format!("it is no segment: it has {length} bytes only"),
        });
    }
    let view = View::mapped(Mapping::new(file, length as usize, writable)?);
    if view.get(Header::magic) != MAGIC {
        return Err(Error::Refused { path: shm::path(name, LAYOUT_VERSION)?, why: "it is not a segment of this library".to_owned() });
    }
    let found = view.word(Header::version).load(Ordering::Acquire);
    let (expected, found_fingerprint) = (u64::from(LAYOUT_VERSION), view.get(Header::fingerprint));
    if (found, found_fingerprint) != (expected, fingerprint()) {
        let name = name.to_owned();
        return Err(Error::Version { name, found, expected, found_fingerprint, expected_fingerprint: fingerprint() });
    }
    let size = view.get(Header::size);
    if size > length {
        return Err(Error::Corrupt { what: "the header says more bytes than the file has" });
    }
    let word = |index| view.get(index);
    let blocks = [word(Header::small), word(Header::medium), word(Header::large)];
    let geometry = Geometry::check(size, word(Header::slots), word(Header::cells), word(Header::units), word(Header::bells), blocks)?;
    // A copy with holes: a hole that finds no room when it is touched is a SIGBUS.
    if writable {
        shm::fill_holes(file, length, name)?;
    }
    Ok((view, geometry))
}
