//! Whereabouts: the hint to which channels a client is in. The members are the truth: a hint is written before its member
//! and removed after it, checked on use, and pruned here.
//!
//! A hint is one word in the line of its client, one of 2^k lines of 8 words that all worlds share. It says the client's
//! place among members, whose first k bits choose the line, and the cell that has the channel's members:
//!
//! ```text
//! hint  = the rest of the client's place:60-k | cell + 1:4+k          0: free
//! ```
//!
//! What finds its line full is an entry without a record in the world's `whereabouts`, where one client's are neighbours:
//!
//! ```text
//! place = client:40 | cell, mixed:20          value = inline:1 | client, its next 20 bits | cell:24
//! ```
//!
//! Whoever changes a hint looks at its member afterwards, and whoever changes a member at its hint, so the last of them
//! leaves both in agreement. Two may write one hint twice: whoever removes it removes both.

use smallvec::SmallVec;

use crate::cells::Cell;
use crate::directory::{Directory, cell_of};
use crate::error::Result;
use crate::geometry::HINTS_A_LINE;
use crate::layout::{Channel, Group, World as WorldCell, cell_kind};
use crate::points::point;
use crate::space::{Context, PAIR_MASK};
use crate::sync::{AtomicU64, Ordering, fence, fence_after_swap};
use crate::trie::{Change, Entry, Root, Trie, VALUE_INLINE};
use crate::view::View;

const CELL_BITS: u32 = 24;
const CELL_MASK: u64 = (1 << CELL_BITS) - 1;
/// Mixes cells' numbers, which are close to each other, into places that are not: a page with as many neighbours would be
/// divided into as many leaves. (Odd: no two of 2^20 numbers become one. The golden ratio: Knuth, TAOCP 3, 6.4.)
const MIXING: u64 = 0x9e37_79b9_7f4a_7c15;

/// Rounds against others who change the same member: what is left after them is pruned.
const PATIENCE: u32 = 1 << 10;

/// The hint that a client is in a channel.
#[derive(Clone, Copy)]
pub(crate) struct Hint<'a> {
    cx: Context<'a>,
    /// First word of the world's cell.
    world: usize,
    /// The client's place among members.
    client: u64,
    /// The number of the cell that has the members.
    cell: u32,
}

impl<'a> Hint<'a> {
    /// The hint that the client of a place is a member in a cell of the world at a word.
    pub(crate) fn new(cx: Context<'a>, world: usize, client: u64, cell: u32) -> Hint<'a> {
        Hint { cx, world, client, cell }
    }

    /// What tells it from all others.
    pub(crate) const fn key(&self) -> (u64, u32) {
        (self.client, self.cell)
    }

    fn word(&self) -> u64 {
        self.cx.space.geometry.hint_word(self.client, self.cell)
    }

    fn overflow(&self) -> Trie<'a> {
        Trie::new(self.cx, self.world + WorldCell::whereabouts)
    }

    /// Its entry, where its line is full.
    fn entry(&self) -> Entry {
        let place = self.client & PAIR_MASK | u64::from(self.cell).wrapping_mul(MIXING) << 4 & !PAIR_MASK;
        let value = VALUE_INLINE | (self.client & !PAIR_MASK) >> 4 << CELL_BITS | u64::from(self.cell);
        Entry { word: place, value }
    }

    fn has_entry(&self) -> Result<bool> {
        let entry = self.entry();
        self.overflow().has_value(entry.place(), entry.value)
    }

    /// Is it there?
    #[inline]
    pub(crate) fn is_there(&self) -> Result<bool> {
        let word = self.word();
        let is_this = |hint: &AtomicU64| hint.load(Ordering::Acquire) == word;
        Ok(line(self.cx, self.client).is_some_and(|line| line.iter().any(is_this)) || self.has_entry()?)
    }

    /// Writes it. False: it was there.
    #[inline]
    pub(crate) fn write(&self) -> Result<bool> {
        let word = self.word();
        // Once more for each place that others may take.
        for _ in 0..HINTS_A_LINE {
            let mut free = None;
            for hint in line(self.cx, self.client).into_iter().flatten() {
                match hint.load(Ordering::Acquire) {
                    0 => free = free.or(Some(hint)),
                    there if there == word => return Ok(false),
                    _ => {}
                }
            }
            let Some(free) = free else {
                break;
            };
            if self.has_entry()? {
                return Ok(false);
            }
            if free.compare_exchange(0, word, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                // The hint before the look at the member.
                fence_after_swap();
                point!("hint.written");
                return Ok(true);
            }
        }
        let entry = self.entry();
        let written = self.overflow().change(
            entry.place(),
            |value| Some(value == entry.value),
            |found| Ok((if found.is_some() { Change::Keep } else { Change::PutInline(0, entry.value) }, found.is_none())),
        )?;
        Ok(written.unwrap_or(false))
    }

    /// Removes it. False: it was not there.
    fn take(&self) -> Result<bool> {
        let taken = take_from_line(self.cx, self.client, self.word());
        Ok(self.take_entry()? || taken)
    }

    fn take_entry(&self) -> Result<bool> {
        let (entry, overflow) = (self.entry(), self.overflow());
        Ok(overflow.root() != Root::Empty && overflow.remove(entry.place(), |value| Some(value == entry.value))?)
    }

    /// To be called when its member left. Gives whether it was there.
    pub(crate) fn forget(&self) -> Result<bool> {
        let taken = self.take()?;
        point!("untrack.forgotten");
        // The client may be back, and its hint have been written before we removed it.
        if let Some(right) = self.now()? {
            right.settle()?;
        }
        Ok(taken)
    }

    /// Brings it into agreement with its member.
    pub(crate) fn settle(&self) -> Result<()> {
        for _ in 0..PATIENCE {
            let changed = match self.now()? {
                Some(right) if right.world == self.world => right.write()?,
                Some(right) => self.take_entry()? | right.write()?,
                None => self.take()?,
            };
            if !changed {
                break;
            }
        }
        Ok(())
    }

    /// The hint of somebody who is a member in the group that now has the cell. Its word is the same in all worlds: who comes
    /// late may find the cell in another than its own. `None`: there is nobody.
    fn now(&self) -> Result<Option<Hint<'a>>> {
        let Some((cell, back)) = group_in(self.cx, self.cell) else {
            return Ok(None);
        };
        if !is_member(cell.trie(self.cx, Group::members), self.client)? {
            return Ok(None);
        }
        let world = Cell::world_of(self.cx, (back >> 8) as usize, WorldCell::presence);
        Ok(world.map(|world| Hint { world: world.at(), ..*self }))
    }
}

fn is_member(members: Trie<'_>, client: u64) -> Result<bool> {
    // Two clients of one place are one to hints, and either is reason enough for one.
    Ok(members.find(client, |_| Some(true))?.is_some_and(|entry| entry.is_live()))
}

/// Removes a hint's word, twice where it is there twice. False: it was not there.
fn take_from_line(cx: Context<'_>, client: u64, word: u64) -> bool {
    let mut taken = false;
    for hint in line(cx, client).into_iter().flatten() {
        taken |= hint.load(Ordering::Acquire) == word && hint.compare_exchange(word, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    }
    // The hint before the look at the member.
    fence_after_swap();
    point!("hint.taken");
    taken
}

/// The line of a client, by its place among members.
#[inline(always)]
fn line<'a>(cx: Context<'a>, client: u64) -> Option<&'a [AtomicU64; HINTS_A_LINE]> {
    cx.view().array(cx.space.geometry.hint_line(client))
}

/// Asks for the line of a client who is about to come or go, by its place among members.
#[inline(always)]
pub(crate) fn expect(cx: Context<'_>, client: u64) {
    line(cx, client).into_iter().for_each(|line| View::expect(line));
}

/// The group of the world at a word that now has a cell. `None`: there is none.
fn group_of(cx: Context<'_>, world: usize, number: u32) -> Option<Cell> {
    let directory = (world + WorldCell::presence) as u64;
    group_in(cx, number).and_then(|(cell, back)| (back >> 8 == directory).then_some(cell))
}

/// The group that now has a cell, and the cell's `back` word.
fn group_in(cx: Context<'_>, number: u32) -> Option<(Cell, u64)> {
    let cell = Cell::now(cx, number)?;
    let back = cx.view().get(cell.at() + Channel::back);
    // Last: it tells whether what was read is of this life.
    // SYNC cell.words (R): pairs with (W) in `claim_cell`.
    fence(Ordering::Acquire);
    (back & 0xff == cell_kind::GROUP && cell.is_open(cx)).then_some((cell, back))
}

/// The groups that the hints in the world at a word name for the client of a place: it may be a member there.
pub(crate) fn hinted(cx: Context<'_>, world: usize, client: u64) -> Result<SmallVec<[Cell; 4]>> {
    let mut cells = SmallVec::<[Cell; 4]>::new();
    let mut add = |number: u32| {
        if let Some(cell) = group_of(cx, world, number).filter(|cell| !cells.contains(cell)) {
            cells.push(cell);
        }
    };
    let geometry = &cx.space.geometry;
    for hint in line(cx, client).into_iter().flatten() {
        if let Some((_, cell)) = geometry.hint(client, hint.load(Ordering::Acquire)).filter(|&(place, _)| place == client) {
            add(cell);
        }
    }
    let first = client & PAIR_MASK;
    Trie::new(cx, world + WorldCell::whereabouts).entries_between(first, first | !PAIR_MASK, |entry| {
        let (place, cell) = of_entry(entry);
        if place == client {
            add(cell);
        }
    })?;
    Ok(cells)
}

/// Client and cell of an entry.
fn of_entry(entry: &Entry) -> (u64, u32) {
    let rest = entry.value >> CELL_BITS << 4 & !PAIR_MASK;
    (entry.place() & PAIR_MASK | rest, (entry.value & CELL_MASK) as u32)
}

/// Calls `see` with the client and the cell of each hint in a line, whatever world it is of, and its word.
pub(crate) fn each_in_lines(cx: Context<'_>, mut see: impl FnMut(u64, u32, u64) -> Result<()>) -> Result<()> {
    let geometry = &cx.space.geometry;
    for number in 0..geometry.hint_lines() {
        let first = geometry.first_in_line(number);
        for hint in line(cx, first).into_iter().flatten() {
            let word = hint.load(Ordering::Acquire);
            if let Some((client, cell)) = geometry.hint(first, word) {
                see(client, cell, word)?;
            }
        }
    }
    Ok(())
}

/// The hints of the world at a word whose lines were full.
pub(crate) fn entries(cx: Context<'_>, world: usize) -> Result<Vec<(u64, u32)>> {
    let mut all = Vec::new();
    Trie::new(cx, world + WorldCell::whereabouts).entries(|entry| all.push(of_entry(entry)))?;
    Ok(all)
}

/// Removes the hints in lines that lead to no member of any world. Gives how many there were.
pub(crate) fn prune_lines(cx: Context<'_>) -> Result<u64> {
    let mut gone = 0;
    each_in_lines(cx, |client, number, word| {
        // The world comes from the cell.
        let hint = Hint::new(cx, 0, client, number);
        if hint.now()?.is_some() {
            return Ok(());
        }
        gone += u64::from(take_from_line(cx, client, word));
        // As in `forget`.
        if let Some(right) = hint.now()? {
            right.settle()?;
        }
        Ok(())
    })?;
    Ok(gone)
}

/// Removes the hints of the world at a word to members that are not there. Gives how many there were.
pub(crate) fn forget_gone(cx: Context<'_>, world: usize) -> Result<u64> {
    let mut gone = 0;
    for (client, cell) in entries(cx, world)? {
        let hint = Hint::new(cx, world, client, cell);
        if hint.now()?.is_none_or(|right| right.world != world) {
            gone += u64::from(hint.forget()?);
        }
    }
    Ok(gone)
}

/// Removes hints to members that are not there, writes those that are missing, and gives back groups in which nobody is left.
/// (Those in lines are removed by `prune_lines`.)
pub(crate) fn prune(cx: Context<'_>, world: Cell) -> Result<u64> {
    let mut pruned = forget_gone(cx, world.at())?;
    point!("prune.removed");
    let directory = Directory::new(cx, world.at() + WorldCell::presence);
    let mut groups = Vec::new();
    directory.each(|found| groups.push(found.cell))?;
    for cell in groups {
        // Somebody who removed the hint of a member that was back died before writing it again.
        let mut members = Vec::new();
        cell.trie(cx, Group::members).entries(|entry| members.extend(entry.is_live().then_some(entry.place())))?;
        for client in members {
            let hint = Hint::new(cx, world.at(), client, cell.number());
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

#[cfg(all(test, not(modelled)))]
mod tests {
    use super::*;
    use crate::{Metadata, Options, Presence, Segment, World};

    fn segment() -> Segment {
        Segment::private(&Options { size: 1 << 20, ..Options::default() }).expect("room")
    }

    /// A member of our world, and the hint that another world had to the same client in the same cell, in an earlier life.
    fn a_late_hint<'a>(segment: &Segment, ours: &'a World) -> (Presence, Hint<'a>) {
        let other = World::new(segment, "another").expect("room");
        let presence = Presence::new(ours);
        presence.track("room", "ada", &Metadata::default()).expect("room");
        let cx = ours.cx().expect("attached");
        let client = cx.space.hash(b"ada").place();
        let [cell] = hinted(cx, ours.root(0), client).expect("sound")[..] else { panic!("one hint") };
        (presence, Hint::new(cx, other.root(0), client, cell.number()))
    }

    /// Who slept between a leave and forgetting its hint finds the cell with a group of another world.
    #[test]
    fn a_hint_of_an_earlier_life_takes_no_other_worlds() {
        let segment = segment();
        let ours = World::new(&segment, "").expect("room");
        let (presence, late) = a_late_hint(&segment, &ours);
        for settle in [false, true] {
            if settle { late.settle().map(|()| true) } else { late.forget() }.expect("sound");
            assert!(presence.is_anywhere("ada").expect("attached"));
            assert_eq!(segment.check().expect("attached"), Vec::<String>::new());
        }
    }

    /// An entry of a world whose cell has a group of another world by now.
    #[test]
    fn pruning_one_world_leaves_anothers_hints() {
        let segment = segment();
        let ours = World::new(&segment, "").expect("room");
        let (presence, late) = a_late_hint(&segment, &ours);
        let entry = late.entry();
        let put = late.overflow().change(entry.place(), |_| Some(false), |_| Ok((Change::PutInline(0, entry.value), ())));
        put.expect("room");
        crate::reap::scavenge(late.cx, &|_| false).expect("sound");
        assert!(presence.is_anywhere("ada").expect("attached"));
        assert_eq!(segment.check().expect("attached"), Vec::<String>::new());
    }

    /// Whatever stands in the words: what is wrong goes, and takes no place from what is right.
    #[test]
    fn damage_in_lines_is_mended() {
        let segment = segment();
        let world = World::new(&segment, "").expect("room");
        let presence = Presence::new(&world);
        for client in 0..200 {
            presence.track("room", &format!("client {client}"), &Metadata::default()).expect("room");
        }
        let cx = world.cx().expect("attached");
        let geometry = &cx.space.geometry;
        let words = geometry.hints_at..geometry.hints_at + geometry.hint_lines() * HINTS_A_LINE;
        let mut state = 1_u64;
        for at in words.clone() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let word = match state >> 60 {
                0..4 => continue,
                4..8 => state ^ state >> 31,
                8..12 => (state ^ state >> 31) & (!0 << (geometry.hint_bits + 4)),
                _ => 1 << (state >> 40 & 63),
            };
            cx.view().set(at, word);
        }
        crate::reap::scavenge(cx, &|_| false).expect("sound");
        crate::reap::scavenge(cx, &|_| false).expect("sound");
        assert_eq!(segment.check().expect("attached"), Vec::<String>::new());
        for client in 0..200 {
            presence.untrack("room", &format!("client {client}")).expect("attached");
        }
        assert!(words.clone().all(|at| cx.view().get(at) == 0), "{} words are left", words.filter(|&at| cx.view().get(at) != 0).count());
    }
}
