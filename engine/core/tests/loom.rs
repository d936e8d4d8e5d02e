//! The ring, the arena and the trie under loom: every interleaving of two small threads, and every
//! value that the memory model lets a relaxed load see. The oracle is conservation and integrity.
//!
//! Run with `make test-loom`.
#![cfg(loom)]

use hypern_shm_core::arena::{Info, SMALL};
use hypern_shm_core::cells::Cell;
use hypern_shm_core::content::Content;
use hypern_shm_core::geometry::Geometry;
use hypern_shm_core::layout::{Block, Channel, Header, cell_kind, kind, reference, state};
use hypern_shm_core::ring::{Read, Ring};
use hypern_shm_core::space::{Actor, Context, Space};
use hypern_shm_core::sync::Ordering;
use hypern_shm_core::trie::{Change, PENDING, Root, Trie};
use loom::sync::Arc;
use loom::thread;

fn model(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 100_000;
    let runs = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = runs.clone();
    builder.check(move || {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        body();
    });
    println!("{} interleavings", runs.load(std::sync::atomic::Ordering::Relaxed));
}

/// A channel with a ring of 2^log2, on a segment of a few blocks. Without slots, here and below: nobody looks at them,
/// and loom makes every word anew for every interleaving.
fn channel(log2: u32, blocks: u32) -> (Arc<Space>, Cell) {
    let space = Space::boxed(Geometry::tiny(0, 1, 1, [blocks, 0, 0]));
    let actor = Actor::new(2, 1);
    let cell = Context { space: &space, actor: &actor }.new_channel(cell_kind::CHANNEL, Header::worlds, 0, log2, 0, 0).unwrap();
    (Arc::new(space), cell)
}

fn publish(cx: Context<'_>, ring: &Ring, payload: u64) -> u64 {
    let held = cx.store(Info::new(kind::BYTES, 0, 0, 0), u64::from(ring.cell), 0, &[], &payload.to_le_bytes()).unwrap();
    ring.publish(cx, held, |_| true, |_| true).unwrap().unwrap()
}

/// Reads what is there: (sequence, payload) pairs; every payload is whole.
fn read_from(cx: Context<'_>, ring: &Ring, from: u64, upto: u64) -> Vec<(u64, u64)> {
    let mut got = Vec::new();
    for sequence in from..upto {
        let mut bytes = Vec::new();
        match ring.read(cx, sequence, &mut bytes) {
            Read::Got(_) => got.push((sequence, u64::from_le_bytes(bytes.try_into().expect("a torn message")))),
            Read::Empty => break,
            Read::Lagged | Read::Evicted => {}
        }
    }
    got
}

#[test]
fn two_publishers_never_share_a_sequence() {
    model(3, || {
        let (space, cell) = channel(1, 4);
        let workers: Vec<_> = (0..2_u32)
            .map(|slot| {
                let space = space.clone();
                thread::spawn(move || {
                    let actor = Actor::new(slot, 1);
                    let cx = Context { space: &space, actor: &actor };
                    publish(cx, &cell.ring(cx).unwrap().unwrap(), 100 + u64::from(slot))
                })
            })
            .collect();
        let sequences: Vec<u64> = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
        assert_ne!(sequences[0], sequences[1]);
        let actor = Actor::new(2, 1);
        let cx = Context { space: &space, actor: &actor };
        let ring = cell.ring(cx).unwrap().unwrap();
        let start = ring.oldest(cx);
        let got = read_from(cx, &ring, start, start + 2);
        assert_eq!(got.len(), 2, "published but not there");
        for (slot, sequence) in sequences.into_iter().enumerate() {
            assert!(got.contains(&(sequence, 100 + slot as u64)));
        }
    });
}

#[test]
fn a_reader_sees_whole_messages_in_their_own_places() {
    // A ring of one slot and two blocks: every publish overwrites what is being read and reuses its block.
    model(3, || {
        let (space, cell) = channel(0, 2);
        let writer = {
            let space = space.clone();
            thread::spawn(move || {
                let actor = Actor::new(0, 1);
                let cx = Context { space: &space, actor: &actor };
                let ring = cell.ring(cx).unwrap().unwrap();
                let start = ring.oldest(cx);
                for i in 0..3 {
                    assert_eq!(publish(cx, &ring, 100 + i), start + i);
                }
            })
        };
        let reader = thread::spawn(move || {
            let actor = Actor::new(1, 1);
            let cx = Context { space: &space, actor: &actor };
            let ring = cell.ring(cx).unwrap().unwrap();
            let first = cx.view().get(cell.at() + Channel::start);
            for (sequence, payload) in read_from(cx, &ring, first, first + 3) {
                assert_eq!(payload, 100 + (sequence - first));
            }
        });
        reader.join().unwrap();
        writer.join().unwrap();
    });
}

#[test]
fn a_slow_publisher_does_not_overwrite_a_newer_message() {
    // A ring of one: between a publisher's two looks the other may have gone round.
    model(3, || {
        let (space, cell) = channel(0, 6);
        let there = space.clone();
        let publisher = thread::spawn(move || {
            let actor = Actor::new(0, 1);
            let cx = Context { space: &there, actor: &actor };
            publish(cx, &cell.ring(cx).unwrap().unwrap(), 100)
        });
        let actor = Actor::new(1, 1);
        let cx = Context { space: &space, actor: &actor };
        let ring = cell.ring(cx).unwrap().unwrap();
        let mut sequences = vec![publish(cx, &ring, 200), publish(cx, &ring, 201)];
        sequences.push(publisher.join().unwrap());
        sequences.sort_unstable();
        let start = cx.view().get(cell.at() + Channel::start);
        assert_eq!(sequences, [start, start + 1, start + 2]);
        assert_eq!(ring.head(cx), start + 3);
        assert_eq!(read_from(cx, &ring, start + 2, start + 3).len(), 1, "the newest message is not there");
    });
}

#[test]
fn a_block_freed_twice_is_freed_once() {
    // Both know the first life; the second, claimed in between, is somebody else's.
    model(3, || {
        let (space, _) = channel(0, 1);
        let actor = Actor::new(2, 1);
        let first = Context { space: &space, actor: &actor }.allocate(SMALL).unwrap();
        let there = space.clone();
        let other = thread::spawn(move || {
            let actor = Actor::new(0, 1);
            Context { space: &there, actor: &actor }.free(first.reference)
        });
        let actor = Actor::new(1, 1);
        let cx = Context { space: &space, actor: &actor };
        let freed = cx.free(first.reference);
        let second = cx.allocate(SMALL);
        assert!(freed ^ other.join().unwrap(), "freed by both or by nobody");
        if let Ok(second) = second {
            assert!(cx.life(second.reference).is_some(), "the next life was freed");
        }
    });
}

#[test]
fn what_is_published_beside_a_seal_is_there_when_it_returns() {
    model(3, || {
        let (space, cell) = channel(1, 4);
        cell.make_live(Context { space: &space, actor: &Actor::new(2, 1) });
        let there = space.clone();
        let publisher = thread::spawn(move || {
            let actor = Actor::new(0, 1);
            let cx = Context { space: &there, actor: &actor };
            let ring = cell.ring(cx).unwrap().unwrap();
            let held = cx.store(Info::new(kind::BYTES, 0, 0, 0), u64::from(ring.cell), 0, &[], &7_u64.to_le_bytes()).unwrap();
            ring.publish(cx, held, |_| true, |_| true).unwrap().is_some()
        });
        let actor = Actor::new(1, 1);
        let cx = Context { space: &space, actor: &actor };
        cell.retire(cx).unwrap();
        // From here on a receiver that has read up to the head has read everything.
        let ring = cell.ring(cx).unwrap().unwrap();
        let end = ring.head(cx);
        let published = publisher.join().unwrap();
        assert_eq!(ring.head(cx), end, "published after the seal");
        assert_eq!(published, end > cx.view().get(cell.at() + Channel::start));
    });
}

#[test]
fn nothing_is_missed_in_a_ring_that_is_long_enough() {
    model(3, || {
        let (space, cell) = channel(1, 4);
        let writer = {
            let space = space.clone();
            thread::spawn(move || {
                let actor = Actor::new(0, 1);
                let cx = Context { space: &space, actor: &actor };
                let ring = cell.ring(cx).unwrap().unwrap();
                publish(cx, &ring, 100);
                publish(cx, &ring, 101);
            })
        };
        let shared = space.clone();
        let reader = thread::spawn(move || {
            let actor = Actor::new(1, 1);
            let cx = Context { space: &shared, actor: &actor };
            let ring = cell.ring(cx).unwrap().unwrap();
            let start = cx.view().get(cell.at() + Channel::start);
            let mut cursor = start;
            let mut bytes = Vec::new();
            for _ in 0..3 {
                bytes.clear();
                match ring.read(cx, cursor, &mut bytes) {
                    Read::Got(_) => {
                        assert_eq!(bytes, (100 + (cursor - start)).to_le_bytes());
                        cursor += 1;
                    }
                    Read::Empty => {}
                    other => panic!("{other:?} of a message that nobody overwrote"),
                }
            }
            (start, cursor)
        });
        let (start, cursor) = reader.join().unwrap();
        writer.join().unwrap();
        let actor = Actor::new(2, 1);
        let cx = Context { space: &space, actor: &actor };
        let ring = cell.ring(cx).unwrap().unwrap();
        assert_eq!(read_from(cx, &ring, cursor, start + 2).len() as u64, start + 2 - cursor, "received + read = published");
    });
}

/// Puts the record of a key of its own into the trie: as the first, where it finds it empty and is asked to.
fn insert(cx: Context<'_>, key: u32, as_the_first: bool) -> u64 {
    let trie = Trie::new(cx, Header::worlds);
    let (name, place) = (u64::from(key).to_le_bytes(), u64::from(key + 1) << 4);
    let content = Content::new(&[], &name, &name);
    if as_the_first {
        let held = cx.new_record(trie.root, place, &content).unwrap();
        if trie.put_first(&held) {
            return held.reference;
        }
        assert!(cx.free(held.reference));
    }
    let put = trie.change_record(place, &name, |found| {
        assert!(found.is_none());
        let held = cx.new_record(trie.root, place, &content)?;
        Ok((Change::Put(0, held), held.reference))
    });
    put.unwrap().unwrap()
}

#[test]
fn an_only_entry_beside_another_that_comes() {
    model(2, || {
        let space = Arc::new(Space::boxed(Geometry::tiny(0, 1, 1, [8, 0, 0])));
        let other = {
            let space = space.clone();
            thread::spawn(move || {
                let actor = Actor::new(0, 1);
                insert(Context { space: &space, actor: &actor }, 0, true)
            })
        };
        let actor = Actor::new(1, 1);
        let cx = Context { space: &space, actor: &actor };
        let trie = Trie::new(cx, Header::worlds);
        let reference = insert(cx, 1, true);
        // It is alone, or not: one of both ways takes it out.
        if !trie.remove_lone(reference) {
            assert!(trie.remove(2 << 4, |value| Some(value == reference)).unwrap(), "it was there");
        }
        let left = other.join().unwrap();
        assert_eq!(trie.find(1 << 4, |value| Some(value == left)).unwrap().map(|entry| entry.value), Some(left), "a lost update");
        assert_eq!(trie.live().unwrap(), 1);
        assert_eq!(cx.free_blocks(), if trie.root() == Root::Page(left) { 8 - 1 } else { 8 - 2 }, "a record, and a page if there were two");
    });
}

#[test]
fn two_inserts_into_one_trie_are_both_there() {
    model(2, || {
        let space = Arc::new(Space::boxed(Geometry::tiny(0, 1, 1, [8, 0, 0])));
        let workers: Vec<_> = (0..2_u32)
            .map(|slot| {
                let space = space.clone();
                thread::spawn(move || {
                    let actor = Actor::new(slot, 1);
                    let cx = Context { space: &space, actor: &actor };
                    insert(cx, slot, false);
                })
            })
            .collect();
        for worker in workers {
            worker.join().unwrap();
        }
        let actor = Actor::new(2, 1);
        let cx = Context { space: &space, actor: &actor };
        assert_eq!(Trie::new(cx, Header::worlds).live().unwrap(), 2, "a lost update");
        assert_eq!(cx.free_blocks(), 8 - 3, "two records and a page; nothing else is held");
    });
}

/// Flags of a group's only entry: without any the root names its record, with one there is a page.
const ALONE_AND_ON_A_PAGE: [u64; 2] = [0, PENDING];

#[test]
fn a_listing_beside_a_replacement_sees_one_of_both() {
    for flags in ALONE_AND_ON_A_PAGE {
        model(2, move || {
            let space = Arc::new(Space::boxed(Geometry::tiny(0, 1, 1, [6, 0, 0])));
            let put = move |cx: Context<'_>, value: u64| {
                let trie = Trie::new(cx, Header::worlds);
                let value = value.to_le_bytes();
                let content = Content::new(&[], b"key", &value);
                trie.change_record(16, b"key", |_| Ok((Change::Put(flags, cx.new_record(trie.root, 16, &content)?), ()))).unwrap();
            };
            let actor = Actor::new(2, 1);
            put(Context { space: &space, actor: &actor }, 7);
            let writer = {
                let space = space.clone();
                thread::spawn(move || {
                    let actor = Actor::new(0, 1);
                    put(Context { space: &space, actor: &actor }, 8);
                    put(Context { space: &space, actor: &actor }, 9);
                })
            };
            let reader = thread::spawn(move || {
                let actor = Actor::new(1, 1);
                let trie = Trie::new(Context { space: &space, actor: &actor }, Header::worlds);
                let (_, record) = trie.get(16, b"key").unwrap().expect("the key is always there");
                let value = u64::from_le_bytes(record.value().try_into().expect("a torn record"));
                assert!((7..=9).contains(&value));
            });
            reader.join().unwrap();
            writer.join().unwrap();
        });
    }
}

#[test]
fn a_listing_never_shows_another_groups_page() {
    for flags in ALONE_AND_ON_A_PAGE {
        model(3, move || {
            let space = Space::boxed(Geometry::tiny(0, 1, 1, [5, 0, 0]));
            let space = Arc::new(space);
            let add = move |cx: Context<'_>, root: usize, key: &[u8]| {
                let trie = Trie::new(cx, root);
                trie.change_record(16, key, |_| Ok((Change::Put(flags, cx.new_record(root, 16, &Content::new(&[], key, &[]))?), ())))
                    .unwrap();
            };
            let first = Header::worlds;
            let second = space.geometry.cells_at + Channel::subscribers;
            let actor = Actor::new(2, 1);
            let cx = Context { space: &space, actor: &actor };
            cx.word(second).store(space.fresh_empty(), Ordering::Release);
            add(cx, first, b"ours");
            let writer = {
                let space = space.clone();
                thread::spawn(move || {
                    let actor = Actor::new(0, 1);
                    let cx = Context { space: &space, actor: &actor };
                    // What is freed last is taken again first, but for one block: with that out of the way, record becomes
                    // record, and page becomes page.
                    let spare = cx.allocate(SMALL).unwrap();
                    assert!(cx.free(spare.reference));
                    Trie::new(cx, first).change_record(16, b"ours", |_| Ok((Change::Remove, ()))).unwrap();
                    cx.allocate(SMALL).unwrap();
                    add(cx, second, b"theirs");
                })
            };
            let reader = thread::spawn(move || {
                let actor = Actor::new(1, 1);
                let mut names = Vec::new();
                Trie::new(Context { space: &space, actor: &actor }, first).records(|_, record| names.push(record.name())).unwrap();
                assert!(names.is_empty() || names == ["ours"], "{names:?}");
            });
            reader.join().unwrap();
            writer.join().unwrap();
        });
    }
}

#[test]
fn a_scavenger_beside_an_insert_takes_nothing_of_it() {
    for flags in ALONE_AND_ON_A_PAGE {
        model(3, move || {
            let space = Arc::new(Space::boxed(Geometry::tiny(0, 1, 1, [3, 0, 0])));
            let there = space.clone();
            let scavenger = thread::spawn(move || {
                let actor = Actor::new(0, 1);
                let cx = Context { space: &there, actor: &actor };
                let trie = Trie::new(cx, Header::worlds);
                // What `reap` does with each block: LIVE and referred to by nothing is lost.
                for block in 0..3 {
                    let (_, at) = there.geometry.block(block).unwrap();
                    let word = cx.word(at).load(Ordering::Acquire);
                    if state::of(word) != state::LIVE {
                        continue;
                    }
                    let reference = reference::to(word, block);
                    let (back, ident) = (cx.view().get(at + Block::back), cx.view().get(at + Block::ident));
                    let known = match Info(cx.view().get(at + Block::info)).kind() {
                        kind::RECORD => trie.has_value(ident & !0xf, reference),
                        _ => trie.has_page(reference, (back & 0xff) as u32, ident),
                    };
                    if !known.unwrap() {
                        cx.free(reference);
                    }
                }
            });
            let actor = Actor::new(1, 1);
            let cx = Context { space: &space, actor: &actor };
            let trie = Trie::new(cx, Header::worlds);
            trie.change_record(16, b"key", |_| {
                Ok((Change::Put(flags, cx.new_record(trie.root, 16, &Content::new(&[], b"key", &[]))?), ()))
            })
            .unwrap();
            scavenger.join().unwrap();
            assert!(trie.get(16, b"key").unwrap().is_some(), "the scavenger took it");
        });
    }
}
