//! LAYOUT.md, the byte map, says what `layout.rs` and `geometry.rs` say: every field of every structure
//! at its offset, every named value, and the regions of a segment of the default size. A change of one
//! without the other fails here, and the message shows the row that the code stands for.
#![cfg(not(modelled))]

use hypern_shm_core::geometry::{BLOCKS_PER_CLIENT, BLOCKS_PER_MEMBER, Geometry, HINTS_A_LINE, Options};
use hypern_shm_core::layout::{
    Bell, Block, CELL_WORDS, CLASS_BYTES, Channel, Group, Header, LAYOUT_VERSION, MAGIC, MAX_PROCESSES, MAX_RING_LOG2, Slot,
    UNIT_DESCRIPTORS, Unit, World, cell_kind, fields, kind, means, reference, state,
};

/// The document, cut at its headings: (heading without its marks, lines below it).
fn sections() -> Vec<(String, Vec<String>)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../LAYOUT.md");
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut sections = vec![(String::new(), Vec::new())];
    for line in text.lines() {
        match line.strip_prefix('#') {
            Some(heading) => sections.push((heading.trim_start_matches('#').trim().to_owned(), Vec::new())),
            None => sections.last_mut().expect("there is one from the start").1.push(line.to_owned()),
        }
    }
    sections
}

/// The rows of the table under a heading that starts so, without its head; cells without backticks.
fn table(heading: &str) -> Vec<Vec<String>> {
    let sections = sections();
    let found: Vec<_> = sections.iter().filter(|(name, _)| name.starts_with(heading)).collect();
    assert_eq!(found.len(), 1, "one heading of LAYOUT.md starts with {heading:?}");
    let rows = found[0].1.iter().filter(|line| line.starts_with('|'));
    let cells = |line: &String| line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect();
    rows.skip(2).map(cells).collect()
}

/// Compares the first cells of each row; what comes after them is prose.
fn assert_rows(heading: &str, expected: &[Vec<String>]) {
    let found = table(heading);
    for (index, row) in expected.iter().enumerate() {
        let there = found.get(index).and_then(|cells| cells.get(..row.len()));
        assert_eq!(there, Some(&row[..]), "LAYOUT.md, {heading}: row {} must be | {} |", index + 1, row.join(" | "));
    }
    assert_eq!(found.len(), expected.len(), "LAYOUT.md, {heading}: rows after | {} |", expected.last().expect("rows").join(" | "));
}

fn row(cells: &[&dyn std::fmt::Display]) -> Vec<String> {
    cells.iter().map(|cell| cell.to_string()).collect()
}

#[test]
fn every_field_is_where_the_map_says() {
    let structures = [
        ("Header", Header::WORDS),
        ("Slot", Slot::WORDS),
        ("Channel", Channel::WORDS),
        ("World", World::WORDS),
        ("Group", Group::WORDS),
        ("Bell", Bell::WORDS),
        ("Block", Block::WORDS),
        ("Unit", Unit::WORDS),
    ];
    let fields = fields();
    for (name, words) in structures {
        let of_this = fields.iter().filter(|(structure, ..)| *structure == name);
        let rows: Vec<_> = of_this.map(|(_, field, offset, bytes)| row(&[offset, bytes, field])).collect();
        assert_rows(&format!("{name}: {} bytes", words * 8), &rows);
    }
    let known = |name: &str| structures.iter().any(|(structure, _)| *structure == name);
    assert!(fields.iter().all(|(structure, ..)| known(structure)), "a structure that the map does not have");
}

#[test]
fn every_value_has_its_name() {
    let named = |values: &[(&str, u64)]| values.iter().map(|(name, value)| row(&[value, name])).collect::<Vec<_>>();
    let states = [
        ("FREE", state::FREE),
        ("HELD", state::HELD),
        ("LIVE", state::LIVE),
        ("CONT", state::CONT),
        ("RETIRED", state::RETIRED),
        ("CLEARING", state::CLEARING),
    ];
    assert_rows("States", &named(&states));
    let kinds = [
        ("TEXT", kind::TEXT),
        ("BYTES", kind::BYTES),
        ("LEAF", kind::LEAF),
        ("INNER", kind::INNER),
        ("RECORD", kind::RECORD),
        ("TAIL", kind::TAIL),
    ];
    assert_rows("Kinds of blocks", &named(&kinds));
    let cells =
        [("CHANNEL", cell_kind::CHANNEL), ("BROADCAST", cell_kind::BROADCAST), ("GROUP", cell_kind::GROUP), ("WORLD", cell_kind::WORLD)];
    assert_rows("Kinds of cells", &named(&cells));
    assert_rows("Means", &named(&[("FUTEX", means::FUTEX), ("FIFO", means::FIFO), ("PIPE", means::PIPE)]));
    let special = |value: u64| format!("2^28 - {}", (1 << reference::BLOCK_BITS) - value);
    let blocks = [
        row(&[&special(reference::EMPTY), &"EMPTY"]),
        row(&[&special(reference::SEALED), &"SEALED"]),
        row(&[&special(reference::NO_BLOCK), &"NO_BLOCK"]),
    ];
    assert_rows("Block numbers that are none", &blocks);
}

#[test]
fn a_segment_of_the_default_size_is_divided_so() {
    let options = Options::default();
    let geometry = Geometry::divide(&options).expect("the defaults fit");
    let mut rows = Vec::new();
    let mut add = |name: &str, at: usize, words: usize, count: usize| {
        rows.push(row(&[&name, &(at * 8), &(words * 8), &count]));
    };
    add("header", 0, Header::WORDS, 1);
    add("slots", geometry.slots_at, Slot::WORDS, geometry.slots as usize);
    add("bells", geometry.bells_at, Bell::WORDS, geometry.bells as usize);
    add("rows of interested bells", geometry.interest_at, geometry.row_words(), geometry.cells as usize);
    add("cells", geometry.cells_at, CELL_WORDS, geometry.cells as usize);
    add("ring units", geometry.units_at, Unit::WORDS, geometry.units as usize);
    add("descriptors", geometry.descriptors_at, 1, geometry.units as usize * UNIT_DESCRIPTORS);
    add("lines of hints", geometry.hints_at, HINTS_A_LINE, geometry.hint_lines());
    for (class, bytes) in CLASS_BYTES.into_iter().enumerate() {
        let words = (geometry.blocks[class] as usize).div_ceil(64);
        add(&format!("bitmap of the {bytes}-byte blocks"), geometry.bits_at[class], 1, words);
    }
    for (class, bytes) in CLASS_BYTES.into_iter().enumerate() {
        add(&format!("{bytes}-byte blocks"), geometry.blocks_at[class], bytes / 8, geometry.blocks[class] as usize);
    }
    assert_rows("Regions", &rows);
    assert!(geometry.words * 8 <= 32 << 20);
}

#[test]
fn every_packed_word_has_64_bits() {
    let sections = sections();
    let (_, lines) = sections.iter().find(|(name, _)| name == "Packed words").expect("the heading");
    let block = lines.iter().skip_while(|line| !line.starts_with("```")).skip(1).take_while(|line| !line.starts_with("```"));
    let mut words = 0;
    for line in block {
        let parts = line.split_whitespace().filter_map(|part| part.rsplit_once(':')?.1.parse::<u32>().ok());
        assert_eq!(parts.sum::<u32>(), 64, "LAYOUT.md: {line}");
        words += 1;
    }
    assert!(words >= 8, "only {words} packed words found");
}

#[test]
fn the_numbers_in_the_text_are_the_codes() {
    let text: String = sections().into_iter().flat_map(|(heading, lines)| [heading, lines.join(" ")]).collect::<Vec<_>>().join(" ");
    let magic = String::from_utf8(MAGIC.to_le_bytes().to_vec()).expect("ASCII");
    for sentence in [
        format!("layout version {LAYOUT_VERSION}"),
        format!("`{magic}`"),
        format!("at most {MAX_PROCESSES} processes"),
        format!("at most 2^{MAX_RING_LOG2} descriptors"),
        format!("units of {UNIT_DESCRIPTORS} descriptors"),
        format!("{BLOCKS_PER_MEMBER} small blocks a member"),
        format!("{BLOCKS_PER_CLIENT} a heartbeat client"),
    ] {
        assert!(text.contains(&sentence), "LAYOUT.md must say {sentence:?}");
    }
}
