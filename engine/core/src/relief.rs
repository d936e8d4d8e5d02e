//! Where all cells or ring units are in use, room is made: groups without members are given back, then what removed
//! channels keep for handles on patterns whose owners have not looked at them yet, oldest first, counted as missed.
//!
//! Promise: a process that is stopped, or that never looks, does not keep others from creating; and what is given up is
//! counted exactly once for each handle, whoever is killed or stopped when. A handle's second hot word says how far
//! this is: UNSEEN, then by one swap either taken up by its owner or GIVEN_UP for good, then COUNTED. Counting changes the
//! handle's registration, which has the sum and names the channel that was counted last. It names another only once
//! the handle on that one says COUNTED, so whoever is late always finds one of the two.

use crate::cells::Cell;
use crate::directory::Directory;
use crate::error::{Error, Result};
use crate::handles::{COUNTED, GIVEN_UP, HandleKey, Made, Note, OPEN, UNSEEN, handle_of};
use crate::layout::{Block, Channel, Group, Header, World, cell_kind, state};
use crate::mutants::without;
use crate::points::point;
use crate::reap::each_cell;
use crate::record::{Record, encode, pair_of};
use crate::space::Context;
use crate::sync::Ordering;
use crate::trie::{Change, Root, Trie};

/// Channels that are given up at once: who comes next need not look again.
const AT_ONCE: usize = 16;
/// Others are in the way only so often, unless the segment is damaged.
const PATIENCE: u32 = 1 << 10;

/// A new cell, as [`Context::new_cell`], where need be after making room for it.
pub(crate) fn new_cell(cx: Context<'_>, kind: u64, directory: usize, ident: u64) -> Result<Cell> {
    with_relief(cx, || cx.new_cell(kind, directory, ident))
}

/// A new channel's cell and ring, as [`Context::new_channel`], where need be after making room for them.
pub(crate) fn new_channel(cx: Context<'_>, kind: u64, directory: usize, ident: u64, log2: u32, flags: u64, window: u64) -> Result<Cell> {
    with_relief(cx, || cx.new_channel(kind, directory, ident, log2, flags, window))
}

fn with_relief<T>(cx: Context<'_>, make: impl Fn() -> Result<T>) -> Result<T> {
    for _ in 0..=cx.space.geometry.cells {
        match make() {
            Err(full @ Error::Full { .. }) => match relieve(cx) {
                Ok(true) => {}
                // To count what is given up takes room, too.
                Ok(false) | Err(Error::Full { .. }) => return Err(full),
                Err(error) => return Err(error),
            },
            made => return made,
        }
    }
    // Others take what is given up.
    make()
}

/// Frees cells, and the ring units of some. False: none can be had.
pub(crate) fn relieve(cx: Context<'_>) -> Result<bool> {
    // Who needs ring units is not helped by the first, and asks again.
    Ok(give_back_groups(cx)? || give_up_removed(cx)?)
}

/// Gives back the groups in which nobody is and nothing is left to flush.
fn give_back_groups(cx: Context<'_>) -> Result<bool> {
    let mut given = false;
    each_cell(cx, |cell, kind| {
        let members = cell.trie(cx, Group::members);
        if kind != cell_kind::GROUP || cell.state(cx) != Some(state::LIVE) || matches!(members.root(), Root::Page(_)) {
            return Ok(());
        }
        let Some((_, directory)) = named_in(cx, cell, World::presence) else {
            return Ok(());
        };
        if members.seal_if_empty() {
            point!("purge.sealed");
            directory.remove_cell(cell)?;
            point!("purge.unnamed");
            cell.release(cx);
            given = true;
        }
        Ok(())
    })?;
    Ok(given)
}

/// The world whose `field` is the directory that names a cell, and that directory.
fn named_in<'a>(cx: Context<'a>, cell: Cell, field: usize) -> Option<(Cell, Directory<'a>)> {
    let root = (cx.view().get(cell.at + Channel::back) >> 8) as usize;
    let world = Cell::around(cx, root)?;
    let is_world = cx.view().get(world.at + World::back) & 0xff == cell_kind::WORLD;
    (is_world && root == world.at + field).then(|| (world, Directory::new(cx, root)))
}

/// Gives up what removed channels keep for handles that nobody has looked at, oldest first. False: there is nothing of
/// that kind.
fn give_up_removed(cx: Context<'_>) -> Result<bool> {
    let mut removed = Vec::new();
    each_cell(cx, |cell, kind| {
        if kind == cell_kind::CHANNEL && cell.is_over(cx) {
            removed.push((cx.view().get(cell.at + Channel::order), cell));
        }
        Ok(())
    })?;
    removed.sort_unstable_by_key(|&(order, _)| order);
    let mut given = 0;
    for (_, cell) in removed {
        given += usize::from(give_up(cx, cell)?);
        if given == AT_ONCE {
            break;
        }
    }
    Ok(given > 0)
}

/// Gives a removed channel up, unless somebody receives from it. True: its cell is free.
fn give_up(cx: Context<'_>, cell: Cell) -> Result<bool> {
    let handles = cell.trie(cx, Channel::handles);
    let mut unseen = Vec::new();
    let mut seen = false;
    handles.records(|entry, record| match HandleKey::of_entry(entry, record) {
        Some(key) if may_be_given_up(cx, record) => unseen.push((key, record.clone())),
        _ => seen = true,
    })?;
    if seen {
        return Ok(false);
    }
    for (key, record) in &unseen {
        if !finish(cx, cell, key, record)? {
            return Ok(false);
        }
    }
    // Nobody else has come since: its root would be another.
    handles.seal_and_free(|| cell.is_over(cx) && (without("all_counted") || all_counted(cx, &handles)));
    cell.clear_if_unused(cx)?;
    Ok(!cell.is_same_life(cx))
}

/// Is this a handle that its owner will find by itself if ever it looks, and has not begun to receive at?
fn may_be_given_up(cx: Context<'_>, record: &Record) -> bool {
    let made_in_time = Note::decode(record.value()).is_some_and(|note| note.made == Made::InTime);
    made_in_time && matches!(shown(cx, record), Some(UNSEEN | GIVEN_UP | COUNTED))
}

fn shown(cx: Context<'_>, record: &Record) -> Option<u64> {
    cx.hot(record.reference, record.at, Block::hot1)
}

fn all_counted(cx: Context<'_>, handles: &Trie<'_>) -> bool {
    let mut all = true;
    let listed = handles.records(|_, record| all &= shown(cx, record) == Some(COUNTED));
    listed.is_ok() && all
}

/// Sees to it that a handle is given up and counted. False: its owner has taken it up.
pub(crate) fn finish(cx: Context<'_>, cell: Cell, key: &HandleKey, record: &Record) -> Result<bool> {
    let mark = |from, to| cx.set_hot(record.reference, record.at, Block::hot1, |shown| (shown == from).then_some(to));
    match mark(UNSEEN, GIVEN_UP) {
        Some(GIVEN_UP) => {}
        // Gone is its owner's business.
        Some(COUNTED) | None => return Ok(true),
        Some(_) => return Ok(false),
    }
    point!("relief.given_up");
    if let Some(note) = Note::decode(record.value()) {
        count(cx, cell, key, &note, record)?;
    }
    point!("relief.counted");
    mark(GIVEN_UP, COUNTED);
    Ok(true)
}

/// How many messages a removed channel has for a handle that nobody has received at. `None`: the channel is gone.
pub(crate) fn kept(cx: Context<'_>, cell: Cell, record: &Record) -> Result<Option<u64>> {
    cell.seal(cx)?;
    let Some(ring) = cell.ring(cx)? else {
        return Ok(None);
    };
    let published = ring.head(cx).wrapping_sub(cx.view().get(cell.at + Channel::start));
    // Its delivery may have ended before the channel did.
    let end = cx.hot(record.reference, record.at, Block::hot0).filter(|&end| end != OPEN);
    Ok(Some(end.map_or(published, |end| end.min(published))))
}

/// What a registration says of what was given up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct GivenUp {
    /// Messages, of all channels together.
    pub messages: u64,
    /// The channel that was counted last: its cell, and which life of it.
    cell: u64,
    generation: u64,
}

impl GivenUp {
    pub fn encode(self) -> Vec<u8> {
        [self.messages, self.cell, self.generation].iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    pub fn decode(bytes: &[u8]) -> GivenUp {
        let word = |index: usize| {
            let word = bytes.get(index * 8..).and_then(|rest| rest.first_chunk::<8>());
            word.map_or(0, |word| u64::from_le_bytes(*word))
        };
        GivenUp { messages: word(0), cell: word(1), generation: word(2) }
    }

    fn is_last(&self, cell: Cell) -> bool {
        (self.cell, self.generation) == (u64::from(cell.number), cell.generation)
    }
}

/// Adds what a removed channel has seen to what its handle's registration says was given up, once.
fn count(cx: Context<'_>, cell: Cell, key: &HandleKey, note: &Note, record: &Record) -> Result<()> {
    let Some(left) = kept(cx, cell, record)? else {
        return Ok(());
    };
    let Some((world, _)) = named_in(cx, cell, World::channels) else {
        return Ok(());
    };
    let registrations = world.trie(cx, World::patterns);
    let (place, pair) = pair_of(cx, &note.pattern, &key.text());
    for _ in 0..PATIENCE {
        let Some((_, record)) = registrations.get(place, &pair)? else {
            // Its owner closes the handle: nobody asks what was missed.
            return Ok(());
        };
        let before = GivenUp::decode(record.value());
        if before.is_last(cell) {
            return Ok(());
        }
        if let Some(last) = Cell::of(cx, before.cell, before.generation)
            && let Some(handle) = handle_of(cx, last, key)?
        {
            cx.set_hot(handle.reference, handle.at, Block::hot1, |shown| (shown == GIVEN_UP).then_some(COUNTED));
        }
        let counted = registrations.change_record(place, &pair, |found| {
            let Some((entry, record)) = found else {
                return Ok((Change::Keep, Some(false)));
            };
            // After the root was read: had it been counted and another since, the handle would say so.
            let uncounted = handle_of(cx, cell, key)?.is_some_and(|handle| shown(cx, &handle) == Some(GIVEN_UP));
            let now = GivenUp::decode(record.value());
            if now != before || !uncounted {
                return Ok((Change::Keep, (!uncounted).then_some(false)));
            }
            let messages = now.messages.wrapping_add(left);
            let given_up = GivenUp { messages, cell: u64::from(cell.number), generation: cell.generation };
            let content = encode(&record.owners, record.key(), &given_up.encode());
            let held = cx.shorter_record(registrations.root, place, &content)?;
            Ok((Change::Put(entry.flags(), held), Some(true)))
        })?;
        match counted.flatten() {
            Some(true) => {
                // Not to what the channel dropped: others may have seen to the rest, and its cell be another's by now.
                cx.word(Header::past_dropped).fetch_add(left, Ordering::Relaxed);
                return Ok(());
            }
            Some(false) => return Ok(()),
            // Another channel was counted meanwhile.
            None => {}
        }
    }
    Err(Error::Corrupt { what: "a handle's registration changes again and again" })
}

#[cfg(modelled)]
pub mod model;
