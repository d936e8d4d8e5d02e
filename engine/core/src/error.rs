//! What can go wrong, as one enum: the binding turns each kind into one Python exception.
//! Promise: every message names the argument or thing, the value, and the bound or the setting that raises it.

use std::path::PathBuf;

/// The engine's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Longest value that is told whole, in characters.
const TOLD: usize = 60;

/// A value's text as errors tell it: cut in the middle where it is long.
pub fn shortened(text: &str) -> String {
    let length = text.chars().count();
    if length <= TOLD {
        return text.to_owned();
    }
    let begin: String = text.chars().take(TOLD / 2).collect();
    let end: String = text.chars().skip(length - TOLD / 4).collect();
    format!("{begin}…{end}")
}

/// Everything the engine reports. Nothing was changed in the segment when one of these is returned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The segment handle was closed.
    #[error("the segment is closed")]
    Closed,
    /// The subscriber handle was closed.
    #[error("the subscriber is closed")]
    HandleClosed,
    /// No segment has this name.
    #[error("no segment is named {name:?}")]
    NotFound {
        /// The name asked for.
        name: String,
    },
    /// An argument is out of its bound.
    #[error("{argument} is {value}; it must be {bound}")]
    Invalid {
        /// The argument's name as the caller knows it.
        argument: &'static str,
        /// The value given.
        value: String,
        /// What it must be.
        bound: String,
    },
    /// A part of the segment is full.
    #[error("{what} full: {used} of {capacity} in use; raise {setting}")]
    Full {
        /// What is full, in the plural, followed by "are" or "is" where it reads better.
        what: &'static str,
        /// How much is in use.
        used: u64,
        /// How much there is.
        capacity: u64,
        /// The setting that raises it.
        setting: &'static str,
    },
    /// The file system has no room for the segment.
    #[error(
        "no room for a segment of {needed} bytes in {directory}: {available} bytes are free; make it larger (in a container: --shm-size) or ask for a smaller size"
    )]
    NoSpace {
        /// Bytes needed.
        needed: u64,
        /// Bytes free where it should go.
        available: u64,
        /// Where it should go.
        directory: String,
    },
    /// The segment was made by another version or with another layout.
    #[error(
        "segment {name:?} has layout version {found} ({found_fingerprint:016x}), this library speaks {expected} ({expected_fingerprint:016x}); it was left untouched"
    )]
    Version {
        /// The segment's name.
        name: String,
        /// The version found.
        found: u64,
        /// The version of this library.
        expected: u64,
        /// The fingerprint of the layout found.
        found_fingerprint: u64,
        /// The fingerprint of this library's layout.
        expected_fingerprint: u64,
    },
    /// The bytes of the segment contradict themselves.
    #[error("the segment is damaged: {what}")]
    Corrupt {
        /// What contradicts what.
        what: &'static str,
    },
    /// Nobody was attached to the segment, and a walk over all of it found damage.
    #[error("segment {name:?} is damaged, and was left as it is: {}; unlink it to begin anew", findings.join("; "))]
    Damaged {
        /// The segment's name.
        name: String,
        /// What is wrong, the first few.
        findings: Vec<String>,
    },
    /// The file in the segment's place is not ours to use.
    #[error("{path} is refused: {why}")]
    Refused {
        /// The file.
        path: PathBuf,
        /// Wrong owner, mode, kind or size.
        why: String,
    },
    /// The kernel refused.
    #[error("{operation} {subject}: {}", std::io::Error::from_raw_os_error(*errno))]
    Os {
        /// What was attempted.
        operation: &'static str,
        /// On what.
        subject: String,
        /// The error number.
        errno: i32,
    },
}

impl Error {
    /// An argument out of its bound.
    pub fn invalid(argument: &'static str, value: impl std::fmt::Display, bound: impl Into<String>) -> Error {
        Error::Invalid { argument, value: shortened(&value.to_string()), bound: bound.into() }
    }
}
