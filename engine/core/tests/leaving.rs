//! Whoever leaves can leave, whatever is full: what only takes away needs room for the pages that it replaces, and
//! has it.
#![cfg(not(loom))]

use hypern_shm_core::*;

fn segment(size: u64) -> Segment {
    Segment::private(&Options { size, ..Options::default() }).unwrap()
}

fn is_full<T: std::fmt::Debug>(done: Result<T>) -> bool {
    match done {
        Ok(_) => false,
        Err(Error::Full { .. }) => true,
        Err(other) => panic!("{other}"),
    }
}

/// Adds things of every kind, the smallest last, until not one more fits: no block is left, and no history to give up.
fn fill(world: &World) -> (Vec<String>, Vec<String>) {
    let (presence, heartbeats) = (Presence::new(world), Heartbeats::new(world));
    let (mut members, mut clients) = (Vec::new(), Vec::new());
    for number in 0.. {
        let client = format!("member {number}");
        if is_full(presence.track("room", &client, &Metadata::default())) {
            break;
        }
        members.push(client);
    }
    let mut refused = 0;
    for number in 0.. {
        let client = format!("client {number}");
        if is_full(heartbeats.register(&client, None)) {
            refused += 1;
            // Others fall into leaves that have room.
            if refused > 200 {
                break;
            }
        } else {
            clients.push(client);
        }
    }
    (members, clients)
}

#[test]
fn everybody_can_leave_a_full_segment() {
    for size in [256 << 10, 512 << 10, 2 << 20] {
        let segment = segment(size);
        let world = World::new(&segment, "").unwrap();
        let empty = segment.stats().unwrap().blocks;
        let presence = Presence::new(&world);
        for turn in 0..3 {
            let (members, clients) = fill(&world);
            println!("{size} bytes, turn {turn}: {} members and {} clients", members.len(), clients.len());
            assert!(members.len() > 50);
            for client in &members {
                assert!(presence.untrack("room", client).unwrap(), "{client}");
            }
            for client in &clients {
                assert!(Heartbeats::new(&world).unregister(client).unwrap(), "{client}");
            }
            assert_eq!(presence.count("room").unwrap(), 0);
        }
        let left = segment.stats().unwrap();
        assert!(left.blocks[0] <= empty[0] + 2, "{empty:?} {:?}", left.blocks);
        assert_eq!(segment.check().unwrap(), Vec::<String>::new());
    }
}

#[test]
fn changes_of_a_full_segment_are_told() {
    let segment = segment(512 << 10);
    let world = World::new(&segment, "").unwrap();
    let presence = Presence::new(&world);
    let (members, _) = fill(&world);
    let mut joins = 0;
    loop {
        let diff = presence.flush_diff("room").unwrap();
        if diff.joins.is_empty() {
            break;
        }
        joins += diff.joins.len();
    }
    assert_eq!(joins, members.len());
    // Each is told of now, so that a leave is marked, and taken by the flush.
    for client in &members {
        assert!(presence.untrack("room", client).unwrap());
    }
    let mut leaves = 0;
    loop {
        let diff = presence.flush_diff("room").unwrap();
        if diff.leaves.is_empty() {
            break;
        }
        leaves += diff.leaves.len();
    }
    assert_eq!(leaves, members.len());
}

#[test]
fn evicting_and_clearing_a_full_segment() {
    let segment = segment(512 << 10);
    let world = World::new(&segment, "").unwrap();
    let presence = Presence::new(&world);
    for _ in 0..3 {
        let (members, clients) = fill(&world);
        assert_eq!(presence.untrack_all(&members[0]).unwrap().len(), 1);
        assert_eq!(presence.evict_stale(0.0).unwrap().len(), members.len() - 1);
        Heartbeats::new(&world).clear().unwrap();
        assert!(!clients.is_empty());
        assert_eq!(presence.total_clients().unwrap(), 0);
    }
}

/// Each channel has one client and one handle: what unsubscribing needs, the registration gives.
#[test]
fn unsubscribing_from_many_channels_of_a_full_segment() {
    const CHANNELS: u32 = 150;
    let options = Options { size: 4 << 20, channels: Some(400), ring_slots: Some(16 * 400), ..Options::default() };
    let world = World::new(&Segment::private(&options).unwrap(), "").unwrap();
    let channels = Channels::new(&world, ChannelKind::Channel);
    let spec = ChannelSpec { buffer_size: 2, metadata: vec![], fail_when_unheard: false, dedup_window: None };
    let client = |number: u32| if number.is_multiple_of(2) { "ada".to_owned() } else { "x".repeat(220) };
    let name = |number: u32| format!("channel {number}");
    let handles: Vec<_> = (0..CHANNELS)
        .map(|number| {
            channels.create(&name(number), &spec).unwrap();
            channels.subscribe(&name(number), &client(number), None).unwrap().unwrap()
        })
        .collect();
    fill(&world);
    for number in 0..CHANNELS {
        assert!(channels.unsubscribe(&name(number), &client(number)).unwrap());
    }
    assert!(handles.iter().all(|handle| handle.is_ended().unwrap()));
    assert_eq!(world.segment().check().unwrap(), Vec::<String>::new());
    drop(handles);
    assert_eq!(world.segment().check().unwrap(), Vec::<String>::new());
}
