//! The whole at a glance: capacities and use, memory by what it is used for, sums, the keeper.

use serde::Serialize;

use super::{Inspector, Owner, Problems};
use crate::arena::Info;
use crate::attach::UNLINK_WHEN_UNUSED;
use crate::cells::Cell;
use crate::error::Result;
use crate::layout::{Block, CLASS_BYTES, Group, Header, LAYOUT_VERSION, World as WorldCell, cell_kind, kind, state};
use crate::os::clock;
use crate::reap::each_cell;
use crate::stats::counts_of;
use crate::usage::usage_of;

/// A thing of which there is a fixed number.
#[derive(Clone, Debug, Serialize)]
pub struct Capacity {
    /// What it is.
    pub what: &'static str,
    /// How many are in use.
    pub used: u64,
    /// How many there are.
    pub capacity: u64,
    /// The setting that raises it.
    pub setting: &'static str,
}

/// The blocks of one size.
#[derive(Clone, Debug, Default, Serialize)]
pub struct BlockRow {
    /// Bytes of each.
    pub bytes: u64,
    /// How many there are.
    pub capacity: u64,
    /// Nobody's.
    pub free: u64,
    /// In the hands of a process that is writing them.
    pub held: u64,
    /// Published.
    pub live: u64,
    /// Second and later ones of a chain.
    pub continued: u64,
    /// In none of these states: damage.
    pub unknown: u64,
}

/// Bytes of the arena by what they are used for, in whole blocks.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Memory {
    /// Messages.
    pub messages: u64,
    /// Members, clients, subscriptions, names.
    pub records: u64,
    /// Pages of the tries over them.
    pub pages: u64,
    /// Later blocks of the chains of long messages and records.
    pub continued: u64,
    /// In the hands of processes that are writing them.
    pub held: u64,
    /// Free.
    pub free: u64,
    /// All blocks.
    pub total: u64,
    /// What is there for things of a fixed number: header, slots, bells, cells, rings.
    pub fixed: u64,
}

/// Whose keeper beat last, and when.
#[derive(Clone, Debug, Serialize)]
pub struct Keeper {
    /// Whose; `None`: none has beaten yet.
    pub owner: Option<Owner>,
    /// Seconds since; `None`: none has beaten yet.
    pub beat_age_seconds: Option<f64>,
}

/// One namespace.
#[derive(Clone, Debug, Serialize)]
pub struct NamespaceRow {
    /// Its name; empty: the one that is used when none is named.
    pub namespace: String,
    /// Open channels.
    pub channels: u64,
    /// Open broadcasts.
    pub broadcasts: u64,
    /// Channels that have had members.
    pub groups: u64,
    /// Heartbeat clients.
    pub clients: u64,
    /// Subscriptions to topic patterns, of matchers and by handles.
    pub topics: u64,
    /// Pings ever recorded.
    pub pings: u64,
    /// Pongs ever recorded.
    pub pongs: u64,
    /// Timeouts ever reported.
    pub timeouts: u64,
}

/// Sums over everything there is, and (`_total`) over the segment's life.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Totals {
    /// Open channels.
    pub channels: u64,
    /// Open broadcasts.
    pub broadcasts: u64,
    /// Removed channels that open handles keep.
    pub retired: u64,
    /// Open handles.
    pub handles: u64,
    /// Registered subscribers.
    pub subscribers: u64,
    /// Members of all channels.
    pub members: u64,
    /// Heartbeat clients.
    pub clients: u64,
    /// Subscriptions to topic patterns.
    pub topics: u64,
    /// Messages ever published; grows only.
    pub published_total: u64,
    /// Messages ever missed by handles, and broadcasts nobody heard; grows only.
    pub missed_total: u64,
    /// Messages whose history was given up because the arena was full; grows only.
    pub evicted_total: u64,
    /// Processes ever attached; grows only.
    pub attached_total: u64,
    /// Dead processes ever settled; grows only.
    pub reaped_total: u64,
}

/// The whole at a glance.
#[derive(Clone, Debug, Serialize)]
pub struct Overview {
    /// The segment's name.
    pub name: String,
    /// Its layout version.
    pub layout: u32,
    /// What tells it from every other segment, also of its name: 16 hexadecimal digits.
    pub identity: String,
    /// Bytes in all.
    pub size: u64,
    /// When its file was made, in seconds since 1970.
    pub created_at: Option<f64>,
    /// When this was read, in seconds since 1970.
    pub taken_at: f64,
    /// The same on the machine's monotonic clock: for rates.
    pub taken_monotonic: f64,
    /// Does the name still lead to it?
    pub current: bool,
    /// Is it unlinked with its last process?
    pub unlink_when_unused: bool,
    /// Processes attached and alive.
    pub processes: u64,
    /// Things of a fixed number.
    pub capacities: Vec<Capacity>,
    /// Blocks by size.
    pub blocks: Vec<BlockRow>,
    /// Bytes by use.
    pub memory: Memory,
    /// Sums.
    pub totals: Totals,
    /// Namespaces.
    pub namespaces: Vec<NamespaceRow>,
    /// The keeper.
    pub keeper: Keeper,
    /// What could not be read.
    pub problems: Vec<String>,
}

impl Inspector {
    /// The whole at a glance. Reads the state of every block, cell, ring unit and bell once.
    pub fn overview(&self) -> Overview {
        let mut problems = Problems::default();
        let view = self.cx().view();
        let (blocks, memory) = self.blocks();
        let namespaces = self.namespaces(&mut problems);
        let totals = self.totals(&namespaces, &mut problems);
        let file = self.file();
        let created_at = file.as_ref().ok().and_then(|file| crate::os::shm::made_at(file).ok());
        drop(file);
        Overview {
            name: self.name.clone(),
            layout: LAYOUT_VERSION,
            identity: format!("{:016x}", view.get(Header::identity)),
            size: self.space.geometry.size,
            created_at,
            taken_at: self.now(),
            taken_monotonic: clock::monotonic_micros() as f64 / 1e6,
            current: problems.keep("the segment's name", self.is_current()),
            unlink_when_unused: view.get(Header::flags) & UNLINK_WHEN_UNUSED != 0,
            processes: self.alive(),
            capacities: self.capacities(),
            blocks,
            memory,
            totals,
            namespaces,
            keeper: self.keeper(),
            problems: problems.0,
        }
    }

    fn capacities(&self) -> Vec<Capacity> {
        let usage = usage_of(&self.space);
        let row = |what, used, capacity, setting| Capacity { what, used, capacity, setting };
        vec![
            row("processes", usage.processes, usage.max_processes, "max_processes"),
            row("named things", usage.cells, usage.max_cells, "channels"),
            row("ring slots", usage.ring_slots, usage.max_ring_slots, "ring_slots"),
            row("waiters", usage.waiters, usage.max_waiters, "waiters"),
            row("small blocks", usage.blocks[0], usage.max_blocks[0], "size"),
            row("medium blocks", usage.blocks[1], usage.max_blocks[1], "size"),
            row("large blocks", usage.blocks[2], usage.max_blocks[2], "size"),
        ]
    }

    fn blocks(&self) -> (Vec<BlockRow>, Memory) {
        let (geometry, view) = (&self.space.geometry, self.cx().view());
        let mut memory = Memory::default();
        let mut rows = Vec::new();
        for (class, bytes) in CLASS_BYTES.into_iter().enumerate() {
            let bytes = bytes as u64;
            let mut row = BlockRow { bytes, capacity: u64::from(geometry.blocks[class]), ..BlockRow::default() };
            let first = geometry.first_of(class);
            for (_, at) in (first..first + geometry.blocks[class]).filter_map(|block| geometry.block(block)) {
                let (count, used) = match state::of(view.get(at)) {
                    state::FREE => (&mut row.free, &mut memory.free),
                    state::HELD => (&mut row.held, &mut memory.held),
                    state::CONT => (&mut row.continued, &mut memory.continued),
                    state::LIVE => (
                        &mut row.live,
                        match Info(view.get(at + Block::info)).kind() {
                            kind::TEXT | kind::BYTES => &mut memory.messages,
                            kind::RECORD => &mut memory.records,
                            _ => &mut memory.pages,
                        },
                    ),
                    _ => (&mut row.unknown, &mut memory.held),
                };
                *count += 1;
                *used += bytes;
            }
            memory.total += row.capacity * bytes;
            rows.push(row);
        }
        memory.fixed = geometry.size.saturating_sub(memory.total);
        (rows, memory)
    }

    fn keeper(&self) -> Keeper {
        let view = self.cx().view();
        let (beat, owner) = (view.get(Header::keeper_beat), view.get(Header::keeper));
        let beaten = beat != 0 && owner != 0;
        Keeper {
            owner: beaten.then(|| self.attached().owner(owner)),
            beat_age_seconds: beaten.then(|| clock::monotonic_micros().saturating_sub(beat) as f64 / 1e6),
        }
    }

    fn namespaces(&self, problems: &mut Problems) -> Vec<NamespaceRow> {
        let (cx, worlds) = (self.cx(), self.worlds(problems));
        let mut rows = Vec::new();
        for (namespace, cell) in worlds {
            let mut count = |field: usize, what: &str| {
                let counted = cell.trie(cx, field).live();
                problems.keep(&format!("namespace {namespace:?}, how many {what} there are"), counted)
            };
            let counter = |field: usize| cx.view().get(cell.at() + field);
            rows.push(NamespaceRow {
                channels: count(WorldCell::channels, "channels"),
                broadcasts: count(WorldCell::broadcasts, "broadcasts"),
                groups: count(WorldCell::presence, "channels with members"),
                clients: count(WorldCell::heartbeats, "clients"),
                topics: count(WorldCell::manager_topics, "patterns of managers")
                    + count(WorldCell::free_topics, "patterns of matchers")
                    + count(WorldCell::patterns, "handles on patterns"),
                pings: counter(WorldCell::pings),
                pongs: counter(WorldCell::pongs),
                timeouts: counter(WorldCell::timeouts),
                namespace,
            });
        }
        rows
    }

    fn totals(&self, namespaces: &[NamespaceRow], problems: &mut Problems) -> Totals {
        let cx = self.cx();
        let word = |index| cx.view().get(index);
        let mut totals = Totals {
            clients: namespaces.iter().map(|row| row.clients).sum(),
            topics: namespaces.iter().map(|row| row.topics).sum(),
            published_total: word(Header::past_published),
            missed_total: word(Header::past_dropped),
            evicted_total: word(Header::evictions),
            attached_total: word(Header::attaches),
            reaped_total: word(Header::reaps),
            ..Totals::default()
        };
        let listed = each_cell(cx, |cell, kind| {
            let counted = self.add(&mut totals, cell, kind);
            self.keep_of_cell(problems, cell, &format!("cell {}", cell.number()), counted);
            Ok(())
        });
        problems.keep("the cells", listed);
        totals
    }

    fn add(&self, totals: &mut Totals, cell: Cell, kind: u64) -> Result<()> {
        let cx = self.cx();
        match kind {
            cell_kind::CHANNEL | cell_kind::BROADCAST => {
                let is_open = cell.is_open(cx);
                let Some(counts) = counts_of(cx, cell)? else {
                    return Ok(());
                };
                match (kind, is_open) {
                    (_, false) => totals.retired += 1,
                    (cell_kind::CHANNEL, true) => totals.channels += 1,
                    (_, true) => totals.broadcasts += 1,
                }
                totals.handles += counts.handles;
                totals.subscribers += counts.subscribers;
                totals.published_total = totals.published_total.wrapping_add(counts.published);
                totals.missed_total = totals.missed_total.wrapping_add(counts.dropped);
            }
            cell_kind::GROUP => totals.members += cell.trie(cx, Group::members).live()?,
            _ => {}
        }
        Ok(())
    }
}
