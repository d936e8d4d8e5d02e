//! Every kind of damage is found and named; a sound segment is found sound.

use crate::error::{Error, Result};
use crate::geometry::HINTS_A_LINE;
use crate::layout::{Block, Channel, Group, Header, LAYOUT_VERSION, Slot, Unit, cell_kind, kind, reference, state};
use crate::os::shm;
use crate::reap::each_cell;
use crate::space::Context;
use crate::trie::{Page, Root, Trie};
use crate::{ChannelKind, ChannelSpec, Channels, Form, Heartbeats, Metadata, Options, Presence, Segment, Topics, TopicsKind, World};

/// A finding, and the harm that leads to it.
type Case = (&'static str, Box<dyn Fn(Context<'_>)>);

fn small() -> Options {
    Options { size: 1 << 20, ..Options::default() }
}

fn busy() -> (Segment, Vec<std::sync::Arc<crate::Receiver>>) {
    let segment = Segment::private(&small()).expect("room");
    let open = use_all(&segment);
    (segment, open)
}

/// Something of everything.
fn use_all(segment: &Segment) -> Vec<std::sync::Arc<crate::Receiver>> {
    let world = World::new(segment, "").expect("room");
    let channels = Channels::new(&world, ChannelKind::Channel);
    let broadcasts = Channels::new(&world, ChannelKind::Broadcast);
    let presence = Presence::new(&world);
    let heartbeats = Heartbeats::new(&world);
    let topics = Topics::new(&world, TopicsKind::OfManager);
    let mut open = Vec::new();
    for index in 0..40 {
        let name = format!("room {index}");
        let spec = ChannelSpec { buffer_size: 4, metadata: vec![], fail_when_unheard: false, dedup_window: None };
        channels.create(&name, &spec).expect("room");
        broadcasts.create(&name, &ChannelSpec { dedup_window: Some(8), ..spec }).expect("room");
        open.extend(channels.subscribe(&name, "alice", None).expect("room"));
        for payload in [3, 300, 3000] {
            channels.publish(&name, &vec![b'x'; payload], Form::Bytes).expect("room");
        }
        broadcasts.send(&name, b"once", Form::Text, Some(&name)).expect("room");
        presence.track("hall", &name, &Metadata::default()).expect("room");
        heartbeats.register(&name, None).expect("room");
        topics.subscribe(&format!("{name}:*"), "alice").expect("room");
    }
    // One that is gone and still drained.
    channels.remove("room 7").expect("it is there");
    presence.untrack("hall", "room 9").expect("it is there");
    open
}

/// The first cell of a kind, and the root page of one of its groups.
fn group_of(cx: Context<'_>, wanted: u64, field: usize) -> (usize, u64, Page) {
    let mut found = None;
    let listed = each_cell(cx, |cell, kind| {
        let trie = cell.trie(cx, field);
        if kind == wanted
            && let Root::Page(reference) = trie.root()
        {
            found = found.take().or_else(|| Some((cell.at(), reference, trie.page(reference)?)));
        }
        Ok(())
    });
    listed.expect("cells");
    found.expect("there is one")
}

fn at_of(cx: Context<'_>, reference: u64) -> usize {
    cx.space.geometry.block(reference::block(reference)).expect("a block").1
}

#[test]
fn a_sound_segment_is_found_sound() {
    let (segment, open) = busy();
    assert_eq!(segment.check().expect("attached"), Vec::<String>::new());
    drop(open);
    assert_eq!(segment.check().expect("attached"), Vec::<String>::new());
}

#[test]
fn a_dedup_window_beyond_all_bounds_is_only_a_long_one() {
    // Found by the rain of bytes: an addition that overflowed.
    let (segment, open) = busy();
    let cx = segment.cx().expect("attached");
    let broadcasts = Channels::new(&World::new(&segment, "").expect("room"), ChannelKind::Broadcast);
    // Ids are indexed by the send that follows.
    broadcasts.send("room 0", b"x", Form::Text, Some("another")).expect("room");
    let (at, ..) = group_of(cx, cell_kind::BROADCAST, Channel::seen);
    cx.view().set(at + Channel::window, u64::MAX);
    // Windows are read where a channel is looked up for the first time.
    let broadcasts = Channels::new(broadcasts.world(), ChannelKind::Broadcast);
    for room in 0..40 {
        for id in 0..3 {
            broadcasts.send(&format!("room {room}"), b"x", Form::Text, Some(&format!("id {id}"))).expect("room");
        }
    }
    drop(open);
}

/// Every kind of damage, and how it is named.
fn damage() -> Vec<Case> {
    type Harm = fn(Context<'_>) -> usize;
    let free_block: Harm = |cx| {
        let ats = (0..cx.space.geometry.total_blocks()).filter_map(|block| cx.space.geometry.block(block));
        let mut free = ats.map(|(_, at)| at).filter(|&at| state::of(cx.view().get(at)) == state::FREE);
        free.next().expect("a free block")
    };
    let ring_of: Harm = |cx| {
        let (cell_at, ..) = group_of(cx, cell_kind::CHANNEL, Channel::handles);
        let unit = (cx.view().get(cell_at + Channel::config) >> 16) as usize;
        cx.space.geometry.descriptors_at + unit * crate::layout::UNIT_DESCRIPTORS
    };
    let members_page: Harm = |cx| at_of(cx, group_of(cx, cell_kind::GROUP, Group::members).1);
    let set = |cx: Context<'_>, at: usize, value: u64| cx.view().set(at, value);
    vec![
        ("the header's capacities", Box::new(move |cx| set(cx, Header::units, 3))),
        ("no state is 9", Box::new(move |cx| set(cx, cx.space.slot_at(5), 1 << 16 | 9))),
        ("nothing refers to this", Box::new(move |cx| set(cx, free_block(cx), state::pack(77, 0, state::LIVE)))),
        ("held for a process that is gone", Box::new(move |cx| set(cx, free_block(cx), state::pack(77, 9, state::HELD)))),
        ("its chain is gone", Box::new(move |cx| set(cx, free_block(cx), state::pack(77, 0, state::CONT)))),
        ("no state of a block is 12", Box::new(move |cx| set(cx, free_block(cx), state::pack(77, 0, 12)))),
        ("is not in use", Box::new(move |cx| set(cx, at_of(cx, cx.view().get(ring_of(cx))), state::pack(1, 0, state::FREE)))),
        ("says it is message", Box::new(move |cx| set(cx, at_of(cx, cx.view().get(ring_of(cx))) + Block::ident, 1))),
        ("is no message", Box::new(move |cx| set(cx, at_of(cx, cx.view().get(ring_of(cx))) + Block::info, kind::LEAF))),
        ("both of", Box::new(move |cx| set(cx, ring_of(cx) + 1, cx.view().get(ring_of(cx))))),
        ("messages are within its last lap", Box::new(move |cx| set(cx, ring_of(cx), cx.view().get(ring_of(cx)) & reference::BLOCK_MASK))),
        ("lies before its start", Box::new(move |cx| set(cx, group_of(cx, cell_kind::CHANNEL, Channel::handles).0 + Channel::head, 1))),
        ("in use without a name", Box::new(move |cx| set(cx, group_of(cx, cell_kind::GROUP, Group::members).0 + Channel::ident, 3))),
        (
            "its maker is dead",
            Box::new(move |cx| {
                let at = group_of(cx, cell_kind::GROUP, Group::members).0;
                set(cx, at, state::with(cx.view().get(at), state::HELD) | 9 << 4);
            }),
        ),
        (
            "no kind is 200",
            Box::new(move |cx| {
                let at = group_of(cx, cell_kind::GROUP, Group::members).0;
                set(cx, at + Channel::back, cx.view().get(at + Channel::back) & !0xff | 200);
            }),
        ),
        (
            "lost, no channel uses it",
            Box::new(move |cx| {
                set(cx, cx.space.geometry.units_at + (cx.space.geometry.units as usize - 1) * Unit::WORDS, state::pack(1, 0, state::LIVE));
            }),
        ),
        (
            "uses it and it is free",
            Box::new(move |cx| {
                let unit = (ring_of(cx) - cx.space.geometry.descriptors_at) / crate::layout::UNIT_DESCRIPTORS;
                set(cx, cx.space.geometry.units_at + unit * Unit::WORDS, 0);
            }),
        ),
        ("it counts", Box::new(move |cx| set(cx, members_page(cx) + Block::WORDS + 16, 5))),
        ("of root", Box::new(move |cx| set(cx, members_page(cx) + Block::back, 12))),
        (
            "is no page",
            Box::new(move |cx| {
                let page = at_of(cx, group_of(cx, cell_kind::GROUP, Group::members).1);
                let child = (0..16).map(|nibble| page + Block::WORDS + nibble).find(|&at| cx.view().get(at) != 0);
                let at = child.expect("40 members fill more than a leaf");
                set(cx, at, cx.view().get(at) ^ 1 << reference::BLOCK_BITS);
            }),
        ),
        (
            "no hint leads to",
            Box::new(move |cx| {
                let geometry = &cx.space.geometry;
                let words = geometry.hints_at..geometry.hints_at + geometry.hint_lines() * HINTS_A_LINE;
                words.for_each(|at| set(cx, at, 0));
            }),
        ),
        (
            "a hint to the member",
            Box::new(move |cx| {
                let (at, ..) = group_of(cx, cell_kind::GROUP, Group::members);
                set(cx, at + Group::members, cx.space.fresh_empty());
            }),
        ),
        (
            "not attached",
            Box::new(move |cx| {
                let (at, ..) = group_of(cx, cell_kind::CHANNEL, Channel::handles);
                let trie = Trie::new(cx, at + Channel::handles);
                let mut records = Vec::new();
                trie.records(|_, record| records.push(record.at)).expect("sound");
                // Behind the header: key length and owners' count, then the first owner.
                set(cx, records[0] + Block::WORDS + 1, 99 << 12 | 3);
            }),
        ),
    ]
}

#[test]
fn every_kind_of_damage_is_named() {
    let cases = damage();
    let wanted: Vec<&str> = cases.iter().map(|(finding, _)| *finding).collect();
    println!("{} kinds of damage: {wanted:?}", wanted.len());
    for (finding, harm) in cases {
        let (segment, open) = busy();
        let cx = segment.cx().expect("attached");
        harm(cx);
        let found = segment.check().expect("attached");
        assert!(found.iter().any(|line| line.contains(finding)), "{finding:?} is not in {found:#?}");
        // What was damaged is not to be tidied up.
        std::mem::forget(open);
    }
}

/// A segment that everybody has left, and a copy of it with changed words.
struct Left {
    name: String,
    words: Vec<u64>,
}

impl Left {
    fn with(label: &str, harm: impl FnOnce(Context<'_>)) -> Left {
        let name = format!("left-{label}-{}", std::process::id());
        let segment = Segment::open(&name, &small()).expect("room");
        let open = use_all(&segment);
        let cx = segment.cx().expect("attached");
        harm(cx);
        let mut words: Vec<u64> = (0..segment.size() as usize / 8).map(|at| cx.view().get(at)).collect();
        // As if its process had gone in order.
        let owner = cx.space.slot_at(cx.actor.slot) + Slot::owner;
        words[owner] &= !0xf;
        segment.unlink().expect("it is ours");
        std::mem::forget(open);
        Left { name, words }
    }

    /// Attaches to it with some words changed.
    fn attach(&self, changed: &[(usize, u64)]) -> Result<Segment> {
        use std::os::unix::fs::OpenOptionsExt;
        let mut words = self.words.clone();
        changed.iter().for_each(|&(at, value)| words[at] = value);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let path = shm::path(&self.name, LAYOUT_VERSION).expect("a name");
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(path).expect("nobody else has it");
        std::io::Write::write_all(&mut file, &bytes).expect("room");
        let attached = Segment::attach(&self.name);
        Segment::unlink_name(&self.name).expect("it is ours");
        attached
    }
}

#[test]
fn whoever_attaches_to_ruins_is_told() {
    // What a dead process may leave is put in order by whoever comes next; members, who leave, take their page's
    // wrong address along.
    let mended = [
        "nothing refers to this",
        "held for a process that is gone",
        "its chain is gone",
        "its maker is dead",
        "of root",
        "lost, no channel uses it",
        "no hint leads to",
        "a hint to the member",
        "not attached",
    ];
    assert_eq!(Left::with("sound", |_| {}).attach(&[]).expect("sound").check(), Ok(vec![]));
    let mut refused = 0;
    for (finding, harm) in damage() {
        match Left::with("damaged", harm).attach(&[]) {
            Ok(segment) => {
                assert_eq!(segment.check(), Ok(vec![]), "{finding:?}");
                assert!(mended.contains(&finding), "{finding:?} went unnoticed");
            }
            Err(Error::Damaged { .. } | Error::Corrupt { .. }) => refused += 1,
            Err(other) => panic!("{finding:?}: {other}"),
        }
    }
    println!("{refused} kinds of damage refused, the others mended");
    assert!(refused >= 14, "only {refused}");
}

#[test]
fn every_word_of_the_header_is_looked_at() {
    let left = Left::with("header", |_| {});
    let attach = |word: usize, value: u64| left.attach(&[(word, value)]);
    let old = |word: usize| left.words[word];
    let wrong = |word: usize| [0, 1, 7, u64::MAX, old(word) + 1, old(word) - 1, old(word) << 32, 1 << 63];
    for value in wrong(Header::magic) {
        assert!(matches!(attach(Header::magic, value), Err(Error::Refused { .. })), "magic {value:x}");
    }
    for word in [Header::version, Header::fingerprint] {
        for value in wrong(word).into_iter().filter(|&value| word != Header::version || value != 0) {
            let error = attach(word, value).err().expect("another layout").to_string();
            let both = [format!("layout version {}", left.words[Header::version]), format!("speaks {LAYOUT_VERSION}")];
            assert!(word != Header::fingerprint || both.iter().all(|text| error.contains(text)), "{error}");
        }
    }
    assert!(matches!(attach(Header::version, 0), Err(Error::NotFound { .. })), "unfinished");
    let capacities =
        [Header::size, Header::slots, Header::cells, Header::units, Header::bells, Header::small, Header::medium, Header::large];
    for word in capacities {
        // One unit, cell or block more or less than there was room for shifts all that lies behind.
        for value in wrong(word) {
            match attach(word, value) {
                Err(Error::Corrupt { .. } | Error::Damaged { .. }) => {}
                Err(other) => panic!("word {word} is {value:x}: {other}"),
                // A last block more or less of the last region may be no damage at all.
                Ok(segment) => assert_eq!(segment.check(), Ok(vec![]), "word {word} is {value:x}"),
            }
        }
    }
    for word in [Header::key0, Header::key1] {
        assert!(matches!(attach(word, old(word) ^ 1), Err(Error::Damaged { .. })), "another hash key");
    }
}

#[test]
fn a_file_cut_short_is_refused() {
    use std::os::unix::fs::OpenOptionsExt;
    let left = Left::with("short", |_| {});
    let path = shm::path(&left.name, LAYOUT_VERSION).expect("a name");
    for words in [1, Header::WORDS - 1, Header::WORDS, left.words.len() / 2, left.words.len() - 1] {
        let bytes: Vec<u8> = left.words[..words].iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).expect("room");
        std::io::Write::write_all(&mut file, &bytes).expect("room");
        let error = Segment::open(&left.name, &small()).err().expect("it is too short");
        assert!(matches!(error, Error::Corrupt { .. } | Error::Refused { .. }), "{words} words: {error}");
        assert_eq!(std::fs::read(&path).expect("it is there"), bytes, "{words} words: it was touched");
        std::fs::remove_file(&path).expect("it is there");
    }
}
