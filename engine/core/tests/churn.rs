//! Room that is freed is usable again, for ever: distinct members and channels come and go by the hundred thousand,
//! and neither what is in use nor the speed changes. `CHURN=100` makes it a hundred times as long.

use std::collections::VecDeque;
use std::time::Instant;

use hypern_shm_core::*;

/// Joins and leaves, and channels, of a short run.
const JOINS: u64 = 100_000;
const CHANNELS: u64 = 20_000;
/// Who is there at once.
const PRESENT: usize = 500;
/// Measured stretches: the speed of the last is compared with that of the first.
const STRETCHES: u64 = 10;

fn times() -> u64 {
    std::env::var("CHURN").map_or(1, |times| times.parse().expect("CHURN is a whole number"))
}

/// Bytes of this process that are in memory.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// What is in use, without what only grows.
fn in_use(segment: &Segment) -> ([u64; 3], u64, u64) {
    let stats = segment.stats().unwrap();
    (stats.blocks, stats.cells, stats.ring_slots)
}

/// How much what is in use may differ between two times at which the same things are there.
struct Slack {
    /// By how they happen to lie in pages.
    blocks: u64,
    /// By how many empty groups wait to be used again.
    cells: u64,
}

const PAGES: Slack = Slack { blocks: PRESENT as u64 / 4, cells: 0 };

/// Does `step` so many times, and prints how what is in use, memory and speed went.
fn churn(what: &str, segment: &Segment, count: u64, slack: Slack, mut step: impl FnMut(u64)) {
    let stretch = count / STRETCHES;
    let mut seen = Vec::new();
    for part in 0..STRETCHES {
        let start = Instant::now();
        (part * stretch..(part + 1) * stretch).for_each(&mut step);
        let nanos = start.elapsed().as_nanos() as f64 / stretch as f64;
        seen.push((nanos, in_use(segment), resident()));
    }
    let (first, last) = (&seen[0], &seen[STRETCHES as usize - 1]);
    let ratio = last.0 / first.0;
    println!("{what}: {count} × {:.0} ns, last stretch {ratio:.2} × the first; in use {:?} then {:?}", last.0, first.1, last.1);
    println!("    resident {} KiB then {} KiB", first.2 >> 10, last.2 >> 10);
    for (_, (blocks, cells, ring_slots), memory) in &seen {
        let (at_first, cells_at_first, slots_at_first) = first.1;
        for class in 0..3 {
            assert!(blocks[class].abs_diff(at_first[class]) <= slack.blocks, "{what}: blocks in use from {at_first:?} to {blocks:?}");
        }
        assert!(cells.abs_diff(cells_at_first) <= slack.cells, "{what}: cells in use from {cells_at_first} to {cells}");
        assert_eq!(*ring_slots, slots_at_first, "{what}: ring slots in use");
        assert!(memory.saturating_sub(first.2) < 8 << 20, "{what}: memory from {} to {memory} bytes", first.2);
    }
}

fn world(segment: &Segment) -> World {
    World::new(segment, "").unwrap()
}

/// One after another, in one test: each alone on its segment, and memory is the process's.
#[test]
fn distinct_ones_come_and_go_for_ever() {
    let options = Options { size: 8 << 20, ..Options::default() };
    members(&Segment::private(&options).unwrap());
    clients(&Segment::private(&options).unwrap());
    rooms(&Segment::private(&options).unwrap());
    channels(&Segment::private(&options).unwrap());
    topics(&Segment::private(&options).unwrap());
}

fn is_sound(segment: &Segment) {
    assert_eq!(segment.check().unwrap(), Vec::<String>::new());
    assert_eq!(segment.scavenge().unwrap().blocks, 0, "nothing was left for the scavenger");
}

fn members(segment: &Segment) {
    let presence = Presence::new(&world(segment));
    let empty = in_use(segment);
    let mut present = VecDeque::new();
    let mut changes = (0, 0);
    let mut count = |diff: Diff| changes = (changes.0 + diff.joins.len(), changes.1 + diff.leaves.len());
    churn("joins and leaves of distinct members", segment, JOINS * times(), PAGES, |i| {
        let client = format!("client {i}");
        presence.track("room", &client, &Metadata::from_iter([("name", &client)])).unwrap();
        present.push_back(client);
        if present.len() > PRESENT {
            assert!(presence.untrack("room", &present.pop_front().unwrap()).unwrap());
        }
        if i % 100 == 99 {
            count(presence.flush_diff("room").unwrap());
        }
    });
    count(presence.flush_diff("room").unwrap());
    assert_eq!(presence.count("room").unwrap(), PRESENT as u64);
    assert_eq!((changes.0 - changes.1) as u64, PRESENT as u64, "joins told less leaves told are who is there");
    for client in present {
        assert!(presence.untrack("room", &client).unwrap());
    }
    presence.flush_diff("room").unwrap();
    // The empty room's cell and directory entry are kept for the next join.
    let ([small, medium, large], ..) = in_use(segment);
    assert!(small <= empty.0[0] + 4 && (medium, large) == (empty.0[1], empty.0[2]), "{empty:?} {:?}", in_use(segment));
    is_sound(segment);
}

fn clients(segment: &Segment) {
    let heartbeats = Heartbeats::new(&world(segment));
    let empty = in_use(segment);
    let mut present = VecDeque::new();
    churn("heartbeat clients", segment, JOINS * times(), PAGES, |i| {
        let client = format!("client {i}");
        heartbeats.register(&client, Some("1-2")).unwrap();
        assert!(heartbeats.pong(&client).unwrap());
        present.push_back(client);
        if present.len() > PRESENT {
            assert!(heartbeats.unregister(&present.pop_front().unwrap()).unwrap());
        }
    });
    heartbeats.clear().unwrap();
    assert_eq!(in_use(segment), empty);
    is_sound(segment);
}

fn rooms(segment: &Segment) {
    let presence = Presence::new(&world(segment));
    // A cell is kept for each empty room until somebody needs one: let all of them come to use once.
    let visit = |i: u64| {
        let room = format!("room {i}");
        presence.track(&room, "alice", &Metadata::default()).unwrap();
        assert!(presence.untrack(&room, "alice").unwrap());
    };
    // Then many are given back at once, again and again.
    let slack = Slack { blocks: 1500, cells: segment.stats().unwrap().max_cells / 2 };
    (0..10_000).for_each(|i| visit(CHANNELS * times() + i));
    churn("rooms that somebody visited", segment, CHANNELS * times(), slack, visit);
    is_sound(segment);
}

fn channels(segment: &Segment) {
    let channels = Channels::new(&world(segment), ChannelKind::Channel);
    let empty = in_use(segment);
    let spec = ChannelSpec { buffer_size: 16, metadata: vec![("k".into(), "v".into())], fail_when_unheard: false, dedup_window: None };
    let mut present = VecDeque::new();
    let mut buffer = Vec::new();
    churn("channels created, used and removed", segment, CHANNELS * times(), PAGES, |i| {
        let name = format!("channel {i}");
        assert!(channels.create(&name, &spec).unwrap());
        let receiver = channels.subscribe(&name, "alice", None).unwrap().expect("it was just created");
        assert_eq!(channels.publish(&name, name.as_bytes(), Form::Text).unwrap(), Some(1));
        assert!(receiver.try_recv(&mut buffer).unwrap().is_some() && buffer == name.as_bytes());
        present.push_back((name, receiver));
        if present.len() > 100 {
            let (name, receiver) = present.pop_front().unwrap();
            assert!(channels.remove(&name).unwrap());
            receiver.close().unwrap();
        }
    });
    drop(present);
    channels.clear().unwrap();
    assert_eq!(in_use(segment), empty);
    is_sound(segment);
}

fn topics(segment: &Segment) {
    let topics = Topics::new(&world(segment), TopicsKind::Free);
    let empty = in_use(segment);
    let mut present = VecDeque::new();
    churn("topic patterns subscribed and unsubscribed", segment, CHANNELS * times(), PAGES, |i| {
        let pattern = format!("topic {i}:*");
        topics.subscribe(&pattern, "alice").unwrap();
        present.push_back(pattern);
        if present.len() > 100 {
            assert!(topics.unsubscribe(&present.pop_front().unwrap(), "alice").unwrap());
        }
    });
    assert_eq!(topics.match_topic(&format!("topic {}:x", CHANNELS * times() - 1)).unwrap(), ["alice"]);
    assert_eq!(topics.unsubscribe_all("alice").unwrap(), 100);
    assert_eq!(in_use(segment), empty);
    is_sound(segment);
}
