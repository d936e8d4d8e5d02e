//! Every kind of damage is found and named; a sound segment is found sound.

use crate::layout::{Block, Channel, Group, Header, Unit, World as WorldCell, cell_kind, kind, reference, state};
use crate::reap::each_cell;
use crate::space::Context;
use crate::trie::{Page, Root, Trie};
use crate::{ChannelKind, ChannelSpec, Channels, Form, Heartbeats, Options, Presence, Segment, Topics, TopicsKind, World};

/// A finding, and the harm that leads to it.
type Case = (&'static str, Box<dyn Fn(Context<'_>)>);

fn busy() -> (Segment, Vec<crate::Receiver>) {
    let segment = Segment::private(&Options { size: 1 << 20, ..Options::default() }).expect("room");
    let world = World::new(&segment, "").expect("room");
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
        presence.track("hall", &name, &[]).expect("room");
        heartbeats.register(&name, None).expect("room");
        topics.subscribe(&format!("{name}:*"), "alice").expect("room");
    }
    // One that is gone and still drained.
    channels.remove("room 7").expect("it is there");
    presence.untrack("hall", "room 9").expect("it is there");
    (segment, open)
}

/// The first cell of a kind, and the root page of one of its groups.
fn group_of(cx: Context<'_>, wanted: u64, field: usize) -> (usize, u64, Page) {
    let mut found = None;
    let listed = each_cell(cx, |cell, kind| {
        let trie = cell.trie(cx, field);
        if kind == wanted
            && let Root::Page(reference) = trie.root()
        {
            found = found.take().or_else(|| Some((cell.at, reference, trie.page(reference)?)));
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

#[test]
fn every_kind_of_damage_is_named() {
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
    let cases: Vec<Case> = vec![
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
                let (at, ..) = group_of(cx, cell_kind::WORLD, WorldCell::whereabouts);
                set(cx, at + WorldCell::whereabouts, cx.space.fresh_empty());
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
    ];
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
