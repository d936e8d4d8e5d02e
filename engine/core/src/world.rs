//! A world: one namespace of a segment, with the roots of everything in it.

use crate::cells::Cell;
use crate::directory::Directory;
use crate::error::{Error, Result};
use crate::layout::{Header, cell_kind};
use crate::relief;
use crate::segment::Segment;
use crate::space::Context;

/// Longest name, id or pattern, in bytes of UTF-8.
pub const MAX_NAME: usize = 4096;

/// Refuses names longer than any sane one, before they fill the arena.
#[inline(always)]
pub(crate) fn check_length(argument: &'static str, name: &str) -> Result<()> {
    if name.len() > MAX_NAME { Err(too_long(argument, name.len())) } else { Ok(()) }
}

#[cold]
#[inline(never)]
fn too_long(argument: &'static str, length: usize) -> Error {
    Error::invalid(argument, format!("{length} bytes long"), format!("at most {MAX_NAME} bytes"))
}

/// One namespace of a segment.
#[derive(Clone)]
pub struct World {
    segment: Segment,
    cell: Cell,
}

impl World {
    /// Refuses what cannot be a namespace's name.
    pub fn check_name(namespace: &str) -> Result<()> {
        if namespace.len() > 255 {
            return Err(Error::invalid("namespace", format!("{} bytes long", namespace.len()), "at most 255 bytes"));
        }
        Ok(())
    }

    /// The world of this namespace, made if need be. Worlds are never removed.
    pub fn new(segment: &Segment, namespace: &str) -> Result<World> {
        World::check_name(namespace)?;
        let cx = segment.cx()?;
        let directory = Directory::new(cx, Header::worlds);
        for _ in 0..64 {
            if let Some(found) = directory.find(namespace)? {
                return Ok(World { segment: segment.clone(), cell: found.cell });
            }
            directory.insert(namespace, &[], |ident| relief::new_cell(cx, cell_kind::WORLD, Header::worlds, ident))?;
        }
        Err(Error::Corrupt { what: "a namespace cannot be found after it was made" })
    }

    /// The segment it is in.
    pub fn segment(&self) -> &Segment {
        &self.segment
    }

    /// What tells this world, as this process is attached to it, from all others: a forked child's differs.
    pub fn key(&self) -> Result<(u64, u32)> {
        Ok((self.segment.attached()?.1, self.cell.number()))
    }

    /// Segment and acting process.
    #[inline(always)]
    pub(crate) fn cx(&self) -> Result<Context<'_>> {
        self.segment.cx()
    }

    /// The number of its cell, whose news is of channels and groups made in it.
    pub(crate) const fn cell_number(&self) -> u32 {
        self.cell.number()
    }

    /// The word index of one of the world's roots or counters.
    #[inline(always)]
    pub(crate) const fn root(&self, field: usize) -> usize {
        self.cell.at() + field
    }
}
