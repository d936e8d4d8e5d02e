//! Walks a whole segment and says what is wrong with it.
//!
//! Promise: it writes nothing and waits for nobody; nothing that is read leads outside the segment or round in
//! circles, whatever the bytes are. On a segment at rest, with the dead reaped, an empty list means that every
//! block, cell, ring unit, bell and slot is accounted for.

mod groups;
#[cfg(test)]
mod tests;

use std::fmt::Display;

use hashbrown::HashMap;

use crate::arena::Info;
use crate::cells::{Cell, is_channel, roots_of};
use crate::directory::Directory;
use crate::error::Result;
use crate::geometry::Geometry;
use crate::layout::{Block, Channel, Header, Unit, cell_kind, kind, reference, state};
use crate::process::{LEAVING, SETTLED, TAKEN};
use crate::reap::each_cell;
use crate::ring::units_of;
use crate::space::{Context, owner_slot};
use crate::sync::Ordering;
use crate::trie::{Root, Trie};

/// Findings of one look: more tell nothing new.
const MOST: usize = 1000;

/// One look at everything. `is_dead(slot)`: does the kernel say that the slot's process is gone?
pub fn look_over(cx: Context<'_>, is_dead: &dyn Fn(u32) -> bool) -> Vec<String> {
    let mut look = Look { cx, found: Vec::new(), named: HashMap::new(), units: HashMap::new() };
    look.header();
    look.slots(is_dead);
    look.bells();
    look.group(Header::worlds, None, groups::Keyed::Name, "the names of the namespaces");
    let mut cells = Vec::new();
    let listed = each_cell(cx, |cell, kind| {
        cells.push((cell, kind));
        Ok(())
    });
    look.unless(listed, "the cells");
    for &(cell, kind) in &cells {
        look.cell(cell, kind);
    }
    look.presence(&cells);
    look.ring_units();
    look.blocks();
    look.found
}

struct Look<'a> {
    cx: Context<'a>,
    found: Vec<String>,
    /// Blocks that something refers to, and what.
    named: HashMap<u32, String>,
    /// Ring units that a cell's ring covers.
    units: HashMap<u64, u32>,
}

impl Look<'_> {
    fn say(&mut self, finding: impl Display) {
        if self.found.len() < MOST {
            self.found.push(finding.to_string());
        }
    }

    fn unless<T>(&mut self, done: Result<T>, what: &str) -> Option<T> {
        done.map_err(|error| self.say(format!("{what}: {error}"))).ok()
    }

    fn header(&mut self) {
        let geometry = &self.cx.space.geometry;
        let private = [geometry.slots, geometry.cells, geometry.units, geometry.bells];
        let view = self.cx.view();
        let shared = [Header::slots, Header::cells, Header::units, Header::bells].map(|word| view.get(word));
        if view.get(Header::size) != geometry.size || shared != private.map(u64::from) {
            self.say("the header's capacities are not those that the segment was made with");
        }
        let top = view.get(Header::bells_top);
        if top > u64::from(geometry.bells) {
            self.say(format!("the header counts {top} bells, there are {}", geometry.bells));
        }
    }

    fn slots(&mut self, is_dead: &dyn Fn(u32) -> bool) {
        for number in 0..self.cx.space.geometry.slots {
            let slot = self.cx.space.slot(number);
            match slot.state() {
                TAKEN | LEAVING if is_dead(number) => self.say(format!("slot {number}: its process is dead and was not reaped")),
                0..=SETTLED => {}
                other => self.say(format!("slot {number}: no state is {other}")),
            }
        }
    }

    /// Does this owner name a process that is attached now?
    fn is_attached(&self, owner: u64) -> bool {
        let number = owner_slot(owner);
        number < self.cx.space.geometry.slots && {
            let slot = self.cx.space.slot(number);
            slot.owner() == owner && matches!(slot.state(), TAKEN | LEAVING)
        }
    }

    /// May the owner in a state word still be at work?
    fn is_at_work(&self, word: u64) -> bool {
        let slot = state::owner(word);
        slot < u64::from(self.cx.space.geometry.slots) && matches!(self.cx.space.slot(slot as u32).state(), TAKEN | LEAVING)
    }

    fn bells(&mut self) {
        for number in 0..self.cx.space.geometry.bells {
            let Some(at) = self.cx.space.geometry.bell(number) else {
                continue;
            };
            let word = self.cx.word(at).load(Ordering::Acquire);
            match state::of(word) {
                state::FREE => {}
                state::HELD if self.is_at_work(word) => {}
                state::HELD => self.say(format!("bell {number}: its owner is gone")),
                other => self.say(format!("bell {number}: no state of a bell is {other}")),
            }
        }
    }

    fn cell(&mut self, cell: Cell, kind: u64) {
        let cx = self.cx;
        let word = cx.word(cell.at()).load(Ordering::Acquire);
        let name = format!("cell {} ({})", cell.number(), name_of(kind));
        let root = (cx.view().get(cell.at() + Channel::back) >> 8) as usize;
        match state::of(word) {
            state::FREE => return,
            state::HELD if self.is_at_work(word) => {}
            state::HELD => self.say(format!("{name}: its maker is dead")),
            state::LIVE => {
                let directory = cx.space.may_be_root(root).then(|| Directory::new(cx, root));
                let known = directory.map_or(Ok(false), |directory| directory.names_cell(cx.view().get(cell.at() + Channel::ident), cell));
                if self.unless(known, &name) == Some(false) {
                    self.say(format!("{name}: in use without a name"));
                }
            }
            state::RETIRED if is_channel(kind) => {
                if cell.trie(cx, Channel::handles).root() == Root::Empty {
                    self.say(format!("{name}: removed and unused, and not given back"));
                }
            }
            state::CLEARING if is_channel(kind) => self.say(format!("{name}: giving it back was not finished")),
            other => self.say(format!("{name}: no state of it is {other}")),
        }
        if roots_of(kind).is_empty() {
            self.say(format!("cell {}: no kind is {kind}", cell.number()));
        }
        for (&root, keyed) in roots_of(kind).iter().zip(groups::keys_of(kind)) {
            self.group(cell.at() + root, Some(cell), *keyed, &format!("{name}, root {root}"));
        }
        if is_channel(kind) {
            self.ring(cell, &name);
        }
    }

    /// The descriptors of a channel's ring, and the messages they name.
    fn ring(&mut self, cell: Cell, name: &str) {
        let cx = self.cx;
        let config = cx.view().get(cell.at() + Channel::config);
        let Some(Some(ring)) = self.unless(cell.ring(cx), name) else {
            return;
        };
        for unit in (config >> 16)..(config >> 16) + units_of(ring.log2) {
            if let Some(other) = self.units.insert(unit, cell.number()) {
                self.say(format!("ring unit {unit}: both of cell {other} and of cell {}", cell.number()));
            }
        }
        let head = ring.head(cx);
        let start = cx.view().get(cell.at() + Channel::start);
        if start > head {
            self.say(format!("{name}: its head {head} lies before its start {start}"));
            return;
        }
        // At the head itself a message may be whose publisher has not moved the head yet.
        let mut messages = 0;
        for sequence in head.saturating_sub(ring.len())..=head {
            if let Some(block) = ring.block_at(cx, sequence) {
                messages += 1;
                self.message(cell, sequence, block, name);
            }
        }
        let named = ring.blocks(cx);
        if named != messages {
            self.say(format!("{name}: its ring names {named} blocks, {messages} messages are within its last lap"));
        }
    }

    fn message(&mut self, cell: Cell, sequence: u64, block: u32, name: &str) {
        let (cx, what) = (self.cx, format!("{name}, message {sequence}"));
        if sequence < cx.view().get(cell.at() + Channel::start) {
            self.say(format!("{what}: it is of an earlier life"));
        }
        let Some((_, at)) = cx.space.geometry.block(block) else {
            self.say(format!("{what}: there is no block {block}"));
            return;
        };
        let view = cx.view();
        let info = Info(view.get(at + Block::info));
        if !matches!(info.kind(), kind::TEXT | kind::BYTES) {
            self.say(format!("{what}: block {block} is no message"));
        }
        if (view.get(at + Block::back), view.get(at + Block::ident)) != (u64::from(cell.number()), sequence) {
            self.say(format!(
                "{what}: block {block} says it is message {} of cell {}",
                view.get(at + Block::ident),
                view.get(at + Block::back)
            ));
        }
        self.chain(block, &what);
    }

    /// Notes that a block is referred to, and the rest of its chain.
    fn chain(&mut self, head: u32, what: &str) -> bool {
        let cx = self.cx;
        let Some((class, at)) = cx.space.geometry.block(head) else {
            self.say(format!("{what}: there is no block {head}"));
            return false;
        };
        let word = cx.word(at).load(Ordering::Acquire);
        if !matches!(state::of(word), state::LIVE | state::HELD) {
            self.say(format!("{what}: block {head} is not in use"));
            return false;
        }
        if state::of(word) == state::HELD && !self.is_at_work(word) {
            self.say(format!("{what}: block {head} is still held for a process that is gone"));
        }
        if !self.name_block(head, what) {
            return false;
        }
        let bytes = Info(cx.view().get(at + Block::info)).bytes();
        let mut left = bytes.saturating_sub(Geometry::payload(class) as u64);
        let mut next = cx.view().get(at + Block::next);
        let whole = reference::to(word, head);
        while left > 0 {
            let block = reference::block(next);
            let Some((class, at)) = cx.space.geometry.block(block) else {
                self.say(format!("{what}: its chain ends {left} bytes too early"));
                return false;
            };
            let word = cx.word(at).load(Ordering::Acquire);
            if state::of(word) != state::CONT || !reference::is_life(next, word) || cx.view().get(at + Block::back) != whole {
                self.say(format!("{what}: block {block} is not of its chain"));
                return false;
            }
            if !self.name_block(block, what) {
                return false;
            }
            left = left.saturating_sub(Geometry::payload(class) as u64);
            next = cx.view().get(at + Block::next);
        }
        if next != 0 {
            self.say(format!("{what}: its chain goes on behind its end"));
        }
        true
    }

    fn name_block(&mut self, block: u32, what: &str) -> bool {
        if let Some(other) = self.named.insert(block, what.to_owned()) {
            self.say(format!("block {block}: both of {other} and of {what}"));
            return false;
        }
        true
    }

    fn ring_units(&mut self) {
        for unit in 0..self.cx.space.geometry.units {
            let at = self.cx.space.geometry.units_at + unit as usize * Unit::WORDS;
            let word = self.cx.word(at).load(Ordering::Acquire);
            match (state::of(word), self.units.get(&u64::from(unit))) {
                (state::FREE, Some(cell)) => self.say(format!("ring unit {unit}: cell {cell} uses it and it is free")),
                (state::FREE, None) | (_, Some(_)) => {}
                (state::HELD, None) if self.is_at_work(word) => {}
                (_, None) => self.say(format!("ring unit {unit}: lost, no channel uses it")),
            }
        }
    }

    /// Every block that is not free must be referred to, or be in the hands of a living process.
    fn blocks(&mut self) {
        let cx = self.cx;
        for block in 0..cx.space.geometry.total_blocks() {
            let Some((_, at)) = cx.space.geometry.block(block) else {
                continue;
            };
            if self.named.contains_key(&block) {
                continue;
            }
            let word = cx.word(at).load(Ordering::Acquire);
            let what = kind_of_block(Info(cx.view().get(at + Block::info)).kind());
            match state::of(word) {
                state::FREE => {}
                state::HELD if self.is_at_work(word) => {}
                state::CONT if self.is_being_written(cx.view().get(at + Block::back)) => {}
                state::HELD => self.say(format!("block {block}: lost, held for a process that is gone")),
                state::LIVE => self.say(format!("block {block}: lost, nothing refers to this {what}")),
                state::CONT => self.say(format!("block {block}: lost, its chain is gone")),
                other => self.say(format!("block {block}: no state of a block is {other}")),
            }
        }
    }

    /// Is the head of this chain still in its writer's hands?
    fn is_being_written(&self, head: u64) -> bool {
        self.cx.life(head).is_some_and(|(_, at)| {
            let word = self.cx.word(at).load(Ordering::Acquire);
            state::of(word) == state::HELD && self.is_at_work(word)
        })
    }

    fn trie(&self, root: usize, life: Option<Cell>) -> Trie<'_> {
        match life {
            Some(cell) => Trie::of_life(self.cx, cell, root - cell.at()),
            None => Trie::new(self.cx, root),
        }
    }
}

fn name_of(kind: u64) -> &'static str {
    match kind {
        cell_kind::CHANNEL => "a channel",
        cell_kind::BROADCAST => "a broadcast",
        cell_kind::GROUP => "a channel's members",
        cell_kind::WORLD => "a namespace",
        _ => "of no known kind",
    }
}

fn kind_of_block(kind: u64) -> &'static str {
    match kind {
        kind::TEXT | kind::BYTES => "message",
        kind::LEAF | kind::INNER => "page",
        kind::RECORD => "record",
        _ => "block",
    }
}
