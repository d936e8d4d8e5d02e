//! One life of a channel and the next in the same cell: whoever was stopped on the way in the one does no
//! harm to the other. Each test puts the rest of the world into the very place where somebody may be stopped.
#![cfg(not(modelled))]

use hypern_shm_core::arena::Info;
use hypern_shm_core::cells::Cell;
use hypern_shm_core::content::Content;
use hypern_shm_core::geometry::Geometry;
use hypern_shm_core::layout::{Channel, Header, UNIT_DESCRIPTORS, cell_kind, kind, reference};
use hypern_shm_core::ring::{Read, Ring};
use hypern_shm_core::space::{Actor, Context, Space};
use hypern_shm_core::trie::{Change, Root, Trie};

/// A segment with one cell, so that every channel is the next life of the one before.
fn one_cell() -> Space {
    Space::boxed(Geometry::tiny(1, 1, 2, [32, 0, 0]))
}

fn create(cx: Context<'_>) -> Cell {
    let cell = cx.new_channel(cell_kind::CHANNEL, Header::worlds, 0, 2, 0, 0).expect("there is room");
    cell.make_live(cx);
    cell
}

fn remove(cx: Context<'_>, cell: Cell) {
    cell.retire(cx).expect("a ring");
    cell.clear_if_unused(cx).expect("a ring");
    assert!(!cell.is_same_life(cx), "the cell is free");
}

fn publish(cx: Context<'_>, ring: &Ring, payload: u8, mut meanwhile: impl FnMut()) -> Option<u64> {
    let held = cx.store(Info::new(kind::BYTES, 0, 0, 0), u64::from(ring.cell), 0, &[], &[payload]).expect("room");
    let published = ring.publish(
        cx,
        held,
        |_| true,
        |_| {
            meanwhile();
            true
        },
    );
    let published = published.expect("a sound ring");
    if published.is_none() {
        assert!(cx.free(held.reference));
    }
    published
}

fn add(trie: &Trie<'_>, key: &[u8]) -> Option<()> {
    let place = trie.cx.space.hash(key).place();
    trie.change_record(place, key, |_| Ok((Change::Put(0, trie.cx.new_record(trie.root, place, &Content::new(&[], key, &[]))?), ())))
        .expect("a sound trie")
}

#[test]
fn a_publisher_on_the_way_is_stopped_by_the_seal() {
    let space = one_cell();
    let actor = Actor::new(0, 1);
    let cx = Context { space: &space, actor: &actor };
    let cell = create(cx);
    let ring = cell.ring(cx).expect("a ring").expect("this life");
    let start = ring.head(cx);
    // The ring is full, so that the slot in question still holds a message to be drained.
    for payload in 0..4 {
        publish(cx, &ring, payload, || {}).expect("open");
    }
    let late = publish(cx, &ring, 9, || {
        cell.retire(cx).expect("a ring");
    });
    assert_eq!(late, None, "published after the seal");
    assert_eq!(ring.head(cx), start + 4);
    for payload in 0..4 {
        let mut bytes = Vec::new();
        assert!(matches!(ring.read(cx, start + u64::from(payload), &mut bytes), Read::Got(_)), "the seal took a message");
        assert_eq!(bytes, [payload]);
    }
    remove(cx, cell);
    let next = create(cx);
    let ring = next.ring(cx).expect("a ring").expect("this life");
    let start = ring.head(cx);
    assert_eq!(publish(cx, &ring, 1, || {}), Some(start), "the seal went over to the next life");
}

#[test]
fn a_head_of_the_next_life_is_not_moved_by_who_publishes_in_the_last() {
    let space = Space::boxed(Geometry::tiny(2, 2, 2, [32, 0, 0]));
    let actor = Actor::new(0, 1);
    let cx = Context { space: &space, actor: &actor };
    let cell = cx.new_channel(cell_kind::CHANNEL, Header::worlds, 0, 0, 0, 0).expect("there is room");
    cell.make_live(cx);
    let stale = cell.ring(cx).expect("a ring").expect("this life");
    let held = cx.store(Info::new(kind::BYTES, 0, 0, 0), u64::from(stale.cell), 0, &[], &[1]).expect("room");
    // Here the publisher is stopped, and the cell gets another ring. In the slot of the old one somebody else's
    // sequence is by chance what the new head says.
    remove(cx, cell);
    let other = cx.new_cell(cell_kind::GROUP, Header::worlds, 0).expect("there is room");
    let next = cx.new_channel(cell_kind::CHANNEL, Header::worlds, 0, 0, 0, 0).expect("there is room");
    next.make_live(cx);
    let ring = next.ring(cx).expect("a ring").expect("this life");
    assert_eq!((next.number(), stale.slots_at == ring.slots_at), (cell.number(), false), "the same cell, another ring");
    let start = ring.head(cx);
    cx.view().set(stale.slots_at, start << reference::BLOCK_BITS & !(1 << 63) | reference::NO_BLOCK);
    let late = stale.publish(cx, held, |word| cell.is_open_as(word), |_| true);
    assert_eq!((late, ring.head(cx)), (Ok(None), start), "a message that nobody published");
    other.release(cx);
}

/// Rings of several lengths after each other in the same cells and units, over the ends of what laps can count: each life
/// begins empty, and everything that is published in it is read.
#[test]
fn sequences_and_laps_do_not_drive_each_other() {
    let space = Space::boxed(Geometry::tiny(1, 2, 4, [32, 0, 0]));
    let actor = Actor::new(0, 1);
    let cx = Context { space: &space, actor: &actor };
    let mut highest = 0;
    for life in 0..200_u32 {
        if life % 50 == 49 {
            for slot in 0..4 * UNIT_DESCRIPTORS {
                let lap = (1 << 35) - 1 - u64::from(life / 50) + slot as u64 % 2;
                cx.view().set(space.geometry.descriptors_at + slot, (lap & ((1 << 35) - 1)) << reference::BLOCK_BITS | reference::NO_BLOCK);
            }
        }
        let log2 = [0, 5, 1, 4, 6][life as usize % 5];
        let cell = cx.new_channel(cell_kind::CHANNEL, Header::worlds, 0, log2, 0, 0).expect("there is room");
        cell.make_live(cx);
        let ring = cell.ring(cx).expect("a ring").expect("this life");
        let start = ring.head(cx);
        let mut bytes = Vec::new();
        for index in 0..ring.len() {
            assert_eq!(ring.read(cx, start + index, &mut bytes), Read::Empty, "life {life}");
        }
        for index in 0..3 {
            assert_eq!(publish(cx, &ring, index, || {}), Some(start + u64::from(index)), "life {life}");
            bytes.clear();
            assert!(matches!(ring.read(cx, start + u64::from(index), &mut bytes), Read::Got(_)), "life {life}");
            assert_eq!(bytes, [index]);
        }
        highest = highest.max(ring.head(cx));
        remove(cx, cell);
    }
    assert!(highest < 200 * 3 * 64, "sequences grow with what is published: {highest}");
}

#[test]
fn a_seal_that_comes_late_leaves_the_next_life_open() {
    let space = one_cell();
    let actor = Actor::new(0, 1);
    let cx = Context { space: &space, actor: &actor };
    let cell = create(cx);
    let ring = cell.ring(cx).expect("a ring").expect("this life");
    cell.retire(cx).expect("a ring");
    let next = std::cell::Cell::new(None);
    ring.seal(cx, || {
        // The channel was still over when we looked, and we are stopped right after.
        let first = next.get().is_none();
        if first {
            remove(cx, cell);
            next.set(Some(create(cx)));
        }
        first
    });
    let next = next.get().expect("it was asked");
    let ring = next.ring(cx).expect("a ring").expect("this life");
    let start = ring.head(cx);
    assert_eq!(publish(cx, &ring, 1, || {}), Some(start), "the next life was sealed");
}

#[test]
fn a_change_on_the_way_does_not_reach_the_next_life() {
    let space = one_cell();
    let actor = Actor::new(0, 1);
    let cx = Context { space: &space, actor: &actor };
    let cell = create(cx);
    let trie = cell.trie(cx, Channel::handles);
    let place = cx.space.hash(b"late").place();
    let mut next = None;
    let done = trie.change_record(place, b"late", |_| {
        // The group was looked at, and found empty; here we are stopped, and a life passes.
        next = next.take().or_else(|| {
            remove(cx, cell);
            Some(create(cx))
        });
        Ok((Change::Put(0, cx.new_record(trie.root, place, &Content::new(&[], b"late", &[]))?), ()))
    });
    assert_eq!(done.expect("sound"), None, "it was added to another channel");
    assert_eq!(next.expect("made").trie(cx, Channel::handles).live().expect("sound"), 0);
}

#[test]
fn groups_of_the_next_life_are_sealed_to_whoever_means_the_last() {
    let space = one_cell();
    let actor = Actor::new(0, 1);
    let cx = Context { space: &space, actor: &actor };
    let cell = create(cx);
    let stale = cell.trie(cx, Channel::handles);
    add(&stale, b"one").expect("open");
    assert_eq!(stale.live().expect("sound"), 1);
    let place = cx.space.hash(b"one").place();
    stale.change_record(place, b"one", |_| Ok((Change::Remove, ()))).expect("sound");
    remove(cx, cell);
    let next = create(cx);
    let handles = next.trie(cx, Channel::handles);
    assert_eq!(stale.root(), Root::Sealed);
    assert_eq!(add(&stale, b"two"), None, "added to another channel");
    assert_eq!(handles.live().expect("sound"), 0);
    assert!(stale.seal_if_empty(), "for the last life it is sealed");
    stale.seal_and_free(|| true);
    add(&handles, b"three").expect("still open");
    assert_eq!((stale.live().expect("sound"), handles.live().expect("sound")), (0, 1));
    assert_eq!(stale.get(cx.space.hash(b"three").place(), b"three").expect("sound").map(|_| ()), None, "found in another channel");
}
