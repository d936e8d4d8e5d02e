//! Cells: the fixed places of named things (channels, broadcasts, groups of members, worlds), with
//! the root words and counters of each, and the ring units that channels take. Cells and units are
//! claimed and freed through state words like blocks, and never become payload.

use std::num::NonZero;

use crate::error::{Error, Result};
use crate::layout::{CELL_WORDS, Channel, Group, Header, Unit, World, cell_kind, state};
use crate::mutants::without;
use crate::points::point;
use crate::ring::{Ring, units_of};
use crate::space::Context;
use crate::sync::{Ordering, fence};
use crate::trie::Trie;

/// One life of a cell. Two words, so that it is passed on in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cell {
    /// number:32 | first word:32. Never 0: no cell begins with the segment.
    place: NonZero<u64>,
    /// Which life is meant.
    pub generation: u64,
}

const FIRST_MASK: u64 = u32::MAX as u64;

/// The `config` of a channel that has no ring yet: no ring lies there.
const NO_RING: u64 = u64::MAX;

/// Does this `back` word say that the cell holds a ring?
pub fn is_channel(back: u64) -> bool {
    matches!(back & 0xff, cell_kind::CHANNEL | cell_kind::BROADCAST)
}

/// The root words of a cell, as offsets from its first word.
pub fn roots_of(kind: u64) -> &'static [usize] {
    match kind {
        cell_kind::CHANNEL | cell_kind::BROADCAST => &[Channel::handles, Channel::subscribers, Channel::seen],
        cell_kind::GROUP => &[Group::members],
        cell_kind::WORLD => &[
            World::channels,
            World::broadcasts,
            World::presence,
            World::whereabouts,
            World::heartbeats,
            World::manager_topics,
            World::free_topics,
            World::patterns,
        ],
        _ => &[],
    }
}

impl Cell {
    /// A life of the cell of a number, whose first word is known. (`Geometry` sees to it that the words fit.)
    pub(crate) const fn made(number: u32, at: usize, generation: u64) -> Cell {
        let place = match NonZero::new((number as u64) << 32 | at as u64 & FIRST_MASK) {
            Some(place) => place,
            None => NonZero::<u64>::MIN,
        };
        Cell { place, generation }
    }

    /// Its number.
    #[inline(always)]
    pub const fn number(&self) -> u32 {
        (self.place.get() >> 32) as u32
    }

    /// Its first word.
    #[inline(always)]
    pub const fn at(&self) -> usize {
        (self.place.get() & FIRST_MASK) as usize
    }

    /// The cell a directory entry names, if there is such a cell.
    pub fn of(cx: Context<'_>, number: u64, generation: u64) -> Option<Cell> {
        let number = u32::try_from(number).ok()?;
        Some(Cell::made(number, cx.space.geometry.cell(number)?, generation))
    }

    /// The life now there of the cell that a word is in.
    pub(crate) fn around(cx: Context<'_>, index: usize) -> Option<Cell> {
        Cell::now(cx, u32::try_from(index.checked_sub(cx.space.geometry.cells_at)? / CELL_WORDS).ok()?)
    }

    /// The world whose `field` is the root at this word; `None`: it is none of that kind.
    pub(crate) fn world_of(cx: Context<'_>, root: usize, field: usize) -> Option<Cell> {
        let world = Cell::around(cx, root)?;
        let is_world = cx.view().get(world.at() + World::back) & 0xff == cell_kind::WORLD;
        (is_world && root == world.at() + field).then_some(world)
    }

    /// The life now there of the cell of a number.
    pub(crate) fn now(cx: Context<'_>, number: u32) -> Option<Cell> {
        let at = cx.space.geometry.cell(number)?;
        Some(Cell::made(number, at, state::generation(cx.word(at).load(Ordering::Acquire))))
    }

    /// Its state, if it is still this life.
    #[inline(always)]
    pub fn state(&self, cx: Context<'_>) -> Option<u64> {
        let word = cx.word(self.at()).load(Ordering::Acquire);
        (state::generation(word) == self.generation).then_some(state::of(word))
    }

    /// Has its cell no later life yet?
    #[inline(always)]
    pub fn is_generation(&self, cx: Context<'_>) -> bool {
        state::generation(cx.word(self.at()).load(Ordering::Acquire)) == self.generation
    }

    /// Is it in use under its name? (HELD: its creator has not marked it LIVE yet.)
    #[inline(always)]
    pub fn is_open(&self, cx: Context<'_>) -> bool {
        self.is_open_as(cx.word(self.at()).load(Ordering::Acquire))
    }

    /// The same where its state word was read.
    #[inline(always)]
    pub const fn is_open_as(&self, word: u64) -> bool {
        state::generation(word) == self.generation && matches!(state::of(word), state::LIVE | state::HELD)
    }

    /// Is it this life still, whatever its state?
    pub fn is_same_life(&self, cx: Context<'_>) -> bool {
        !matches!(self.state(cx), None | Some(state::FREE))
    }

    /// Moves this life to another state, from any state but those in `except`.
    fn turn(&self, cx: Context<'_>, to: u64, except: &[u64]) -> bool {
        let word = cx.word(self.at());
        let mut seen = word.load(Ordering::Acquire);
        for _ in 0..8 {
            if state::generation(seen) != self.generation || except.contains(&state::of(seen)) {
                return false;
            }
            match word.compare_exchange(seen, state::with(seen, to), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }

    /// Marks a channel that is about to be named as later than all that had its name before: their entries
    /// have left, and `removals` has grown before that.
    pub fn put_in_order(&self, cx: Context<'_>) {
        if is_channel(cx.view().get(self.at() + Channel::back)) {
            // SYNC directory.removals (R): pairs with (W) in `entry_leaves`.
            cx.view().set(self.at() + Channel::order, cx.word(Header::removals).load(Ordering::Acquire));
        }
    }

    /// HELD → LIVE; fails harmlessly when the cell was retired meanwhile.
    pub fn make_live(&self, cx: Context<'_>) {
        self.turn(cx, state::LIVE, &[state::LIVE, state::FREE, state::RETIRED, state::CLEARING]);
        point!("create.live");
        if is_channel(cx.view().get(self.at() + Channel::back))
            && let Ok(Some(ring)) = self.ring(cx)
        {
            for_units(cx, &ring, |at, word| {
                // Removed and cleared meanwhile, the unit that was read may be held by another.
                if state::of(word) == state::HELD && self.is_open(cx) {
                    let _ = cx.word(at).compare_exchange(word, state::with(word, state::LIVE), Ordering::AcqRel, Ordering::Relaxed);
                }
            });
        }
    }

    /// The ring of a channel's cell. `None`: this life is over.
    #[inline]
    pub fn ring(&self, cx: Context<'_>) -> Result<Option<Ring>> {
        let ring = Ring::of(cx, self.number(), cx.view().get(self.at() + Channel::config));
        // What was read is of this life only if this life is still there.
        // SYNC cell.words (R): pairs with (W) in `claim_cell`: a word of a later life implies that its state word shows.
        fence(Ordering::Acquire);
        if self.is_same_life(cx) { ring.map(Some) } else { Ok(None) }
    }

    /// A trie of this cell.
    #[inline(always)]
    pub fn trie<'a>(&self, cx: Context<'a>, field: usize) -> Trie<'a> {
        Trie::of_life(cx, *self, field)
    }

    /// LIVE → RETIRED: nothing is published any more; what is left can be drained by open handles.
    /// True for exactly one caller.
    pub fn retire(&self, cx: Context<'_>) -> Result<bool> {
        let won = self.turn(cx, state::RETIRED, &[state::FREE, state::RETIRED, state::CLEARING]);
        point!("remove.retired");
        self.seal(cx)?;
        point!("remove.sealed");
        // Whoever waits drains what is left and ends.
        cx.tell(self.number());
        Ok(won)
    }

    pub(crate) fn is_over(&self, cx: Context<'_>) -> bool {
        matches!(self.state(cx), Some(state::RETIRED | state::CLEARING))
    }

    /// If the channel was removed: sees to it that nothing is published from here on, whoever removed it and
    /// however far it came.
    pub fn seal(&self, cx: Context<'_>) -> Result<()> {
        if self.is_over(cx)
            && let Some(ring) = self.ring(cx)?
        {
            ring.seal(cx, || self.is_over(cx));
        }
        Ok(())
    }

    /// Gives a retired channel's content back once no handle is open. Any process may do this, and
    /// several at once: every step is a compare-and-swap that only this life can pass.
    pub fn clear_if_unused(&self, cx: Context<'_>) -> Result<()> {
        let mine = || self.is_over(cx);
        if !mine() || !self.trie(cx, Channel::handles).seal_if_empty() || !mine() {
            return Ok(());
        }
        point!("clear.unused");
        self.seal(cx)?;
        self.turn(cx, state::CLEARING, &[state::FREE, state::CLEARING]);
        point!("clear.clearing");
        self.trie(cx, Channel::subscribers).seal_and_free(mine);
        self.trie(cx, Channel::seen).seal_and_free(mine);
        let Some(ring) = self.ring(cx)?.filter(|_| mine()) else {
            return Ok(());
        };
        point!("clear.groups");
        ring.clear(cx);
        point!("clear.messages");
        self.free_units(cx, &ring, mine);
        point!("clear.units");
        let view = cx.view();
        let published = ring.head(cx).wrapping_sub(view.get(self.at() + Channel::start));
        let dropped = view.get(self.at() + Channel::dropped);
        if self.turn(cx, state::FREE, &[state::FREE]) {
            // For the sums over the segment's life, which only an onlooker asks for: who dies here leaves them short.
            cx.word(Header::past_published).fetch_add(published, Ordering::Relaxed);
            cx.word(Header::past_dropped).fetch_add(dropped, Ordering::Relaxed);
        }
        Ok(())
    }

    fn free_units(&self, cx: Context<'_>, ring: &Ring, still_mine: impl Fn() -> bool) {
        for_units(cx, ring, |at, word| {
            // Somebody else may have freed it, and who took it since not have said for what yet: then this is of an earlier life.
            let back = cx.view().get(at + Unit::back);
            let belongs = back == unit_back(self.number(), word) || without("life_of_unit") && back as u32 == self.number();
            // The word was read before this check, so it is of this life; a later life's differs.
            if belongs && state::of(word) != state::FREE && still_mine() {
                let _ = cx.word(at).compare_exchange(word, state::with(word, state::FREE), Ordering::AcqRel, Ordering::Relaxed);
                point!("clear.unit");
            }
        });
    }

    /// Frees a cell that never came to be used, or whose groups are sealed.
    pub fn release(&self, cx: Context<'_>) {
        if is_channel(cx.view().get(self.at() + Channel::back))
            && let Ok(Some(ring)) = self.ring(cx)
        {
            // Handles that were made for patterns before it was to be named.
            self.trie(cx, Channel::handles).seal_and_free(|| self.is_same_life(cx));
            self.free_units(cx, &ring, || self.is_same_life(cx));
            point!("release.units");
        }
        self.turn(cx, state::FREE, &[state::FREE]);
    }
}

/// A unit's `back` word while its state word is this one: the cell it belongs to, in this life of the unit.
pub(crate) fn unit_back(cell: u32, word: u64) -> u64 {
    state::generation(word) << 32 | u64::from(cell)
}

fn for_units(cx: Context<'_>, ring: &Ring, mut see: impl FnMut(usize, u64)) {
    let first = (ring.slots_at - cx.space.geometry.descriptors_at) / crate::layout::UNIT_DESCRIPTORS;
    for unit in first..first + units_of(ring.log2) as usize {
        let at = cx.space.geometry.units_at + unit * Unit::WORDS;
        see(at, cx.word(at).load(Ordering::Acquire));
    }
}

impl Context<'_> {
    /// Claims a cell and writes what every kind has: where it is named, and empty groups.
    pub fn new_cell(self, kind: u64, directory: usize, ident: u64) -> Result<Cell> {
        let Some(cell) = self.claim_cell() else {
            let cells = u64::from(self.space.geometry.cells);
            return Err(Error::Full {
                what: "the named things (channels, broadcasts, channels with members, namespaces) are",
                used: cells,
                capacity: cells,
                setting: "channels",
            });
        };
        let view = self.view();
        // Of no kind until its words mean what they mean in that kind.
        view.set(cell.at() + Channel::back, 0);
        view.set(cell.at() + Channel::ident, ident);
        if !is_channel(kind) {
            // The words of a channel's head line must survive for the next channel; the others may be cleared.
            for word in 3..CELL_WORDS {
                if !(Channel::head..=Channel::start).contains(&word) {
                    view.set(cell.at() + word, 0);
                }
            }
        }
        if is_channel(kind) {
            view.set(cell.at() + Channel::config, NO_RING);
        }
        point!("create.kindless");
        for &root in roots_of(kind) {
            // SYNC cell.life (W): the state word before the roots of its life; pairs with (R) in `Trie::word`.
            self.word(cell.at() + root).store(self.space.fresh_empty(), Ordering::Release);
        }
        self.word(cell.at() + Channel::back).store(kind | (directory as u64) << 8, Ordering::Release);
        point!("create.roots");
        Ok(cell)
    }

    /// FREE → HELD, from where the last one was found.
    fn claim_cell(self) -> Option<Cell> {
        let cells = self.space.geometry.cells;
        let start = self.actor.cell_cursor.load(Ordering::Relaxed) as u32 % cells;
        for number in (0..cells).map(|step| (start + step) % cells) {
            let at = self.space.geometry.cell(number)?;
            let free = self.word(at).load(Ordering::Relaxed);
            let held = self.actor.next_life(free);
            if state::of(free) == state::FREE && self.word(at).compare_exchange(free, held, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                point!("create.cell");
                // SYNC cell.words (W): the state word before all other words of its life; pairs with (R) in `ring` and
                // `whereabouts::group_in`.
                fence(Ordering::Release);
                self.actor.cell_cursor.store(u64::from(number) + 1, Ordering::Relaxed);
                return Some(Cell::made(number, at, state::generation(held)));
            }
        }
        None
    }

    /// Claims a cell and a ring of 2^log2 descriptors for it.
    pub fn new_channel(self, kind: u64, directory: usize, ident: u64, log2: u32, flags: u64, window: u64) -> Result<Cell> {
        let cell = self.new_cell(kind, directory, ident)?;
        let unit = match self.claim_units(log2, cell.number()) {
            Ok(unit) => unit,
            Err(error) => {
                cell.release(self);
                return Err(error);
            }
        };
        point!("create.units");
        let view = self.view();
        view.set(cell.at() + Channel::config, u64::from(unit) << 16 | (flags & 0xff) << 8 | u64::from(log2));
        view.set(cell.at() + Channel::window, window);
        for field in [Channel::dropped, Channel::refused, Channel::deduped, Channel::ordinal] {
            view.set(cell.at() + field, 0);
        }
        point!("create.ring");
        if let Some(ring) = cell.ring(self)? {
            ring.prepare(self);
        }
        Ok(cell)
    }

    /// Claims an aligned run of units long enough for 2^log2 descriptors.
    fn claim_units(self, log2: u32, cell: u32) -> Result<u32> {
        let need = units_of(log2) as u32;
        let geometry = &self.space.geometry;
        let runs = geometry.units / need;
        let start = self.actor.unit_cursor.load(Ordering::Relaxed) as u32 / need;
        for first in (0..runs).map(|step| (start + step) % runs * need) {
            if self.claim_run(first, need, cell) {
                self.actor.unit_cursor.store(u64::from(first + need), Ordering::Relaxed);
                return Ok(first);
            }
        }
        let used = (0..geometry.units)
            .filter(|&unit| state::of(self.view().get(geometry.units_at + unit as usize * Unit::WORDS)) != state::FREE)
            .count() as u64;
        Err(Error::Full {
            what: "the rings' slots (the sum of all buffer sizes, in aligned runs) are",
            used: used * crate::layout::UNIT_DESCRIPTORS as u64,
            capacity: u64::from(geometry.units) * crate::layout::UNIT_DESCRIPTORS as u64,
            setting: "ring_slots",
        })
    }

    fn claim_run(self, first: u32, need: u32, cell: u32) -> bool {
        let at = |unit: u32| self.space.geometry.units_at + unit as usize * Unit::WORDS;
        for unit in first..first + need {
            let word = self.word(at(unit));
            let free = word.load(Ordering::Relaxed);
            let held = self.actor.next_life(free);
            let claimed = state::of(free) == state::FREE && word.compare_exchange(free, held, Ordering::AcqRel, Ordering::Relaxed).is_ok();
            if !claimed {
                for back in first..unit {
                    let word = self.word(at(back));
                    word.store(state::with(word.load(Ordering::Relaxed), state::FREE), Ordering::Release);
                }
                return false;
            }
            point!("create.unit");
            self.view().set(at(unit) + Unit::back, unit_back(cell, held));
        }
        true
    }
}
