//! The ring, the arena, the trie and the doorbell under shuttle: three to five threads and many more steps than loom
//! can search, in random interleavings. Two schedulers: one chooses any thread at each step, the other (probabilistic
//! concurrency testing) lets one thread run on and changes its mind a few times, which finds what needs a long sleep
//! at one place. The oracle is conservation, and that nothing is used after it was freed.
//!
//! Interleavings only: here every load sees the last store. What weaker orderings allow is loom's to find
//! (`loom.rs`, `loom_doorbell.rs`), with fewer threads.
//!
//! Run with `make test-shuttle`; a failure is repeated by `SEED=… ROUNDS=… make test-shuttle` as printed.
#![cfg(shuttle)]

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};

use hypern_shm_core::arena::{Info, SMALL};
use hypern_shm_core::cells::Cell;
use hypern_shm_core::content::Content;
use hypern_shm_core::directory::Directory;
use hypern_shm_core::doorbell::Bell;
use hypern_shm_core::geometry::Geometry;
use hypern_shm_core::layout::{Block, Channel, Group, Header, World, cell_kind, kind, state};
use hypern_shm_core::owned::{Dead, Departure};
use hypern_shm_core::reap::{scavenge, settle};
use hypern_shm_core::record::Record;
use hypern_shm_core::relief::model::{Listener, new_channel};
use hypern_shm_core::ring::{Read, Ring};
use hypern_shm_core::space::{Actor, Context, Ringer, Space};
use hypern_shm_core::sync::{AtomicU64, Ordering};
use hypern_shm_core::trie::{Change, Trie};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::sync::{Arc, Condvar, Mutex};
use shuttle::{Config, Runner, thread};

/// Executions of each test under each scheduler, unless ROUNDS says how many.
const ROUNDS: usize = 800;
/// Changes of mind of the second scheduler.
const DEPTH: usize = 4;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|value| value.parse().expect("a number"))
}

/// Runs a body under both schedulers, with a seed that is printed.
fn explore(body: impl Fn() + Send + Sync + Clone + 'static) {
    explore_often(1, body);
}

/// As `explore`, so many times as often: for short bodies that look for something rare.
fn explore_often(often: usize, body: impl Fn() + Send + Sync + Clone + 'static) {
    let seed = number("SEED").unwrap_or_else(|| RandomState::new().hash_one("seed") >> 32);
    let rounds = number("ROUNDS").map_or(ROUNDS, |rounds| rounds as usize);
    println!("SEED={seed} ROUNDS={rounds}");
    let rounds = rounds * often;
    let mut config = Config::new();
    config.stack_size = 1 << 19;
    config.silence_warnings = true;
    Runner::new(RandomScheduler::new_from_seed(seed, rounds), config.clone()).run(body.clone());
    Runner::new(PctScheduler::new_from_seed(seed, DEPTH, rounds), config).run(body);
}

/// A thread that acts as the process in a slot.
fn act<T: Send + 'static>(space: &Arc<Space>, slot: u32, body: impl FnOnce(Context<'_>) -> T + Send + 'static) -> thread::JoinHandle<T> {
    let space = space.clone();
    thread::spawn(move || {
        let actor = Actor::new(slot, 1);
        body(Context { space: &space, actor: &actor })
    })
}

/// The last to act, when all others are done.
fn at_the_end<T>(space: &Space, body: impl FnOnce(Context<'_>) -> T) -> T {
    let actor = Actor::new(9, 1);
    body(Context { space, actor: &actor })
}

fn channel(log2: u32, blocks: u32) -> (Arc<Space>, Cell) {
    let space = Space::boxed(Geometry::tiny(10, 2, 2, [blocks, 0, 0]));
    let cell = at_the_end(&space, |cx| {
        let cell = cx.new_channel(cell_kind::CHANNEL, Header::worlds, 0, log2, 0, 0).unwrap();
        cell.make_live(cx);
        cell
    });
    (Arc::new(space), cell)
}

/// As `channel`, with a name: a scavenger takes one without for one whose creator died.
fn named_channel(log2: u32, blocks: u32) -> (Arc<Space>, Cell) {
    let space = Arc::new(Space::boxed(Geometry::tiny(10, 2, 2, [blocks, 0, 0])));
    let cell = at_the_end(&space, |cx| {
        let make = |place| cx.new_channel(cell_kind::CHANNEL, Header::worlds, place, log2, 0, 0);
        Directory::new(cx, Header::worlds).insert("a channel", &[], make).unwrap().expect("the name is free")
    });
    (space, cell)
}

/// A message of so many words, all of which are the same number.
fn publish(cx: Context<'_>, cell: Cell, ring: &Ring, number: u64, words: usize) -> Option<u64> {
    let body = number.to_le_bytes().repeat(words);
    let held = cx.store(Info::new(kind::BYTES, 0, 0, 0), u64::from(ring.cell), 0, &[], &body).unwrap();
    // As `Channels::publish`: the look at the cell comes after the head was read, so it is that life's head.
    let published = ring.publish(cx, held, |word| cell.is_open_as(word), |_| true).unwrap();
    if published.is_none() {
        cx.free(held.reference);
    }
    published
}

fn content(bytes: &[u8]) -> u64 {
    let words: Vec<&[u8]> = bytes.chunks(8).collect();
    assert!(words.iter().all(|word| *word == words[0]), "a torn message");
    u64::from_le_bytes(words[0].try_into().expect("a torn message"))
}

/// A receiver: where it is, what it got, and how much it missed.
struct Reader {
    cursor: u64,
    got: BTreeMap<u64, u64>,
    missed: u64,
}

impl Reader {
    fn at(cursor: u64) -> Reader {
        Reader { cursor, got: BTreeMap::new(), missed: 0 }
    }

    /// One look. False: there is nothing yet.
    fn look(&mut self, cx: Context<'_>, ring: &Ring) -> bool {
        let mut bytes = Vec::new();
        match ring.read(cx, self.cursor, &mut bytes) {
            Read::Got(_) => {
                self.got.insert(self.cursor, content(&bytes));
                self.cursor += 1;
            }
            Read::Empty => return false,
            Read::Lagged => {
                let next = ring.oldest(cx).max(self.cursor + 1);
                self.missed += next - self.cursor;
                self.cursor = next;
            }
            Read::Evicted => {
                self.missed += 1;
                self.cursor += 1;
            }
        }
        true
    }
}

/// Publishers and readers of one ring; then every sequence is accounted for, in every reader.
fn publish_and_read(log2: u32, blocks: u32, publishers: u32, each: u64, readers: u32, words: usize) {
    let (space, cell) = channel(log2, blocks);
    let writing: Vec<_> = (0..publishers)
        .map(|slot| {
            act(&space, slot, move |cx| {
                let ring = cell.ring(cx).unwrap().unwrap();
                // Those of the first publisher are long: a chain where a block does not hold them.
                let words = if slot == 0 { words } else { 1 };
                let number = |serial| u64::from(slot) << 32 | serial;
                (0..each).map(|serial| (publish(cx, cell, &ring, number(serial), words).unwrap(), number(serial))).collect::<Vec<_>>()
            })
        })
        .collect();
    let reading: Vec<_> = (publishers..publishers + readers)
        .map(|slot| {
            act(&space, slot, move |cx| {
                let ring = cell.ring(cx).unwrap().unwrap();
                let mut reader = Reader::at(cx.view().get(cell.at() + Channel::start));
                for _ in 0..each * 2 {
                    reader.look(cx, &ring);
                }
                reader
            })
        })
        .collect();
    let published: Vec<(u64, u64)> = writing.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    let total = u64::from(publishers) * each;
    at_the_end(&space, |cx| {
        let ring = cell.ring(cx).unwrap().unwrap();
        let start = cx.view().get(cell.at() + Channel::start);
        let by_sequence: BTreeMap<u64, u64> = published.iter().copied().collect();
        assert!(by_sequence.keys().copied().eq(start..start + total), "a sequence is shared or left out");
        assert_eq!(ring.head(cx), start + total);
        for thread in reading {
            let mut reader = thread.join().unwrap();
            while reader.look(cx, &ring) {}
            assert_eq!(reader.got.len() as u64 + reader.missed, total, "received + missed = published");
            for (sequence, number) in reader.got {
                assert_eq!(by_sequence.get(&sequence), Some(&number), "a message in another's place");
            }
        }
        for publisher in 0..u64::from(publishers) {
            let serials: Vec<u64> = by_sequence.values().filter(|&&number| number >> 32 == publisher).copied().collect();
            assert!(serials.is_sorted(), "reordered");
        }
        let mut retained = 0;
        for sequence in ring.oldest(cx)..start + total {
            retained += u64::from(ring.block_at(cx, sequence).is_some());
        }
        let long = (0..u64::from(blocks)).filter(|&block| is(cx, block as u32, state::CONT)).count() as u64;
        assert_eq!(cx.free_blocks() + retained + long, u64::from(blocks), "a block is lost, or in use and free");
    });
}

fn is(cx: Context<'_>, block: u32, wanted: u64) -> bool {
    let (_, at) = cx.space.geometry.block(block).unwrap();
    state::of(cx.word(at).load(Ordering::Acquire)) == wanted
}

#[test]
fn laps_are_accounted_for() {
    explore(|| publish_and_read(1, 10, 3, 4, 2, 1));
}

#[test]
fn chains_are_whole_and_come_back() {
    // 40 words do not fit a block of 256 bytes: chains of two, on a ring that is lapped four times.
    explore(|| publish_and_read(1, 14, 2, 4, 2, 40));
}

#[test]
fn a_full_arena_gives_up_history_and_nothing_else() {
    // Five blocks for a ring of eight: each publish evicts, while others publish and read.
    explore(|| publish_and_read(3, 5, 3, 4, 1, 1));
}

#[test]
fn a_slow_publisher_does_not_overwrite_a_newer_message() {
    explore(|| publish_and_read(0, 8, 3, 3, 1, 1));
}

#[test]
fn a_block_is_in_one_owners_hands() {
    // Six blocks, four takers of up to two each, who free some twice and name lives that are over.
    explore(|| {
        let space = Arc::new(Space::boxed(Geometry::tiny(10, 1, 1, [6, 0, 0])));
        let stale = Arc::new(AtomicU64::new(0));
        let takers: Vec<_> = (0..4_u32)
            .map(|slot| {
                let stale = stale.clone();
                act(&space, slot, move |cx| {
                    for turn in 0..4_u64 {
                        let Ok(held) = cx.allocate(SMALL) else {
                            continue;
                        };
                        let mark = u64::from(slot) << 32 | turn;
                        held.fill(Info::new(kind::BYTES, 0, 0, 8), 0, 0);
                        held.set(Block::WORDS, mark);
                        // Somebody's earlier life, freed by who holds none of it.
                        let over = stale.load(Ordering::Acquire);
                        assert!(over == 0 || !cx.free(over), "freed twice");
                        assert_eq!(held.words[Block::WORDS].load(Ordering::Relaxed), mark, "written by another");
                        assert!(cx.life(held.reference).is_some(), "freed by another");
                        assert!(cx.free(held.reference), "freed by another");
                        stale.store(held.reference, Ordering::Release);
                    }
                })
            })
            .collect();
        takers.into_iter().for_each(|taker| taker.join().unwrap());
        assert_eq!(at_the_end(&space, |cx| cx.free_blocks()), 6);
    });
}

fn put(trie: &Trie<'_>, key: u64, value: u64) {
    let (name, value) = (key.to_le_bytes(), value.to_le_bytes());
    let content = Content::new(&[], &name, &value);
    let place = place(key);
    trie.change_record(place, &key.to_le_bytes(), |_| Ok((Change::Put(0, trie.cx.new_record(trie.root, place, &content)?), ()))).unwrap();
}

/// True: it was there.
fn remove(trie: &Trie<'_>, key: u64) -> bool {
    let removed = trie.change_record(place(key), &key.to_le_bytes(), |found| {
        Ok((if found.is_some() { Change::Remove } else { Change::Keep }, found.is_some()))
    });
    removed.unwrap().unwrap()
}

/// Few keys, which share the first half of their place: leaves split and inner pages shrink early.
fn place(key: u64) -> u64 {
    key << 28
}

fn number_in(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("a torn record"))
}

fn listed(trie: &Trie<'_>) -> BTreeMap<u64, u64> {
    let mut all = BTreeMap::new();
    trie.records(|_, record: &Record| {
        let twice = all.insert(number_in(record.key()), number_in(record.value()));
        assert_eq!(twice, None, "listed twice");
    })
    .unwrap();
    all
}

#[test]
fn a_trie_beside_listings_and_scavengers_loses_nothing() {
    // Thirteen keys fill a leaf and one more: it splits and grows together again under everybody's eyes.
    const COMMON: u64 = 11;
    explore(|| {
        let space = Arc::new(Space::boxed(Geometry::tiny(10, 1, 1, [120, 0, 0])));
        at_the_end(&space, |cx| (0..COMMON).for_each(|key| put(&Trie::new(cx, Header::worlds), key, key)));
        let changing: Vec<_> = (0..2_u64)
            .map(|who| {
                act(&space, who as u32, move |cx| {
                    let trie = Trie::new(cx, Header::worlds);
                    let own = 100 + who;
                    for turn in 0..2 {
                        put(&trie, own, turn);
                        put(&trie, who, who + 1000 * (turn + 1));
                        assert!(remove(&trie, own), "a lost insert");
                    }
                    put(&trie, own, 7);
                })
            })
            .collect();
        let listing = act(&space, 2, |cx| {
            let trie = Trie::new(cx, Header::worlds);
            for _ in 0..2 {
                let all = listed(&trie);
                assert!((0..COMMON).all(|key| all.contains_key(&key)), "what is always there was not listed: {all:?}");
                assert!(all.iter().all(|(&key, &value)| key >= COMMON || value % 1000 == key), "{all:?}");
                assert!(trie.live().unwrap() >= COMMON);
            }
        });
        let scavenging = act(&space, 3, |cx| scavenge(cx, &|_| false).map(drop).unwrap());
        for thread in changing.into_iter().chain([listing, scavenging]) {
            thread.join().unwrap();
        }
        at_the_end(&space, |cx| {
            let trie = Trie::new(cx, Header::worlds);
            let mut expected: BTreeMap<u64, u64> = (0..COMMON).map(|key| (key, if key < 2 { 2000 + key } else { key })).collect();
            expected.extend([(100, 7), (101, 7)]);
            assert_eq!(listed(&trie), expected, "a lost update");
            assert_eq!(trie.live().unwrap(), expected.len() as u64);
            let in_use = 120 - cx.free_blocks();
            for key in expected.into_keys() {
                assert!(remove(&trie, key));
            }
            assert_eq!(cx.free_blocks(), 120, "{in_use} were in use before the last removals");
        });
    });
}

#[test]
fn a_listing_never_shows_another_groups_page() {
    // Blocks are few, so that the page of one group is soon a page of the other.
    explore_often(8, || {
        let space = Arc::new(Space::boxed(Geometry::tiny(10, 1, 1, [6, 0, 0])));
        let second = space.geometry.cells_at + Channel::subscribers;
        at_the_end(&space, |cx| cx.word(second).store(space.fresh_empty(), Ordering::Release));
        let changing = [(Header::worlds, 1_u64), (second, 2)].map(|(root, key)| {
            act(&space, key as u32, move |cx| {
                let trie = Trie::new(cx, root);
                for turn in 0..3 {
                    put(&trie, key, turn);
                    remove(&trie, key);
                }
            })
        });
        let listing = act(&space, 3, move |cx| {
            for _ in 0..3 {
                let trie = Trie::new(cx, Header::worlds);
                let keys: Vec<u64> = listed(&trie).into_keys().collect();
                assert!(keys.is_empty() || keys == [1], "{keys:?}");
                let mut places = Vec::new();
                trie.entries(|entry| places.push(entry.place())).unwrap();
                assert!(places.is_empty() || places == [place(1)], "{places:x?}");
            }
        });
        for thread in changing.into_iter().chain([listing]) {
            thread.join().unwrap();
        }
        assert_eq!(at_the_end(&space, |cx| cx.free_blocks()), 6);
    });
}

#[test]
fn what_the_dead_held_is_settled_once_beside_the_living() {
    // Two reapers at once settle and scavenge for a process that died in the middle, while the living go on.
    explore(|| {
        const DEAD: u32 = 8;
        let (space, cell) = named_channel(1, 24);
        act(&space, DEAD, move |cx| {
            let ring = cell.ring(cx).unwrap().unwrap();
            publish(cx, cell, &ring, 1, 1);
            // A handle of its own, a block in its hands, and a chain without its end.
            let handles = cell.trie(cx, Channel::handles);
            let owners = [cx.actor.owner];
            let content = Content::new(&owners, b"dead", &[]);
            handles
                .change_record(place(3), b"dead", |_| Ok((Change::Put(0, cx.new_record(handles.root, place(3), &content)?), ())))
                .unwrap();
            cx.allocate(SMALL).unwrap();
            cx.store(Info::new(kind::BYTES, 0, 0, 0), u64::from(cell.number()), 0, &[], &[1; 400]).unwrap();
        })
        .join()
        .unwrap();
        let owner = Actor::new(DEAD, 1).owner;
        let reaping = [0, 1].map(|slot| {
            act(&space, slot, move |cx| {
                settle(cx, &Dead { owners: &[owner], departure: Departure::Crash }).unwrap();
                scavenge(cx, &|slot| slot == u64::from(DEAD)).unwrap();
            })
        });
        let living = act(&space, 2, move |cx| {
            let ring = cell.ring(cx).unwrap().unwrap();
            for number in 2..5 {
                publish(cx, cell, &ring, number, 30).unwrap();
            }
            let handles = cell.trie(cx, Channel::handles);
            put(&handles, 7, 7);
        });
        for thread in reaping.into_iter().chain([living]) {
            thread.join().unwrap();
        }
        at_the_end(&space, |cx| {
            let handles = cell.trie(cx, Channel::handles);
            assert_eq!(handles.live().unwrap(), 1, "the dead one's handle, or more");
            assert!(remove(&handles, 7), "the living one's handle is gone");
            assert_eq!(Directory::new(cx, Header::worlds).remove("a channel", None).unwrap(), Some(cell), "it lost its name");
            cell.retire(cx).unwrap();
            cell.clear_if_unused(cx).unwrap();
            assert_eq!(cx.free_blocks(), 24, "a block of the dead is lost");
        });
    });
}

#[test]
fn a_life_of_a_channel_ends_while_others_publish_and_the_next_begins_in_its_place() {
    explore(|| {
        let (space, cell) = channel(1, 16);
        let publishing = [0, 1].map(|slot| {
            act(&space, slot, move |cx| {
                let Some(ring) = cell.ring(cx).unwrap() else {
                    return 0;
                };
                (0..3).filter(|&serial| publish(cx, cell, &ring, u64::from(slot) << 32 | serial, 1).is_some()).count()
            })
        });
        let turning = act(&space, 2, move |cx| {
            let start = cx.view().get(cell.at() + Channel::start);
            cell.retire(cx).unwrap();
            let ended = cell.ring(cx).unwrap().unwrap().head(cx) - start;
            cell.clear_if_unused(cx).unwrap();
            // The cursor goes round the two cells: the second is the place of the first.
            let spare = cx.new_channel(cell_kind::CHANNEL, Header::worlds, 0, 1, 0, 0).unwrap();
            let next = cx.new_channel(cell_kind::CHANNEL, Header::worlds, 0, 1, 0, 0).unwrap();
            next.make_live(cx);
            let ring = next.ring(cx).unwrap().unwrap();
            let first = publish(cx, next, &ring, 77, 1).unwrap();
            (ended, spare, next, first)
        });
        let published: u64 = publishing.into_iter().map(|thread| thread.join().unwrap() as u64).sum();
        let (ended, spare, next, first) = turning.join().unwrap();
        assert_eq!(published, ended, "published after the seal, or not there when it returned");
        at_the_end(&space, |cx| {
            let places = [spare.number(), next.number()];
            assert!(places.contains(&cell.number()), "the place was not taken again: {places:?}");
            let ring = next.ring(cx).unwrap().unwrap();
            assert_eq!(cx.view().get(next.at() + Channel::start), first);
            assert_eq!(ring.head(cx), first + 1, "a sleeper of the last life published in this one");
            let mut reader = Reader::at(first);
            while reader.look(cx, &ring) {}
            assert_eq!(reader.got.into_iter().collect::<Vec<_>>(), [(first, 77)]);
            next.retire(cx).unwrap();
            next.clear_if_unused(cx).unwrap();
            // What a sleeper put into a prepared ring is the scavenger's.
            scavenge(cx, &|_| true).unwrap();
            assert_eq!(cx.free_blocks(), 16);
        });
    });
}

#[test]
fn a_unit_is_in_one_channels_hands() {
    // Two remove a channel and give it back while two others want the only unit there is, which makes them give it back, too.
    explore_often(4, || {
        let space = Arc::new(Space::boxed(Geometry::tiny(10, 3, 1, [8, 0, 0])));
        let cell = at_the_end(&space, |cx| {
            let cell = cx.new_channel(cell_kind::CHANNEL, Header::worlds, 0, 1, 0, 0).unwrap();
            cell.make_live(cx);
            cell
        });
        let clearing = [0, 1].map(|slot| {
            act(&space, slot, move |cx| {
                cell.retire(cx).unwrap();
                cell.clear_if_unused(cx).unwrap();
            })
        });
        let creating = [2, 3].map(|slot| {
            act(&space, slot, move |cx| {
                let made = new_channel(cx, Header::worlds, 0).ok()?;
                made.make_live(cx);
                Some(made)
            })
        });
        clearing.into_iter().for_each(|thread| thread.join().unwrap());
        let made: Vec<Cell> = creating.into_iter().filter_map(|thread| thread.join().unwrap()).collect();
        at_the_end(&space, |cx| {
            let unit = cx.word(space.geometry.units_at).load(Ordering::Acquire);
            assert!(made.len() < 2, "two channels have one ring: {made:?}");
            assert_eq!(state::of(unit) == state::LIVE, !made.is_empty(), "taken from who had it");
            let closed = (0..2).any(|slot| cx.word(space.geometry.descriptors_at + slot).load(Ordering::Acquire) >> 63 == 1);
            assert!(made.is_empty() || !closed, "closed by who sealed the channel before");
        });
    });
}

#[test]
fn what_is_given_up_is_counted_once() {
    // Two want rings where removed channels have them all, one of which is removed only now; one owner looks meanwhile,
    // the other at the end; a creator on its way makes a late handle. Each message is received or given up, in each one's name.
    explore_often(2, || {
        let space = Arc::new(Space::boxed(Geometry::tiny(10, 6, 3, [64, 0, 0])));
        let (world, channels, ada, bob, cyd) = at_the_end(&space, |cx| {
            let world = cx.new_cell(cell_kind::WORLD, Header::worlds, 0).unwrap();
            world.make_live(cx);
            let [ada, bob, cyd] = ["ada", "bob", "cyd"].map(|client| Listener::register(cx, world, client).unwrap());
            let channels = [1, 2, 3].map(|order| {
                let cell = cx.new_channel(cell_kind::CHANNEL, world.at() + World::channels, order, 1, 0, 0).unwrap();
                cx.view().set(cell.at() + Channel::order, order);
                for listener in [&ada, &bob] {
                    assert!(listener.anchor(cx, cell, true).unwrap());
                }
                cell.make_live(cx);
                let ring = cell.ring(cx).unwrap().unwrap();
                // 1, 10 and 100 of them: the sum says which are missing, or counted twice.
                for number in 0..10_u64.pow(order as u32 - 1) {
                    publish(cx, cell, &ring, number, 1).unwrap();
                }
                if order != 2 {
                    cell.retire(cx).unwrap();
                }
                cell
            });
            (world, channels, ada, bob, cyd)
        });
        let removing = act(&space, 0, move |cx| {
            let ring = channels[1].ring(cx).unwrap().unwrap();
            let published = publish(cx, channels[1], &ring, 0, 1);
            channels[1].retire(cx).unwrap();
            channels[1].clear_if_unused(cx).unwrap();
            u64::from(published.is_some())
        });
        let creating = [1, 2].map(|slot| {
            act(&space, slot, move |cx| {
                let made = new_channel(cx, world.at() + World::channels, 9).ok()?;
                made.make_live(cx);
                Some(made)
            })
        });
        let looking = {
            let ada = ada.clone();
            act(&space, 3, move |cx| channels.map(|cell| ada.look(cx, cell).unwrap()).iter().sum::<u64>())
        };
        let late = {
            let cyd = cyd.clone();
            act(&space, 4, move |cx| cyd.anchor(cx, channels[0], false).unwrap())
        };
        let published = 111 + removing.join().unwrap();
        let mut of_ada = looking.join().unwrap();
        let made: Vec<Cell> = creating.into_iter().filter_map(|thread| thread.join().unwrap()).collect();
        let late = late.join().unwrap();
        at_the_end(&space, |cx| {
            // Late: its owner may have received the channel already, so it is never given up.
            assert_eq!(cyd.look(cx, channels[0]).unwrap(), u64::from(late), "given up under a late handle");
            assert_eq!(cyd.given_up(cx).unwrap(), 0);
            let mut of_bob = 0;
            for cell in channels {
                of_ada += ada.look(cx, cell).unwrap();
                of_bob += bob.look(cx, cell).unwrap();
                assert!(!cell.is_same_life(cx), "it is kept for nobody");
            }
            for (listener, received) in [(ada, of_ada), (bob, of_bob)] {
                let given_up = listener.given_up(cx).unwrap();
                assert_eq!(received + given_up, published, "received {received}, given up {given_up}: {listener:?}");
            }
            for cell in made {
                assert_eq!(cx.view().get(cell.at() + Channel::dropped), 0, "counted as dropped by another channel");
                cell.retire(cx).unwrap();
                cell.clear_if_unused(cx).unwrap();
            }
            scavenge(cx, &|_| true).unwrap();
            // The world's registrations: a page and three records.
            assert_eq!(cx.free_blocks(), 64 - 4, "a block is lost");
            assert_eq!(cx.view().get(space.geometry.units_at) & 0xf, state::FREE);
        });
    });
}

#[test]
fn a_join_on_the_way_does_not_reach_the_next_life_of_its_group() {
    // Two join a group that a third gives back when it is empty, and makes anew in the same place.
    explore(|| {
        let space = Arc::new(Space::boxed(Geometry::tiny(10, 1, 1, [12, 0, 0])));
        let group = at_the_end(&space, |cx| cx.new_cell(cell_kind::GROUP, Header::worlds, 0).unwrap());
        let joining = [0_u64, 1].map(|who| {
            act(&space, who as u32, move |cx| {
                let members = group.trie(cx, Group::members);
                let name = who.to_le_bytes();
                let content = Content::new(&[], &name, &[]);
                let joined = members.change_record(place(who), &who.to_le_bytes(), |_| {
                    Ok((Change::Put(0, cx.new_record(members.root, place(who), &content)?), ()))
                });
                joined.unwrap().is_some() && remove(&members, who)
            })
        });
        let turning = act(&space, 2, move |cx| {
            let members = group.trie(cx, Group::members);
            if !members.seal_if_empty() {
                return None;
            }
            group.release(cx);
            let next = cx.new_cell(cell_kind::GROUP, Header::worlds, 0).unwrap();
            assert_eq!(next.number(), group.number(), "there is one cell only");
            Some(next)
        });
        let left: Vec<bool> = joining.into_iter().map(|thread| thread.join().unwrap()).collect();
        let next = turning.join().unwrap();
        at_the_end(&space, |cx| {
            let (cell, over) = (next.unwrap_or(group), next.is_some());
            assert_eq!(cell.trie(cx, Group::members).live().unwrap(), 0, "joined a life that it did not know");
            assert!(over || left == [true, true], "a lost join");
            assert_eq!(cx.free_blocks(), 12);
        });
    });
}

/// A condition that is waited for, and is over when somebody was told of it.
#[derive(Default)]
struct Flag {
    up: Mutex<bool>,
    raised: Condvar,
}

impl Flag {
    fn raise(&self) {
        *self.up.lock().unwrap() = true;
        self.raised.notify_all();
    }

    fn wait(&self) {
        let mut up = self.up.lock().unwrap();
        while !*up {
            up = self.raised.wait(up).unwrap();
        }
        *up = false;
    }
}

/// The kernel: a wait that each ring ends. A lost wake-up shows as a deadlock.
#[derive(Default)]
struct Sleep {
    rung: Flag,
    /// The first publisher is in the middle of its ring, or through.
    stopped: Flag,
    /// Until this the first publisher's ring does not reach the kernel.
    resumed: Flag,
}

shuttle::thread_local! {
    /// Is this the publisher that is stopped in the middle of its ring?
    static STOPS: std::cell::Cell<bool> = std::cell::Cell::new(false);
}

struct Stand(Arc<Sleep>);

impl Ringer for Stand {
    fn ring(&self, _: &Space, _: u32, _: u64) {
        if STOPS.with(std::cell::Cell::get) {
            self.0.stopped.raise();
            self.0.resumed.wait();
        }
        self.0.rung.raise();
    }
    fn freed(&self, _: u32, _: u64) {}
    fn rest(&self) {}
}

fn with_a_bell(cells: u32) -> (Arc<Space>, Arc<Sleep>) {
    let sleep = Arc::new(Sleep::default());
    let stand = Box::new(Stand(sleep.clone()));
    (Arc::new(Space::boxed_with(Geometry::tiny_with_bells(10, cells, 1, 1, [1, 0, 0]), stand)), sleep)
}

/// What is published: a word for each publisher.
const NEWS: [usize; 4] = [Header::evictions, Header::reaps, Header::keeper_beat, Header::attaches];

#[test]
fn a_sleeper_hears_of_everything() {
    // Four publishers on two cells, each with news of its own, three times; the sleeper sleeps whenever it can.
    explore(|| {
        let (space, sleep) = with_a_bell(2);
        let publishing: Vec<_> = (0..4_u32)
            .map(|who| {
                act(&space, who, move |cx| {
                    for _ in 0..3 {
                        cx.word(NEWS[who as usize]).fetch_add(1, Ordering::AcqRel);
                        cx.news(who % 2);
                    }
                })
            })
            .collect();
        let waiting = act(&space, 4, move |cx| {
            let bell: Bell = cx.claim_bell().expect("there is one");
            let mut found = [0; 4];
            let look = |found: &mut [u64; 4], cell: usize| {
                for who in (cell..4).step_by(2) {
                    found[who] = cx.word(NEWS[who]).load(Ordering::Acquire);
                }
            };
            for cell in 0..2 {
                bell.arm(cx, cell as u32);
                look(&mut found, cell);
            }
            while found != [3; 4] {
                bell.sleep(cx);
                let mut fresh = false;
                bell.collect(cx, |bucket| {
                    fresh = true;
                    look(&mut found, bucket as usize);
                });
                if !fresh && found != [3; 4] {
                    sleep.rung.wait();
                }
                bell.wake(cx);
            }
            (0..2).for_each(|cell| bell.disarm(cx, cell));
            bell.release(cx);
        });
        publishing.into_iter().chain([waiting]).for_each(|thread| thread.join().unwrap());
    });
}

#[test]
fn a_publisher_stopped_in_mid_ring_silences_nobody() {
    // The first is stopped in the middle of ringing; others may have rung an earlier sleep and not yet said so. Their
    // news must come through all the same, and the first one's when it goes on.
    explore_often(12, || {
        let (space, sleep) = with_a_bell(1);
        let publishing: Vec<_> = [0, 1, 3]
            .map(|who: u32| {
                let sleep = sleep.clone();
                act(&space, who, move |cx| {
                    STOPS.with(|stops| stops.set(who == 0));
                    if who == 3 {
                        sleep.stopped.wait();
                    }
                    cx.word(NEWS[who as usize]).fetch_add(1, Ordering::AcqRel);
                    cx.news(0);
                    if who == 0 {
                        sleep.stopped.raise();
                    }
                })
            })
            .into();
        let waiting = act(&space, 4, move |cx| {
            let bell: Bell = cx.claim_bell().expect("there is one");
            let wait_for = |who: usize| {
                bell.arm(cx, 0);
                let there = || cx.word(NEWS[who]).load(Ordering::Acquire) > 0;
                while !there() {
                    bell.sleep(cx);
                    bell.collect(cx, |_| {});
                    if !there() {
                        sleep.rung.wait();
                    }
                }
                bell.disarm(cx, 0);
                bell.wake(cx);
            };
            wait_for(1);
            wait_for(3);
            sleep.resumed.raise();
            wait_for(0);
            bell.release(cx);
        });
        publishing.into_iter().chain([waiting]).for_each(|thread| thread.join().unwrap());
    });
}
