//! Whereabouts: the hint to which channels a client is in, so that one client's are neighbours. The members are
//! the truth: a hint is written before its member and removed after it, checked on use, and pruned here.
//!
//! A hint is an entry without a record. It says 79 bits of the client's keyed hash and 20 of the channel's, which
//! tell it from all others, and the number of the cell that has the channel's members:
//!
//! ```text
//! place = client:40 | channel:20          value = inline:1 | client, its next 39 bits | cell:24
//! ```

use crate::cells::Cell;
use crate::directory::{Directory, cell_of};
use crate::error::Result;
use crate::layout::{Channel, Group, World as WorldCell, cell_kind, state};
use crate::points::point;
use crate::record::Record;
use crate::space::{Context, Hash, PAIR_MASK};
use crate::sync::{Ordering, fence};
use crate::trie::{Change, Entry, Root, Trie, VALUE_INLINE};

const CELL_BITS: u32 = 24;
/// Bits of a client's hash that stand in the value: 20 that end its place among members, and 19 more.
const REST_BITS: u32 = 39;

/// Rounds against others who change the same member: what is left after them is pruned.
const PATIENCE: u32 = 1 << 10;

/// The hint that a client is in a channel.
///
/// Whoever changes a hint looks at its member afterwards, and whoever changes a member at its hint, so the last of them
/// leaves both in agreement.
#[derive(Clone, Copy)]
pub(crate) struct Hint<'a> {
    trie: Trie<'a>,
    /// Root word of the directory of groups.
    directory: usize,
    place: u64,
    value: u64,
}

/// What hints say of a group.
pub(crate) struct NamedGroup {
    number: u32,
    channel: Hash,
}

impl NamedGroup {
    /// Of one that is there now.
    pub(crate) fn of(cx: Context<'_>, cell: Cell) -> NamedGroup {
        NamedGroup { number: cell.number, channel: Hash { high: cx.view().get(cell.at + Group::ident), low: 0 } }
    }
}

/// The bits of a client's hash that stand in the values of its hints.
const fn rest_of(client: Hash) -> u64 {
    (client.high & !PAIR_MASK) >> 4 << 19 | client.low >> 45
}

impl<'a> Hint<'a> {
    /// The hint that a client is a member in a group's cell of the world at a word. To be made before the member leaves:
    /// afterwards the cell may be of another channel.
    pub(crate) fn new(cx: Context<'a>, world: usize, client: Hash, cell: Cell) -> Hint<'a> {
        Hint::in_group(cx, world, client, &NamedGroup::of(cx, cell))
    }

    pub(crate) fn in_group(cx: Context<'a>, world: usize, client: Hash, group: &NamedGroup) -> Hint<'a> {
        let value = VALUE_INLINE | rest_of(client) << CELL_BITS | u64::from(group.number);
        Hint::of(cx, world, &Entry { word: client.pair(group.channel), value })
    }

    /// An entry of the whereabouts of the world at a word.
    fn of(cx: Context<'a>, world: usize, entry: &Entry) -> Hint<'a> {
        let trie = Trie::new(cx, world + WorldCell::whereabouts);
        Hint { trie, directory: world + WorldCell::presence, place: entry.place(), value: entry.value }
    }

    /// What tells it from all others of its trie.
    pub(crate) const fn key(&self) -> (u64, u64) {
        (self.place, self.value)
    }

    /// Is it there?
    pub(crate) fn is_there(&self) -> Result<bool> {
        self.trie.has_value(self.place, self.value)
    }

    /// Writes it. False: it was there.
    pub(crate) fn write(&self) -> Result<bool> {
        let written = self.trie.change(
            self.place,
            |value| Some(value == self.value),
            |found| Ok((if found.is_some() { Change::Keep } else { Change::PutInline(0, self.value) }, found.is_none())),
        )?;
        Ok(written.unwrap_or(false))
    }

    /// Removes it. False: it was not there.
    fn take(&self) -> Result<bool> {
        self.trie.remove(self.place, |value| Some(value == self.value))
    }

    /// To be called when its member left. Gives whether it was there.
    pub(crate) fn forget(&self) -> Result<bool> {
        let taken = self.take()?;
        point!("untrack.forgotten");
        // The client may be back, and its hint have been written before we removed it.
        if self.is_right()? {
            self.settle()?;
        }
        Ok(taken)
    }

    /// Brings it into agreement with its member.
    pub(crate) fn settle(&self) -> Result<()> {
        for _ in 0..PATIENCE {
            let changed = if self.is_right()? { self.write()? } else { self.take()? };
            if !changed {
                break;
            }
        }
        Ok(())
    }

    /// Is somebody a member in the group that it leads to who would have this hint?
    fn is_right(&self) -> Result<bool> {
        let cx = self.trie.cx;
        let Some(cell) = group_of(cx, self.directory, self.place, self.value) else {
            return Ok(false);
        };
        let rest = self.value >> CELL_BITS & ((1 << REST_BITS) - 1);
        let place = self.place & PAIR_MASK | rest >> 19 << 4;
        let would_have = |record: &Record| rest_of(cx.space.hash(record.key())) == rest;
        let member = cell.trie(cx, Group::members).find(place, |value| cx.record(value).map(|record| would_have(&record)))?;
        Ok(member.is_some_and(|entry| entry.is_live()))
    }
}

/// Where a hint leads: the group with this name's hash bits that now has the cell. `None`: there is none.
fn group_of(cx: Context<'_>, directory: usize, place: u64, value: u64) -> Option<Cell> {
    let number = (value & ((1 << CELL_BITS) - 1)) as u32;
    let at = cx.space.geometry.cell(number)?;
    let cell = Cell { number, at, generation: state::generation(cx.view().get(at)) };
    let back = cx.view().get(at + Channel::back);
    let name = Hash { high: cx.view().get(at + Group::ident), low: 0 };
    let same_name = Hash { high: 0, low: 0 }.pair(name) == place & !PAIR_MASK;
    // Last: it tells whether what was read is of this life.
    // SYNC cell.words (R): pairs with (W) in `claim_cell`.
    fence(Ordering::Acquire);
    (back == cell_kind::GROUP | (directory as u64) << 8 && same_name && cell.is_open(cx)).then_some(cell)
}

/// The groups that the hints in the world at a word name for a client: it may be a member there.
pub(crate) fn hinted(cx: Context<'_>, world: usize, client: Hash) -> Result<smallvec::SmallVec<[Cell; 4]>> {
    let mut cells = smallvec::SmallVec::new();
    let first = client.high & PAIR_MASK;
    Trie::new(cx, world + WorldCell::whereabouts).entries_between(first, first | !PAIR_MASK, |entry| {
        if entry.value >> CELL_BITS & ((1 << REST_BITS) - 1) == rest_of(client) {
            cells.extend(group_of(cx, world + WorldCell::presence, entry.place(), entry.value));
        }
    })?;
    Ok(cells)
}

/// How many clients the hints name.
pub(crate) fn clients(whereabouts: &Trie<'_>) -> Result<u64> {
    let mut total = 0;
    let mut last = None;
    let mut others = hashbrown::HashSet::new();
    whereabouts.entries(|entry| {
        let (prefix, rest) = (entry.place() & PAIR_MASK, entry.value >> CELL_BITS);
        match last {
            Some((before, _)) if before != prefix => others.clear(),
            // Neighbours under one prefix are almost always one client in several channels.
            Some((_, first)) if rest == first || !others.insert(rest) => return,
            Some((_, first)) => {
                total += 1;
                last = Some((prefix, first));
                return;
            }
            None => {}
        }
        total += 1;
        last = Some((prefix, rest));
    })?;
    Ok(total)
}

/// Removes the hints to members that are not there. Gives how many there were.
pub(crate) fn forget_gone(cx: Context<'_>, world: usize) -> Result<u64> {
    let mut hints = Vec::new();
    Trie::new(cx, world + WorldCell::whereabouts).entries(|entry| hints.push(*entry))?;
    let mut gone = 0;
    for entry in hints {
        let hint = Hint::of(cx, world, &entry);
        if !hint.is_right()? {
            gone += u64::from(hint.forget()?);
        }
    }
    Ok(gone)
}

/// Removes hints to members that are not there, writes those that are missing, and gives back groups in which nobody is left.
pub(crate) fn prune(cx: Context<'_>, world: Cell) -> Result<u64> {
    let mut pruned = forget_gone(cx, world.at)?;
    point!("prune.removed");
    let directory = Directory::new(cx, world.at + WorldCell::presence);
    let mut groups = Vec::new();
    directory.each(|found| groups.push(found.cell))?;
    for cell in groups {
        // Somebody who removed the hint of a member that was back died before writing it again.
        let mut members = Vec::new();
        cell.trie(cx, Group::members).records(|entry, record| members.extend(entry.is_live().then(|| cx.space.hash(record.key()))))?;
        for client in members {
            let hint = Hint::new(cx, world.at, client, cell);
            if !hint.is_there()? {
                hint.settle()?;
            }
        }
    }
    let mut empty = Vec::new();
    directory.trie.records(|_, record| {
        if let Some(cell) = cell_of(cx, record)
            && cell.trie(cx, Group::members).root() == Root::Sealed
        {
            empty.push((record.name(), cell));
        }
    })?;
    for (channel, cell) in empty {
        directory.remove(&channel, Some(cell))?;
        cell.release(cx);
        pruned += 1;
    }
    Ok(pruned)
}
