//! Capacities of a segment and how much of each is in use: counted from the state words when asked for.

use crate::error::Result;
use crate::geometry::{BLOCKS_PER_CLIENT, BLOCKS_PER_MEMBER};
use crate::layout::{Header, UNIT_DESCRIPTORS, Unit, state};
use crate::segment::Segment;
use crate::space::Space;

/// Capacities and use.
#[derive(Clone, Debug, Default)]
pub struct SegmentStats {
    /// The name; `None`: private.
    pub name: Option<String>,
    /// Bytes in all.
    pub size: u64,
    /// Processes attached, and how many may be.
    pub processes: u64,
    /// See `processes`.
    pub max_processes: u64,
    /// Named things in use (channels, broadcasts, channels with members, namespaces), and how many may be.
    pub cells: u64,
    /// See `cells`.
    pub max_cells: u64,
    /// Messages that all rings together retain, in use and in all.
    pub ring_slots: u64,
    /// See `ring_slots`.
    pub max_ring_slots: u64,
    /// Blocks in use and in all, by class (256 bytes, 2 KiB, 16 KiB).
    pub blocks: [u64; 3],
    /// See `blocks`.
    pub max_blocks: [u64; 3],
    /// How many members or clients fit if nothing else is in the small blocks.
    pub max_members: u64,
    /// See `max_members`.
    pub max_clients: u64,
    /// Event loops and threads that wait, or have waited and not ended, and how many may.
    pub waiters: u64,
    /// See `waiters`.
    pub max_waiters: u64,
    /// Messages whose history was given up because the arena was full.
    pub evicted_messages: u64,
    /// Dead processes settled since creation.
    pub reaped: u64,
}

impl Segment {
    /// Capacities and use.
    pub fn stats(&self) -> Result<SegmentStats> {
        let usage = usage_of(self.cx()?.space);
        Ok(SegmentStats { name: self.name().map(str::to_owned), ..usage })
    }
}

/// Capacities and use, without the name.
pub(crate) fn usage_of(space: &Space) -> SegmentStats {
    let (geometry, view) = (&space.geometry, &space.view);
    let in_use = |at: &usize| state::of(view.get(*at)) != state::FREE;
    let mut blocks = [0; 3];
    for (class, used) in blocks.iter_mut().enumerate() {
        let first = geometry.first_of(class);
        let ats = (first..first + geometry.blocks[class]).filter_map(|block| geometry.block(block)).map(|(_, at)| at);
        *used = ats.filter(in_use).count() as u64;
    }
    let busy_units = (0..geometry.units).map(|unit| geometry.units_at + unit as usize * Unit::WORDS).filter(in_use).count();
    let cells = (0..geometry.cells).filter_map(|cell| geometry.cell(cell)).filter(in_use).count();
    let bells = (0..geometry.bells).filter_map(|bell| geometry.bell(bell)).filter(in_use).count();
    SegmentStats {
        name: None,
        size: geometry.size,
        processes: u64::from(space.slots_in_use()),
        max_processes: u64::from(geometry.slots),
        cells: cells as u64,
        max_cells: u64::from(geometry.cells),
        ring_slots: (busy_units * UNIT_DESCRIPTORS) as u64,
        max_ring_slots: u64::from(geometry.units) * UNIT_DESCRIPTORS as u64,
        blocks,
        max_blocks: geometry.blocks.map(u64::from),
        max_members: u64::from(geometry.reserve_from) / BLOCKS_PER_MEMBER,
        max_clients: u64::from(geometry.reserve_from) / BLOCKS_PER_CLIENT,
        waiters: bells as u64,
        max_waiters: u64::from(geometry.bells),
        evicted_messages: view.get(Header::evictions),
        reaped: view.get(Header::reaps),
    }
}
