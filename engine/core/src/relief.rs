//! Where all cells, ring units or blocks are in use, room is made: the dead are settled whom no keeper has settled yet; groups
//! without members are given back, then what removed channels keep for handles on patterns whose owners have not looked at
//! them yet, oldest first, counted as missed.
//!
//! Promise: a process that is stopped, or that never looks, does not keep others from creating; and what is given up is
//! counted exactly once for each handle, whoever is killed or stopped when. A handle's second hot word says how far
//! this is: UNSEEN, then by one swap either taken up by its owner or GIVEN_UP for good, then COUNTED. The handle's
//! registration has the sum, and names the channel that is just being counted: one after the other, and whoever finds
//! one named there finishes it first (`add`). Nothing of this takes a block.

use crate::cells::Cell;
use crate::directory::Directory;
use crate::error::{Error, Result};
use crate::handles::{COUNTED, GIVEN_UP, HandleId, HandleKey, Made, Note, OPEN, UNSEEN, handle_of, key_client};
use crate::layout::{Block, Channel, Group, Header, World, cell_kind, state};
use crate::mutants::without;
use crate::points::point;
use crate::reap::each_cell;
use crate::record::{Record, pair_of};
use crate::space::Context;
use crate::sync::Ordering;
use crate::trie::{Root, Trie};

/// Channels, with handles on them, that are given up at once: who comes next need not look again, and nobody is kept long.
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
            Err(Error::Full { .. }) => match relieve(cx) {
                Ok(true) => {}
                // Others may have made room since.
                Ok(false) => break,
                Err(error) => return Err(error),
            },
            made => return made,
        }
    }
    make()
}

/// Frees cells, and the ring units of some. False: none can be had.
pub(crate) fn relieve(cx: Context<'_>) -> Result<bool> {
    // Who needs ring units is not helped by groups, and asks again.
    Ok(cx.reap()? || give_back_groups(cx)? || give_up_removed(cx)?)
}

/// Frees blocks when nothing else can. False: none can be had.
pub(crate) fn last_resort(cx: Context<'_>) -> Result<bool> {
    Ok(cx.reap()? || give_up_removed(cx)?)
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
    let root = (cx.view().get(cell.at() + Channel::back) >> 8) as usize;
    Some((Cell::world_of(cx, root, field)?, Directory::new(cx, root)))
}

/// Gives up what removed channels keep for handles that nobody has looked at, oldest first. False: there is nothing of
/// that kind.
fn give_up_removed(cx: Context<'_>) -> Result<bool> {
    let removals = cx.view().get(Header::removals).wrapping_add(1);
    if cx.actor.nothing_removed.load(Ordering::Relaxed) == removals {
        return Ok(false);
    }
    let mut removed = Vec::new();
    each_cell(cx, |cell, kind| {
        if kind == cell_kind::CHANNEL && cell.is_over(cx) {
            removed.push((cx.view().get(cell.at() + Channel::order), cell));
        }
        Ok(())
    })?;
    removed.sort_unstable_by_key(|&(order, _)| order);
    let mut given = 0;
    for (_, cell) in removed {
        given += match give_up(cx, cell)? {
            // Somebody else has given it up, or received it to its end.
            0 => usize::from(!cell.is_same_life(cx)),
            given => given,
        };
        if given >= AT_ONCE {
            break;
        }
    }
    if given == 0 {
        cx.actor.nothing_removed.store(removals, Ordering::Relaxed);
    }
    Ok(given > 0)
}

/// Gives a removed channel up, unless somebody receives from it. What that gave: the cell, and each handle; 0: nothing.
fn give_up(cx: Context<'_>, cell: Cell) -> Result<usize> {
    let handles = cell.trie(cx, Channel::handles);
    let mut unseen = Vec::new();
    let mut from = Some(0);
    while let Some(cursor) = from {
        let Some((entries, next)) = handles.leaf_from(cursor)? else {
            break;
        };
        for entry in &entries {
            // One is enough: the others keep what they have.
            let Some(record) = cx.record(entry.value).filter(|record| may_be_given_up(cx, record)) else {
                return Ok(0);
            };
            unseen.extend(HandleId::of_entry(entry, &record).map(|id| (id, record)));
        }
        from = next;
    }
    for (id, record) in &unseen {
        if !finish(cx, cell, id.key(key_client(record.key())), record)? {
            return Ok(0);
        }
    }
    // Nobody else has come since: its root would be another.
    handles.seal_and_free(|| cell.is_over(cx) && (without("all_counted") || all_counted(cx, &handles)));
    cell.clear_if_unused(cx)?;
    Ok(if cell.is_same_life(cx) { 0 } else { 1 + unseen.len() })
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
pub(crate) fn finish(cx: Context<'_>, cell: Cell, key: HandleKey<'_>, record: &Record) -> Result<bool> {
    let mark = |from, to| cx.set_hot(record.reference, record.at, Block::hot1, |shown| (shown == from).then_some(to));
    match mark(UNSEEN, GIVEN_UP) {
        Some(GIVEN_UP) => {}
        // Gone is its owner's business.
        Some(COUNTED) | None => return Ok(true),
        Some(_) => return Ok(false),
    }
    point!("relief.given_up");
    if let Some(note) = Note::decode(record.value()) {
        count(cx, cell, key, &note)?;
    }
    // Where nobody is left to be told.
    mark(GIVEN_UP, COUNTED);
    Ok(true)
}

/// How many messages a removed channel has for a handle that nobody has received at: the same for all who ask. `None`: the
/// channel, or the handle, is gone.
pub(crate) fn kept(cx: Context<'_>, cell: Cell, record: &Record) -> Result<Option<u64>> {
    cell.seal(cx)?;
    let Some(ring) = cell.ring(cx)? else {
        return Ok(None);
    };
    let published = ring.head(cx).wrapping_sub(cx.view().get(cell.at() + Channel::start));
    if !cell.is_same_life(cx) {
        return Ok(None);
    }
    // Its delivery may have ended before the channel did, and who ends it may be late: it ends here, then.
    let end = cx.set_hot(record.reference, record.at, Block::hot0, |end| (end == OPEN).then_some(published.min(OPEN - 1)));
    Ok(end.map(|end| end.min(published)))
}

/// In a registration's hot words: messages given up in its name, and the channel that is just being counted; 0: none is.
const SUM: usize = Block::hot0;
const COUNTING: usize = Block::hot1;
/// In a handle's hot word: one more than the sum before what it kept was added; 0: that has not begun.
const BEFORE: usize = Block::hot2;

/// Messages given up in the name of the registration that a ref names, as of now. `None`: it is gone.
pub(crate) fn given_up(cx: Context<'_>, (reference, at): (u64, usize)) -> Option<u64> {
    cx.hot(reference, at, SUM)
}

/// What names one life of a cell in a hot word; never 0.
const fn name_of(cell: Cell) -> u64 {
    (cell.generation & GENERATION) << 24 | (cell.number() as u64 & 0xff_ffff)
}
const GENERATION: u64 = (1 << 24) - 1;

/// The cell back, if it is that life still.
fn named(cx: Context<'_>, name: u64) -> Option<Cell> {
    let cell = Cell::now(cx, u32::try_from(name & 0xff_ffff).ok()?)?;
    (name_of(cell) == name).then_some(cell)
}

/// Adds what a removed channel has seen to what its handle's registration says was given up, once.
fn count(cx: Context<'_>, cell: Cell, key: HandleKey<'_>, note: &Note) -> Result<()> {
    let Some((world, _)) = named_in(cx, cell, World::channels) else {
        return Ok(());
    };
    let registrations = world.trie(cx, World::patterns);
    let (place, pair) = pair_of(cx, &note.pattern, &key.text());
    for _ in 0..PATIENCE {
        let Some((_, registration)) = registrations.get(place, &pair)? else {
            // Its owner closes the handle: nobody asks what was missed.
            return Ok(());
        };
        // SYNC relief.counting (W): what was counted before is in the sum that is read from here on; pairs with (R) in `add`.
        let counting = cx.set_hot(registration.reference, registration.at, COUNTING, |now| (now == 0).then_some(name_of(cell)));
        point!("relief.counting");
        if let Some(name) = counting {
            add(cx, &registration, name, key)?;
            if name == name_of(cell) {
                return Ok(());
            }
        }
    }
    Err(Error::Corrupt { what: "a handle's registration counts for ever" })
}

/// Adds the channel that a registration is counting, whoever began it.
///
/// While it is named there, the sum changes for it alone; and the first to do this leaves in its handle what the sum was
/// before. So all add to the same, and one succeeds: the sum only grows.
fn add(cx: Context<'_>, registration: &Record, name: u64, key: HandleKey<'_>) -> Result<()> {
    let (reference, at) = (registration.reference, registration.at);
    if let Some(cell) = named(cx, name)
        && let Some(handle) = handle_of(cx, cell, key)?
        && let Some(left) = kept(cx, cell, &handle)?
        // SYNC relief.counting (R): pairs with (W) in `count`.
        && let Some(sum) = cx.hot(reference, at, SUM)
        && let Some(before) = cx.set_hot(handle.reference, handle.at, BEFORE, |before| (before == 0).then_some(sum + 1))
    {
        let before = before.wrapping_sub(1);
        let mut ours = false;
        cx.set_hot(reference, at, SUM, |sum| {
            ours = sum == before && left > 0;
            ours.then_some(sum.wrapping_add(left))
        });
        point!("relief.added");
        if ours {
            // Not to what the channel dropped: others may have seen to the rest, and its cell be another's by now.
            cx.word(Header::past_dropped).fetch_add(left, Ordering::Relaxed);
        }
        cx.set_hot(handle.reference, handle.at, Block::hot1, |shown| (shown == GIVEN_UP).then_some(COUNTED));
        point!("relief.counted");
    }
    cx.set_hot(reference, at, COUNTING, |now| (now == name).then_some(0));
    Ok(())
}

#[cfg(modelled)]
pub mod model;
