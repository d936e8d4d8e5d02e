//! How a segment's bytes are divided: capacities fixed at creation, and where each region starts.
//! Promise: a geometry that `check` accepts never points outside the segment.

use crate::error::{Error, Result};
use crate::hint::cold_path;
use crate::layout::{BLOCK_HEADER_WORDS, Bell, CELL_WORDS, CLASS_BYTES, Header, MAX_PROCESSES, Slot, UNIT_DESCRIPTORS, Unit, reference};

/// Capacities of a segment and the word index where each region starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes in all.
    pub size: u64,
    /// Process slots.
    pub slots: u32,
    /// Cells.
    pub cells: u32,
    /// Ring units.
    pub units: u32,
    /// Bells: a multiple of 64.
    pub bells: u32,
    /// Blocks of each class.
    pub blocks: [u32; 3],
    /// The small blocks from here on are a reserve for changes that add nothing (see `allocate_for_less`).
    pub reserve_from: u32,
    /// First word of the slots.
    pub slots_at: usize,
    /// First word of the bells.
    pub bells_at: usize,
    /// First word of the cells' rows of interested bells.
    pub interest_at: usize,
    /// First word of the cells.
    pub cells_at: usize,
    /// First word of the units' states.
    pub units_at: usize,
    /// First word of the descriptors.
    pub descriptors_at: usize,
    /// First word of the lines of hints to where clients are.
    pub hints_at: usize,
    /// Binary logarithm of how many lines there are.
    pub hint_bits: u32,
    /// First word of each class's bitmap of blocks that may be free.
    pub bits_at: [usize; 3],
    /// First word of each class's blocks.
    pub blocks_at: [usize; 3],
    /// Words used in all.
    pub words: usize,
}

/// What the creator asks for; what is `None` follows from the size.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes in all.
    pub size: u64,
    /// How many processes may be attached at once.
    pub max_processes: u32,
    /// Remove the segment's name when its last process detaches or is gone.
    pub unlink_when_unused: bool,
    /// Named things at once: channels, broadcasts, channels with members, namespaces.
    pub channels: Option<u32>,
    /// Messages retained by all rings together (rounded up to rings of 16).
    pub ring_slots: Option<u32>,
    /// Members at once, all channels together.
    pub members: Option<u32>,
    /// Heartbeat clients at once.
    pub clients: Option<u32>,
    /// Event loops and threads that wait at once.
    pub waiters: Option<u32>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            size: 32 << 20,
            max_processes: 128,
            unlink_when_unused: false,
            channels: None,
            ring_slots: None,
            members: None,
            clients: None,
            waiters: None,
        }
    }
}

/// Small blocks that a member takes where many are alone in their channels: its record, a page, and the channel's name. In one
/// channel it is less than half of that.
pub const BLOCKS_PER_MEMBER: u64 = 3;
/// Small blocks that a heartbeat client takes: its record and its share of pages.
pub const BLOCKS_PER_CLIENT: u64 = 2;
/// Smallest segment that is of any use.
pub const MIN_SIZE: u64 = 256 << 10;
/// Most bells: event loops and threads that wait at once.
pub const MAX_BELLS: u64 = 1 << 14;
/// Largest segment: what 28 bits of block number address with room to spare.
pub const MAX_SIZE: u64 = 64 << 30;
/// Word index where the cells must have ended: what names one of them has 32 bits for it.
pub(crate) const CELLS_END: u64 = u32::MAX as u64;

/// Most small blocks that are kept for changes that add nothing: the paths of a dozen at once.
const RESERVE: u32 = 64;

/// Words of a line of hints: a cache line's.
pub const HINTS_A_LINE: usize = 8;
/// There is a line of hints for so many small blocks, at least: one for a dozen members of a full arena.
const BLOCKS_A_LINE: u32 = 16;
/// The bits of a client's place.
const PLACE_BITS: u32 = 60;

/// The binary logarithm of how many lines of hints there are. A hint has the rest of a client's place behind the bits that
/// choose the line, and the number of a cell: so there are enough lines for a cell's number to fit beside it.
const fn hint_bits_of(cells: u32, small: u32) -> u32 {
    let cells = (cells + 1).next_power_of_two().trailing_zeros();
    let fit = cells.saturating_sub(u64::BITS - PLACE_BITS);
    let share = (small / BLOCKS_A_LINE).next_power_of_two().trailing_zeros();
    let bits = if fit > share { fit } else { share };
    if bits > 1 { bits } else { 1 }
}

/// How many of so many small blocks.
const fn reserve_of(small: u32) -> u32 {
    let share = small / 16;
    if share < RESERVE { share } else { RESERVE }
}

const fn align(words: usize, to: usize) -> usize {
    words.div_ceil(to) * to
}

impl Geometry {
    /// Lays the regions out one after another.
    fn place(size: u64, slots: u32, cells: u32, units: u32, bells: u32, blocks: [u32; 3]) -> Geometry {
        let slots_at = Header::WORDS;
        let bells_at = slots_at + slots as usize * Slot::WORDS;
        let interest_at = bells_at + bells as usize * Bell::WORDS;
        let cells_at = align(interest_at + cells as usize * bells.div_ceil(64) as usize, 16);
        let units_at = cells_at + cells as usize * CELL_WORDS;
        let descriptors_at = align(units_at + units as usize * Unit::WORDS, 16);
        let hints_at = align(descriptors_at + units as usize * UNIT_DESCRIPTORS, 16);
        let hint_bits = hint_bits_of(cells, blocks[0]);
        let mut at = hints_at + (HINTS_A_LINE << hint_bits);
        let mut bits_at = [0; 3];
        for class in 0..3 {
            bits_at[class] = at;
            at += (blocks[class] as usize).div_ceil(64);
        }
        let mut blocks_at = [0; 3];
        for class in 0..3 {
            at = align(at, 32);
            blocks_at[class] = at;
            at += blocks[class] as usize * (CLASS_BYTES[class] / 8);
        }
        Geometry {
            size,
            slots,
            cells,
            units,
            bells,
            blocks,
            reserve_from: blocks[0] - reserve_of(blocks[0]),
            slots_at,
            bells_at,
            interest_at,
            cells_at,
            units_at,
            descriptors_at,
            hints_at,
            hint_bits,
            bits_at,
            blocks_at,
            words: at,
        }
    }

    /// The geometry of raw numbers, if it is sound: for headers found and for tests.
    pub fn check(size: u64, slots: u64, cells: u64, units: u64, bells: u64, blocks: [u64; 3]) -> Result<Geometry> {
        let corrupt = Error::Corrupt { what: "the header's capacities do not fit its size" };
        let total = blocks.iter().try_fold(0_u64, |sum, &n| sum.checked_add(n));
        let sound = size <= MAX_SIZE
            && (1..=u64::from(MAX_PROCESSES)).contains(&slots)
            && (1..1 << 24).contains(&cells)
            && units < 1 << 26
            && (64..=MAX_BELLS).contains(&bells)
            && bells.is_multiple_of(64)
            && total.is_some_and(|n| (1..reference::SEALED).contains(&n));
        if !sound {
            return Err(corrupt);
        }
        let blocks = [blocks[0] as u32, blocks[1] as u32, blocks[2] as u32];
        let geometry = Geometry::place(size, slots as u32, cells as u32, units as u32, bells as u32, blocks);
        let fits = geometry.words as u64 * 8 <= size && geometry.units_at as u64 <= CELLS_END;
        if fits { Ok(geometry) } else { Err(corrupt) }
    }

    /// Divides `options.size` bytes: an eighth for rings, a thirty-second for cells, the rest for
    /// blocks (half of it small, a quarter each medium and large), unless capacities are given.
    pub fn divide(options: &Options) -> Result<Geometry> {
        let size = options.size;
        if !(MIN_SIZE..=MAX_SIZE).contains(&size) {
            return Err(Error::invalid("size", size, format!("between {MIN_SIZE} and {MAX_SIZE} bytes")));
        }
        let slots = options.max_processes;
        if !(1..=MAX_PROCESSES).contains(&slots) {
            return Err(Error::invalid("max_processes", slots, format!("between 1 and {MAX_PROCESSES}")));
        }
        let size = size / 4096 * 4096;
        let bells = match options.waiters {
            Some(waiters) if u64::from(waiters) > MAX_BELLS => {
                return Err(Error::invalid("waiters", waiters, format!("at most {MAX_BELLS}")));
            }
            Some(waiters) => u64::from(waiters.max(1)).next_multiple_of(64),
            // Four for each process, but no more than a thirty-second of the bytes.
            None => (size / 32 / (Bell::WORDS as u64 * 8)).min(u64::from(slots) * 4).clamp(64, MAX_BELLS) / 64 * 64,
        };
        let per_cell = (CELL_WORDS as u64 + bells / 64) * 8;
        // In front of the cells there is little besides.
        let most_cells = (CELLS_END - (1 << 24)) * 8 / per_cell;
        let cells = match options.channels {
            // every channel may have members too, and there is a namespace at least
            Some(channels) => u64::from(channels.max(1)) * 2 + 8,
            None => (size / 32 / 128).min((1 << 24) - 1).min(most_cells),
        };
        if cells >= 1 << 24 {
            return Err(Error::invalid("channels", options.channels.unwrap_or(0), "below 8388604"));
        }
        if cells > most_cells {
            let bound = format!("at most {} with {bells} waiters", (most_cells - 8) / 2);
            return Err(Error::invalid("channels", options.channels.unwrap_or(0), bound));
        }
        let unit_bytes = (UNIT_DESCRIPTORS + Unit::WORDS) as u64 * 8;
        let units = match options.ring_slots {
            Some(slots) => u64::from(slots.max(16)).div_ceil(UNIT_DESCRIPTORS as u64),
            None => size / 8 / unit_bytes,
        };
        if units >= 1 << 26 {
            return Err(Error::invalid("ring_slots", options.ring_slots.unwrap_or(0), "below 2^30"));
        }
        let per_slot = Slot::WORDS as u64 * 8;
        let fixed =
            Header::WORDS as u64 * 8 + u64::from(slots) * per_slot + bells * Bell::WORDS as u64 * 8 + cells * per_cell + units * unit_bytes;
        let wanted =
            u64::from(options.members.unwrap_or(0)) * BLOCKS_PER_MEMBER + u64::from(options.clients.unwrap_or(0)) * BLOCKS_PER_CLIENT;
        let wanted = if wanted > 0 { wanted + u64::from(RESERVE) } else { 0 };
        let hints = |small: u64| (HINTS_A_LINE as u64 * 8) << hint_bits_of(cells as u32, small.min(u64::from(u32::MAX)) as u32);
        let slack = 16 << 10;
        let others = 4 * CLASS_BYTES[2] as u64 + 8 * CLASS_BYTES[1] as u64;
        let floor = fixed + (wanted + 64) * CLASS_BYTES[0] as u64 + hints(wanted + 64) + others + slack;
        // With what is left for bitmaps below.
        let floor = floor + floor / 1000;
        if floor > size {
            return Err(Error::invalid("size", options.size, format!("at least {floor} bytes for the capacities asked for")));
        }
        // a block's bit in the bitmap rounds to 1/64 of a word: below the slack for any size
        let arena = size - fixed - slack;
        let arena = arena - arena / 1024;
        // Where there are many cells, hints may need most of it.
        let half = (arena / 2).min(arena.saturating_sub(hints(0) + others));
        let small = (half / CLASS_BYTES[0] as u64).max(wanted);
        let rest = arena.saturating_sub(small * CLASS_BYTES[0] as u64 + hints(small));
        let medium = rest / 2 / CLASS_BYTES[1] as u64;
        let large = (rest - medium * CLASS_BYTES[1] as u64) / CLASS_BYTES[2] as u64;
        Geometry::check(size, u64::from(slots), cells, units, bells, [small, medium, large])
            .map_err(|_| Error::invalid("size", options.size, "large enough for the capacities asked for".to_owned()))
    }

    /// A very small segment on the heap, for tests and model checking; without bells.
    pub fn tiny(slots: u32, cells: u32, units: u32, blocks: [u32; 3]) -> Geometry {
        Geometry::tiny_with_bells(slots, cells, units, 0, blocks)
    }

    /// As `tiny`, with so many bells.
    pub fn tiny_with_bells(slots: u32, cells: u32, units: u32, bells: u32, blocks: [u32; 3]) -> Geometry {
        let geometry = Geometry::place(0, slots, cells, units, bells, blocks);
        Geometry { size: geometry.words as u64 * 8, ..geometry }
    }

    /// The first word of a bell.
    #[inline(always)]
    pub fn bell(&self, bell: u32) -> Option<usize> {
        (bell < self.bells).then(|| self.bells_at + bell as usize * Bell::WORDS)
    }

    /// The first word of a cell's row of interested bells: 64 bells a word.
    #[inline(always)]
    pub fn interest(&self, cell: u32) -> usize {
        self.interest_at + cell.min(self.cells - 1) as usize * self.row_words()
    }

    /// Words of a row of interested bells.
    #[inline(always)]
    pub const fn row_words(&self) -> usize {
        self.bells.div_ceil(64) as usize
    }

    /// How many lines of hints there are.
    pub const fn hint_lines(&self) -> usize {
        1 << self.hint_bits
    }

    /// The first word of the line of hints of a client, by its place among members.
    #[inline(always)]
    pub const fn hint_line(&self, client: u64) -> usize {
        self.hints_at + (client >> (u64::BITS - self.hint_bits)) as usize * HINTS_A_LINE
    }

    /// The lowest place that has a line.
    pub const fn first_in_line(&self, number: usize) -> u64 {
        (number as u64) << (u64::BITS - self.hint_bits)
    }

    /// The hint in its line that the client of a place is a member in a cell; never 0.
    #[inline(always)]
    pub const fn hint_word(&self, client: u64, cell: u32) -> u64 {
        client << self.hint_bits | (cell as u64 + 1)
    }

    /// What a hint says that is in the line of some client: client and cell; damaged, one that there is not. `None`: it is free.
    #[inline(always)]
    pub const fn hint(&self, neighbour: u64, word: u64) -> Option<(u64, u32)> {
        if word == 0 {
            return None;
        }
        let cell = word & !(!0 << (u64::BITS - PLACE_BITS + self.hint_bits));
        let line = neighbour & !(!0 >> self.hint_bits);
        Some((line | (word ^ cell) >> self.hint_bits, cell.wrapping_sub(1) as u32))
    }

    /// How many blocks there are in all.
    pub fn total_blocks(&self) -> u32 {
        self.blocks.iter().sum()
    }

    /// The class of block `block` and its first word.
    #[inline(always)]
    pub fn block(&self, block: u32) -> Option<(usize, usize)> {
        // Almost every block is a small one.
        if block < self.blocks[0] {
            return Some((0, self.blocks_at[0] + block as usize * (CLASS_BYTES[0] / 8)));
        }
        self.larger_block(block)
    }

    /// The same of one that is not small.
    #[inline]
    fn larger_block(&self, block: u32) -> Option<(usize, usize)> {
        cold_path();
        let index = block - self.blocks[0];
        if index < self.blocks[1] {
            return Some((1, self.blocks_at[1] + index as usize * (CLASS_BYTES[1] / 8)));
        }
        let index = index - self.blocks[1];
        (index < self.blocks[2]).then(|| (2, self.blocks_at[2] + index as usize * (CLASS_BYTES[2] / 8)))
    }

    /// How many blocks of a class are not kept as a reserve.
    pub const fn ordinary(&self, class: usize) -> u32 {
        if class == 0 { self.reserve_from } else { self.blocks[class] }
    }

    /// The class of a block that there is.
    #[inline(always)]
    pub const fn class_of(&self, block: u32) -> usize {
        (block >= self.blocks[0]) as usize + (block >= self.blocks[0] + self.blocks[1]) as usize
    }

    /// The number of the first block of a class.
    pub fn first_of(&self, class: usize) -> u32 {
        self.blocks[..class].iter().sum()
    }

    /// The first word of a cell.
    #[inline(always)]
    pub fn cell(&self, cell: u32) -> Option<usize> {
        (cell < self.cells).then(|| self.cells_at + cell as usize * CELL_WORDS)
    }

    /// Bytes of payload in a block of a class.
    #[inline(always)]
    pub const fn payload(class: usize) -> usize {
        CLASS_BYTES[class] - BLOCK_HEADER_WORDS * 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_default_fits_docker_twice_over() {
        let geometry = Geometry::divide(&Options::default()).unwrap();
        assert!(geometry.words * 8 <= 32 << 20);
        assert!(geometry.blocks[0] > 40_000, "{geometry:?}");
        assert!(geometry.units >= 1800 * 16, "{geometry:?}");
    }

    proptest! {
        #[test]
        fn whatever_is_asked_fits_or_is_refused(size in 0_u64..(1 << 32), processes in 0_u32..5000,
                channels in proptest::option::of(0_u32..200_000), ring in proptest::option::of(0_u32..10_000_000),
                members in proptest::option::of(0_u32..1_000_000)) {
            let options = Options { size, max_processes: processes, channels, ring_slots: ring, members, ..Options::default() };
            if let Ok(geometry) = Geometry::divide(&options) {
                prop_assert!(geometry.words as u64 * 8 <= size);
                prop_assert!(u64::from(geometry.blocks[0]) >= u64::from(members.unwrap_or(0)) * BLOCKS_PER_MEMBER);
                let last = geometry.total_blocks() - 1;
                let (class, at) = geometry.block(last).unwrap();
                prop_assert!(at + CLASS_BYTES[class] / 8 <= geometry.words);
                prop_assert!(geometry.block(last + 1).is_none());
                for block in (0..3).map(|class| geometry.first_of(class)).flat_map(|first| [first.saturating_sub(1), first]).chain([last]) {
                    let class = geometry.block(block).map(|(class, _)| class);
                    prop_assert!(class.is_none_or(|class| geometry.class_of(block) == class), "block {}", block);
                }
            }
        }

        #[test]
        fn a_damaged_header_is_never_accepted_outside_its_size(size in any::<u64>(), slots in any::<u64>(),
                cells in any::<u64>(), units in any::<u64>(), bells in any::<u64>(), blocks in any::<[u64; 3]>()) {
            if let Ok(geometry) = Geometry::check(size, slots, cells, units, bells, blocks) {
                prop_assert!(geometry.words as u64 * 8 <= size);
            }
        }

        #[test]
        fn what_is_said_to_be_enough_is(processes in 1_u32..4000, channels in 0_u32..1_000_000, ring in 0_u32..10_000_000,
                members in proptest::option::of(0_u32..10_000_000), clients in proptest::option::of(0_u32..10_000_000),
                waiters in 0_u32..17_000) {
            let (channels, ring_slots, waiters) = (Some(channels), Some(ring), Some(waiters));
            let options = Options { size: MIN_SIZE, max_processes: processes, channels, ring_slots, members, clients, waiters, ..Options::default() };
            if let Err(Error::Invalid { argument: "size", bound, .. }) = Geometry::divide(&options) {
                let enough: u64 = bound.split(' ').find_map(|word| word.parse().ok()).unwrap();
                let enlarged = Geometry::divide(&Options { size: enough.next_multiple_of(4096), ..options });
                prop_assert!(enlarged.is_ok(), "{bound}, but {enlarged:?}");
            }
        }

        #[test]
        fn a_hint_says_what_was_written(size in MIN_SIZE..(1 << 36), channels in proptest::option::of(0_u32..8_000_000),
                client in any::<u64>(), number in any::<u32>()) {
            if let Ok(geometry) = Geometry::divide(&Options { size, channels, ..Options::default() }) {
                let client = client & !0xf;
                for cell in [0, number % geometry.cells, geometry.cells - 1] {
                    prop_assert_eq!(geometry.hint(client, geometry.hint_word(client, cell)), Some((client, cell)));
                }
                prop_assert!((geometry.hints_at..geometry.bits_at[0]).contains(&(geometry.hint_line(client) + HINTS_A_LINE - 1)));
            }
        }
    }
}
