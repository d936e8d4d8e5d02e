//! The trie against a map, and under threads, with every block accounted for at the end.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::content::Content;
use crate::geometry::Geometry;
use crate::layout::{Channel, cell_kind};
use crate::owned::{Dead, Departure};
use crate::reap::{scavenge, settle};
use crate::space::{Actor, Space, owner};

fn small() -> Space {
    Space::boxed(Geometry::tiny(4, 2, 2, [2000, 40, 4]))
}

fn put(trie: &Trie<'_>, key: u64, value: u64, place: u64) -> bool {
    let (name, value) = (key.to_le_bytes(), value.to_le_bytes());
    let content = Content::new(&[], &name, &value);
    trie.change_record(place, &key.to_le_bytes(), |found| {
        let held = trie.cx.new_record(trie.root, place, &content)?;
        Ok((Change::Put(0, held), found.is_none()))
    })
    .unwrap()
    .unwrap()
}

fn remove(trie: &Trie<'_>, key: u64, place: u64) -> bool {
    trie.change_record(place, &key.to_le_bytes(), |found| {
        Ok((if found.is_some() { Change::Remove } else { Change::Keep }, found.is_some()))
    })
    .unwrap()
    .unwrap()
}

/// By the way that only an empty group has, if it is one.
fn put_first(trie: &Trie<'_>, key: u64, value: u64, place: u64) -> bool {
    let (name, value) = (key.to_le_bytes(), value.to_le_bytes());
    let held = trie.cx.new_record(trie.root, place, &Content::new(&[], &name, &value)).unwrap();
    let done = trie.put_first(&held);
    if !done {
        assert!(trie.cx.free(held.reference), "still held");
    }
    done
}

/// By the way that only a group's only entry has, if it is in the root.
fn remove_lone(trie: &Trie<'_>, key: u64, place: u64) -> bool {
    let found = trie.get(place, &key.to_le_bytes()).unwrap();
    found.is_some_and(|(entry, _)| trie.remove_lone(entry.value))
}

fn value_of(record: &Record) -> u64 {
    u64::from_le_bytes(record.value().try_into().unwrap())
}

fn listed(trie: &Trie<'_>) -> BTreeMap<u64, u64> {
    let mut all = BTreeMap::new();
    trie.records(|_, record| {
        let key = u64::from_le_bytes(record.key().try_into().unwrap());
        assert!(all.insert(key, value_of(record)).is_none(), "listed twice");
    })
    .unwrap();
    all
}

/// Every block is free once the trie is empty: nothing leaked, nothing freed twice.
fn all_free(cx: Context<'_>) -> bool {
    cx.free_blocks() == u64::from(cx.space.geometry.total_blocks())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// `places` is small, so that many keys share a place or long prefixes of one.
    #[test]
    fn it_is_a_map(steps in proptest::collection::vec((0_u8..6, 0_u64..120, any::<u64>()), 1..400), crowded in any::<bool>()) {
        let space = small();
        let actor = Actor::new(0, 1);
        let cx = Context { space: &space, actor: &actor };
        let trie = Trie::new(cx, crate::layout::Header::worlds);
        let place = |key: u64| if crowded { (key / 10) << 4 } else { space.hash(&key.to_le_bytes()).place() };
        let mut model = BTreeMap::new();
        for (step, key, value) in steps {
            match step {
                4 => {
                    let first = put_first(&trie, key, value, place(key));
                    prop_assert_eq!(first, model.is_empty());
                    if first {
                        model.insert(key, value);
                    }
                }
                // Once there was a leaf, the last entry is not in the root.
                5 if remove_lone(&trie, key, place(key)) => {
                    prop_assert!(model.remove(&key).is_some());
                    prop_assert!(model.is_empty());
                }
                5 => {}
                0 | 1 => prop_assert_eq!(put(&trie, key, value, place(key)), model.insert(key, value).is_none()),
                2 => prop_assert_eq!(remove(&trie, key, place(key)), model.remove(&key).is_some()),
                _ => {
                    let found = trie.get(place(key), &key.to_le_bytes()).unwrap();
                    prop_assert_eq!(found.map(|(_, record)| value_of(&record)), model.get(&key).copied());
                }
            }
            prop_assert_eq!(trie.live().unwrap(), model.len() as u64);
        }
        prop_assert_eq!(&listed(&trie), &model);
        let mut from = Some(0);
        let mut swept = 0;
        while let Some(cursor) = from {
            let (taken, next) = trie.sweep(cursor, false, |entry, taken| { taken.push(entry.value); Ok(Change::Remove) }).unwrap();
            swept += taken.len();
            from = next;
        }
        prop_assert_eq!(swept, model.len());
        prop_assert_eq!(trie.root(), Root::Empty);
        prop_assert!(all_free(cx));
    }
}

#[test]
fn an_only_entry_comes_and_goes_without_a_page() {
    let space = small();
    let actor = Actor::new(0, 1);
    let cx = Context { space: &space, actor: &actor };
    let trie = Trie::new(cx, crate::layout::Header::worlds);
    let mut roots = std::collections::HashSet::new();
    for round in 0..100 {
        assert!(put_first(&trie, 1, round, 16) && !put_first(&trie, 2, round, 32));
        assert!(roots.insert(cx.view().get(trie.root)), "a root word that was there before");
        assert_eq!((cx.free_blocks() + 1, trie.live().unwrap()), (u64::from(cx.space.geometry.total_blocks()), 1));
        assert!(remove_lone(&trie, 1, 16) && !remove_lone(&trie, 1, 16));
        assert!(roots.insert(cx.view().get(trie.root)), "a root word that was there before");
        assert!(all_free(cx));
    }
    // Two, and one again: it has a page, and leaves with it.
    assert!(put_first(&trie, 1, 0, 16) && put(&trie, 2, 0, 32) && remove(&trie, 2, 32));
    assert!(!remove_lone(&trie, 1, 16) && remove(&trie, 1, 16) && all_free(cx));
    assert!(trie.seal_if_empty() && !put_first(&trie, 1, 0, 16), "a sealed group takes nothing");
    assert!(all_free(cx));
}

#[test]
fn empty_roots_never_repeat() {
    let space = small();
    let actor = Actor::new(0, 1);
    let cx = Context { space: &space, actor: &actor };
    let trie = Trie::new(cx, crate::layout::Header::worlds);
    let mut seen = std::collections::HashSet::new();
    for round in 0..100 {
        assert!(seen.insert(cx.view().get(trie.root)));
        put(&trie, 1, round, 16);
        remove(&trie, 1, 16);
    }
    assert!(trie.seal_if_empty());
    let refused = trie.change_record(16, &[1], |_| Ok((Change::Keep, ()))).unwrap();
    assert!(refused.is_none(), "a sealed group takes nothing");
}

#[test]
fn threads_agree_and_leak_nothing() {
    let space = small();
    let root = crate::layout::Header::worlds;
    let totals: i64 = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4_u32)
            .map(|slot| {
                let space = &space;
                scope.spawn(move || {
                    let actor = Actor::new(slot, 1);
                    let cx = Context { space, actor: &actor };
                    let trie = Trie::new(cx, root);
                    let (mut net, mut random) = (0_i64, u64::from(slot) + 1);
                    for _ in 0..20_000 {
                        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        let key = random >> 40 & 63;
                        let place = space.hash(&key.to_le_bytes()).place();
                        match random >> 33 & 3 {
                            0 => net += i64::from(put(&trie, key, key * 3, place)),
                            1 => net -= i64::from(remove(&trie, key, place)),
                            2 => {
                                if let Some((_, record)) = trie.get(place, &key.to_le_bytes()).unwrap() {
                                    assert_eq!(value_of(&record), key * 3);
                                }
                            }
                            _ => assert!(listed(&trie).iter().all(|(key, value)| *value == key * 3)),
                        }
                    }
                    net
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    let actor = Actor::new(0, 1);
    let cx = Context { space: &space, actor: &actor };
    let trie = Trie::new(cx, root);
    assert_eq!(trie.live().unwrap() as i64, totals, "inserted minus removed is what is there");
    for key in 0..64_u64 {
        remove(&trie, key, space.hash(&key.to_le_bytes()).place());
    }
    assert!(all_free(cx));
    assert_eq!(scavenge(cx, &|_| false).unwrap(), Default::default());
}

/// What a mirror told, added up; each delta must make sense where it comes.
fn apply(held: &mut BTreeMap<u64, u64>, deltas: Vec<Delta<(u64, u64)>>) {
    for delta in deltas {
        match delta {
            Delta::Added((key, value)) => assert!(held.insert(key, value).is_none(), "added twice"),
            Delta::Removed((key, value)) => assert_eq!(held.remove(&key), Some(value), "removed what was not there"),
        }
    }
}

fn pair_of(entry: &Entry, record: &Record) -> Option<(u64, u64)> {
    entry.is_live().then(|| (u64::from_le_bytes(record.key().try_into().unwrap()), value_of(record)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_mirror_is_what_it_was_told(steps in proptest::collection::vec((0_u8..6, 0_u64..120, any::<u64>()), 1..400), crowded in any::<bool>()) {
        let space = small();
        let actor = Actor::new(0, 1);
        let cx = Context { space: &space, actor: &actor };
        let trie = Trie::new(cx, crate::layout::Header::worlds);
        let place = |key: u64| if crowded { (key / 10) << 4 } else { space.hash(&key.to_le_bytes()).place() };
        let mut mirror = Mirror::default();
        let mut held = BTreeMap::new();
        for (step, key, value) in steps {
            match step {
                0 | 1 => {
                    put(&trie, key, value, place(key));
                }
                2 => {
                    remove(&trie, key, place(key));
                }
                _ => {
                    apply(&mut held, mirror.update(&trie, &mut pair_of).unwrap());
                    prop_assert_eq!(&held, &listed(&trie));
                    prop_assert!(mirror.update(&trie, &mut pair_of).unwrap().is_empty(), "nothing has changed");
                }
            }
        }
        apply(&mut held, mirror.clear());
        prop_assert!(held.is_empty());
    }
}

#[test]
fn a_mirror_follows_writers_that_do_not_wait_for_it() {
    let space = small();
    let done = std::sync::atomic::AtomicU64::new(0);
    let held = std::thread::scope(|scope| {
        for slot in 0..2_u32 {
            let (space, done) = (&space, &done);
            scope.spawn(move || {
                let actor = Actor::new(slot, 1);
                let trie = Trie::new(Context { space, actor: &actor }, crate::layout::Header::worlds);
                for step in 0..20_000_u64 {
                    let key = step.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 300 * 2 + u64::from(slot);
                    let place = space.hash(&key.to_le_bytes()).place();
                    if step % 3 == 0 {
                        remove(&trie, key, place);
                    } else {
                        put(&trie, key, step, place);
                    }
                }
                done.fetch_add(1, std::sync::atomic::Ordering::Release);
            });
        }
        let (space, done) = (&space, &done);
        scope
            .spawn(move || {
                let actor = Actor::new(2, 1);
                let trie = Trie::new(Context { space, actor: &actor }, crate::layout::Header::worlds);
                let mut mirror = Mirror::default();
                let mut held = BTreeMap::new();
                let mut looks = 0;
                while done.load(std::sync::atomic::Ordering::Acquire) < 2 {
                    apply(&mut held, mirror.update(&trie, &mut pair_of).unwrap());
                    looks += 1;
                }
                apply(&mut held, mirror.update(&trie, &mut pair_of).unwrap());
                println!("{looks} looks during 40,000 changes");
                held
            })
            .join()
            .unwrap()
    });
    let actor = Actor::new(3, 1);
    let cx = Context { space: &space, actor: &actor };
    assert_eq!(held, listed(&Trie::new(cx, crate::layout::Header::worlds)));
}

/// Sixteen children that are one page, at every depth: 16^15 ways through sixteen blocks.
#[test]
fn a_page_named_from_many_places_is_walked_from_none_but_its_own() {
    let space = small();
    let actor = Actor::new(1, 1);
    let cx = Context { space: &space, actor: &actor };
    let trie = Trie::new(cx, crate::layout::Header::worlds);
    let counts = Counts { live: 1 << 40, pending: 1 << 20, gone: 1 };
    let mut below = trie.write_leaf(&[Entry::new(0, 0, VALUE_INLINE)], DEPTH_MAX, true).unwrap();
    for depth in (0..DEPTH_MAX).rev() {
        below = trie.write_inner(&page::Inner { children: [below.reference; 16], counts }, 0, depth, true).unwrap();
    }
    cx.word(trie.root).store(below.reference, Ordering::Release);
    let damaged = |done: Result<()>| assert!(matches!(done, Err(Error::Corrupt { .. })), "{done:?}");
    damaged(trie.entries(|_| {}));
    damaged(trie.sweep(0, false, |_, _: &mut Vec<()>| Ok(Change::Keep)).map(drop));
    damaged(trie.sweep(0, true, |_, _: &mut Vec<()>| Ok(Change::Keep)).map(drop));
    damaged(Mirror::default().update(&trie, &mut |_, _| Some(())).map(drop));
    let found = crate::check::look_over(cx, &|_| false);
    assert!(found.iter().any(|finding| finding.contains("both of")), "{found:?}");
    trie.seal_and_free(|| true);
    assert!(all_free(cx));
}

/// A group's only entry is replaced without a page: in a full arena for any number of groups.
#[test]
fn whoever_has_less_needs_no_more() {
    const GROUPS: u32 = 100;
    let space = Space::boxed(Geometry::tiny(4, GROUPS, GROUPS, [1024, 0, 0]));
    let actor = Actor::new(0, 1);
    let cx = Context { space: &space, actor: &actor };
    let (stays, leaves) = (owner(1, 0), owner(1, 1));
    let groups: Vec<_> = (0..GROUPS)
        .map(|_| {
            let cell = cx.new_channel(cell_kind::CHANNEL, crate::layout::Header::worlds, 0, 2, 0, 0).unwrap();
            cell.make_live(cx);
            let trie = cell.trie(cx, Channel::subscribers);
            let owners = [stays, leaves];
            let content = Content::new(&owners, b"ada", &[]);
            trie.change_record(16, b"ada", |_| Ok((Change::Put(0, cx.new_record(trie.root, 16, &content)?), ()))).unwrap();
            trie
        })
        .collect();
    while let Ok(held) = cx.allocate(crate::arena::SMALL) {
        cx.make_live(&held);
    }
    let reserve = cx.free_blocks();
    assert!((1..u64::from(GROUPS)).contains(&reserve), "{reserve} would be enough for pages");
    settle(cx, &Dead { owners: &[leaves], departure: Departure::Crash }).unwrap();
    assert_eq!(cx.free_blocks(), reserve);
    for trie in groups {
        let (_, record) = trie.get(16, b"ada").unwrap().unwrap();
        assert_eq!(&record.owners[..], [stays]);
    }
}
