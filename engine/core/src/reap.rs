//! Settling what dead processes owned, and returning blocks that nothing refers to.
//!
//! Promise: both are idempotent and safe to run in several processes at once and against living
//! ones. What is removed is removed by the same compare-and-swaps that a living process uses, owners
//! are named by slot and incarnation, and blocks held by living processes are never touched.

use crate::arena::Info;
use crate::cells::{Cell, is_channel, roots_of, unit_back};
use crate::directory::{Directory, cell_of};
use crate::error::Result;
use crate::layout::{Block, Channel, Group, Header, Unit, World, cell_kind, kind, reference, state};
use crate::owned::{Dead, Departure, settle_members, sweep_owned};
use crate::points::point;
use crate::ring::units_of;
use crate::space::Context;
use crate::sync::Ordering;
use crate::trie::{Change, Stop, Trie};
use crate::whereabouts;

/// Calls `see` for every cell in use. What it finds wrong with a cell that is just becoming another is not wrong.
pub fn each_cell(cx: Context<'_>, mut see: impl FnMut(Cell, u64) -> Result<()>) -> Result<()> {
    for number in 0..cx.space.geometry.cells {
        let Some(at) = cx.space.geometry.cell(number) else {
            continue;
        };
        let word = cx.word(at).load(Ordering::Acquire);
        if state::of(word) == state::FREE {
            continue;
        }
        let cell = Cell::made(number, at, state::generation(word));
        let back = cx.view().get(at + Channel::back);
        if let Err(error) = see(cell, back & 0xff)
            && cell.is_generation(cx)
            && cx.view().get(at + Channel::back) == back
        {
            return Err(error);
        }
    }
    Ok(())
}

/// Removes what dead owners leave behind, everywhere.
pub fn settle(cx: Context<'_>, dead: &Dead<'_>) -> Result<()> {
    // First the patterns: from here on nobody makes handles in the name of the dead.
    each_cell(cx, |cell, kind| match kind {
        cell_kind::WORLD => sweep_owned(&cell.trie(cx, World::patterns), dead),
        _ => Ok(()),
    })?;
    point!("settle.patterns");
    each_cell(cx, |cell, kind| {
        match kind {
            cell_kind::CHANNEL | cell_kind::BROADCAST => {
                sweep_owned(&cell.trie(cx, Channel::handles), dead)?;
                point!("settle.handles");
                sweep_owned(&cell.trie(cx, Channel::subscribers), dead)?;
                cell.clear_if_unused(cx)?;
            }
            cell_kind::WORLD => {
                sweep_owned(&cell.trie(cx, World::manager_topics), dead)?;
                sweep_owned(&cell.trie(cx, World::free_topics), dead)?;
                if dead.departure != Departure::Clean {
                    sweep_owned(&cell.trie(cx, World::heartbeats), dead)?;
                }
            }
            cell_kind::GROUP if dead.departure != Departure::Clean => {
                settle_members(&cell.trie(cx, Group::members), dead)?;
                point!("settle.members");
                cx.tell(cell.number());
            }
            _ => {}
        }
        Ok(())
    })
}

/// What a scavenging pass returned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scavenged {
    /// Blocks freed.
    pub blocks: u64,
    /// Cells freed or cleared.
    pub cells: u64,
    /// Ring units freed.
    pub units: u64,
    /// Directory entries and hints pruned.
    pub entries: u64,
}

/// Frees what nothing refers to. `is_dead(slot)`: has the owner of things held in that slot died?
pub fn scavenge(cx: Context<'_>, is_dead: &dyn Fn(u64) -> bool) -> Result<Scavenged> {
    let mut done = Scavenged::default();
    each_cell(cx, |cell, kind| {
        if kind == cell_kind::WORLD {
            for root in [World::channels, World::broadcasts, World::presence] {
                done.entries += prune_directory(&cell.trie(cx, root))?;
            }
            done.entries += whereabouts::prune(cx, cell)?;
        }
        done.cells += u64::from(scavenge_cell(cx, cell, kind, is_dead)?);
        Ok(())
    })?;
    done.entries += whereabouts::prune_lines(cx)?;
    point!("scavenge.cells");
    done.units = scavenge_units(cx, is_dead);
    point!("scavenge.units");
    for block in 0..cx.space.geometry.total_blocks() {
        done.blocks += u64::from(scavenge_block(cx, block, is_dead)?);
    }
    // After all heads: a chain that was not finished goes with its head.
    for block in 0..cx.space.geometry.total_blocks() {
        scavenge_tail(cx, block);
    }
    point!("scavenge.blocks");
    for class in 0..3 {
        cx.resync(class);
    }
    Ok(done)
}

/// Removes directory entries whose cell is not open any more.
fn prune_directory(trie: &Trie<'_>) -> Result<u64> {
    let mut pruned = 0;
    let mut from = Some(0);
    while let Some(cursor) = from {
        let (gone, next) = trie.sweep(cursor, false, |entry, gone| {
            let record = trie.cx.record(entry.value).ok_or(Stop::Moved)?;
            if cell_of(trie.cx, &record).is_some_and(|cell| cell.is_open(trie.cx)) {
                return Ok(Change::Keep);
            }
            gone.push(());
            trie.cx.entry_leaves();
            Ok(Change::Remove)
        })?;
        pruned += gone.len() as u64;
        from = next;
    }
    Ok(pruned)
}

fn scavenge_cell(cx: Context<'_>, cell: Cell, kind: u64, is_dead: &dyn Fn(u64) -> bool) -> Result<bool> {
    let word = cx.word(cell.at()).load(Ordering::Acquire);
    if state::generation(word) != cell.generation {
        return Ok(false);
    }
    let named = || {
        let root = (cx.view().get(cell.at() + Channel::back) >> 8) as usize;
        let known = !roots_of(kind).is_empty() && cx.space.may_be_root(root);
        if known { Directory::new(cx, root).names_cell(cx.view().get(cell.at() + Channel::ident), cell) } else { Ok(false) }
    };
    match state::of(word) {
        state::HELD if is_dead(state::owner(word)) => {
            if named()? {
                cell.make_live(cx);
                return Ok(false);
            }
            // Without a name it came to no use; it may have got no ring yet.
            cell.release(cx);
            Ok(true)
        }
        state::LIVE if is_channel(kind) && !named()? => {
            cell.retire(cx)?;
            cell.clear_if_unused(cx)?;
            Ok(true)
        }
        state::LIVE if kind == cell_kind::GROUP => {
            let members = cell.trie(cx, Group::members);
            let sealed = members.root() == crate::trie::Root::Sealed;
            if sealed && !named()? {
                cell.release(cx);
            }
            Ok(sealed)
        }
        state::RETIRED | state::CLEARING => {
            cell.clear_if_unused(cx)?;
            Ok(!cell.is_same_life(cx))
        }
        _ => Ok(false),
    }
}

fn scavenge_units(cx: Context<'_>, is_dead: &dyn Fn(u64) -> bool) -> u64 {
    let mut freed = 0;
    for unit in 0..cx.space.geometry.units {
        let at = cx.space.geometry.units_at + unit as usize * Unit::WORDS;
        let word = cx.word(at).load(Ordering::Acquire);
        let to = match state::of(word) {
            state::FREE => continue,
            state::HELD if !is_dead(state::owner(word)) => continue,
            _ if unit_in_use(cx, u64::from(unit), word, cx.view().get(at + Unit::back)) => state::LIVE,
            _ => state::FREE,
        };
        if to != state::of(word) && cx.word(at).compare_exchange(word, state::with(word, to), Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            freed += u64::from(to == state::FREE);
        }
    }
    freed
}

/// Does the ring of the cell that a unit's words name cover it?
fn unit_in_use(cx: Context<'_>, unit: u64, word: u64, back: u64) -> bool {
    let cell = back as u32;
    let Some(at) = cx.space.geometry.cell(cell).filter(|_| back == unit_back(cell, word)) else {
        return false;
    };
    let config = cx.view().get(at + Channel::config);
    let first = config >> 16;
    let covers = (first..first + units_of((config & 0xff).min(20) as u32)).contains(&unit);
    covers && is_channel(cx.view().get(at + Channel::back)) && state::of(cx.word(at).load(Ordering::Acquire)) != state::FREE
}

fn scavenge_block(cx: Context<'_>, block: u32, is_dead: &dyn Fn(u64) -> bool) -> Result<bool> {
    let Some((_, at)) = cx.space.geometry.block(block) else {
        return Ok(false);
    };
    let word = cx.word(at).load(Ordering::Acquire);
    let reference = reference::to(word, block);
    match state::of(word) {
        state::LIVE if !is_referenced(cx, reference, at)? => Ok(cx.free(reference)),
        state::HELD if is_dead(state::owner(word)) => {
            if is_referenced(cx, reference, at)? {
                let live = state::with(word, state::LIVE);
                let _ = cx.word(at).compare_exchange(word, live, Ordering::AcqRel, Ordering::Relaxed);
                return Ok(false);
            }
            Ok(cx.free(reference))
        }
        _ => Ok(false),
    }
}

/// Frees the rest of a chain whose head is gone.
fn scavenge_tail(cx: Context<'_>, block: u32) {
    if let Some((_, at)) = cx.space.geometry.block(block) {
        let word = cx.word(at).load(Ordering::Acquire);
        if state::of(word) == state::CONT && cx.life(cx.view().get(at + Block::back)).is_none() {
            cx.free_tail(reference::to(word, block));
        }
    }
}

/// Does the place that a block names as its own refer to this life of it?
fn is_referenced(cx: Context<'_>, reference: u64, at: usize) -> Result<bool> {
    let view = cx.view();
    let (back, ident) = (view.get(at + Block::back), view.get(at + Block::ident));
    let info = Info(view.get(at + Block::info));
    match info.kind() {
        kind::TEXT | kind::BYTES => {
            let Some(cell_at) = u32::try_from(back).ok().and_then(|cell| cx.space.geometry.cell(cell)) else {
                return Ok(false);
            };
            if !is_channel(view.get(cell_at + Channel::back)) {
                return Ok(false);
            }
            let ring = crate::ring::Ring::of(cx, back as u32, view.get(cell_at + Channel::config));
            Ok(ring.is_ok_and(|ring| ring.refers_to(cx, ident, reference)))
        }
        kind::LEAF | kind::INNER | kind::RECORD => {
            let Some(trie) = group_at(cx, (back >> 8) as usize) else {
                return Ok(false);
            };
            let known = match info.kind() {
                kind::RECORD => trie.has_value(ident & !0xf, reference),
                _ => trie.has_page(reference, (back & 0xff) as u32, ident),
            };
            // Of a cell that is just becoming another: left for the next time.
            let moved = || group_at(cx, (back >> 8) as usize).is_none_or(|now| !now.is_same(&trie));
            known.or_else(|error| if moved() { Ok(true) } else { Err(error) })
        }
        _ => Ok(false),
    }
}

/// The group whose root word has this index, if the life of the cell there has one in this place. Whoever asks has
/// read the index before: when the cell changes meanwhile, what said so belongs to a life that is over.
fn group_at(cx: Context<'_>, root: usize) -> Option<Trie<'_>> {
    if root == Header::worlds {
        return Some(Trie::new(cx, root));
    }
    let cell = Cell::around(cx, root)?;
    let kind = cx.view().get(cell.at() + Channel::back) & 0xff;
    roots_of(kind).contains(&(root - cell.at())).then(|| cell.trie(cx, root - cell.at()))
}
