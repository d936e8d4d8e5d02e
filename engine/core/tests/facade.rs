//! The engine through its public face, on private segments of this process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hypern_shm_core::*;

fn segment() -> Segment {
    Segment::private(&Options { size: 2 << 20, ..Options::default() }).unwrap()
}

fn spec(buffer_size: u64) -> ChannelSpec {
    ChannelSpec { buffer_size, metadata: vec![("k".into(), "v".into())], fail_when_unheard: false, dedup_window: None }
}

fn world(segment: &Segment) -> World {
    World::new(segment, "").unwrap()
}

fn channels(segment: &Segment) -> Channels {
    Channels::new(&world(segment), ChannelKind::Channel)
}

fn drain(receiver: &Receiver) -> Vec<String> {
    let mut buffer = Vec::new();
    let mut all = Vec::new();
    while receiver.try_recv(&mut buffer).unwrap().is_some() {
        all.push(String::from_utf8(buffer.clone()).unwrap());
    }
    all
}

#[test]
fn smoke() {
    let segment = segment();
    let channels = channels(&segment);
    assert!(channels.create("a", &spec(4)).unwrap());
    assert!(!channels.create("a", &spec(8)).unwrap());
    assert_eq!(channels.names().unwrap(), ["a"]);
    let receiver = channels.subscribe("a", "alice", None).unwrap().unwrap();
    assert!(channels.subscribe("zz", "alice", None).unwrap().is_none());
    assert_eq!(channels.publish("zz", b"", Form::Text).unwrap(), None);
    for i in 0..10 {
        assert_eq!(channels.publish("a", i.to_string().as_bytes(), Form::Text).unwrap(), Some(1));
    }
    assert_eq!(drain(&receiver), ["6", "7", "8", "9"]);
    assert_eq!((receiver.received(), receiver.missed()), (4, 6));
    let stats = channels.stats("a").unwrap().unwrap();
    assert_eq!((stats.published, stats.dropped, stats.subscribers, stats.handles), (10, 6, 1, 1));
    assert_eq!(stats.metadata, [("k".to_owned(), "v".to_owned())]);
    assert_eq!(channels.subscribers("a").unwrap().unwrap(), ["alice"]);
}

#[test]
fn a_target_is_published_to_while_its_channel_is_there() {
    let segment = segment();
    let (channels, others) = (channels(&segment), channels(&segment));
    assert!(channels.target("a").unwrap().is_none());
    channels.create("a", &spec(16)).unwrap();
    let mut target = channels.target("a").unwrap().unwrap();
    assert_eq!(channels.publish_to(&mut target, b"1", Form::Text).unwrap(), Some(0));
    let receiver = channels.subscribe("a", "alice", None).unwrap().unwrap();
    assert_eq!(channels.publish_to(&mut target, b"2", Form::Text).unwrap(), Some(1));
    assert_eq!(channels.publish_to(&mut target, &[b'3'; 10_000], Form::Text).unwrap(), Some(1));
    // Those of another facade, though it is of the same channels.
    assert_eq!(others.publish_to(&mut target, b"others", Form::Text).unwrap(), None);
    assert_eq!(drain(&receiver), ["2".to_owned(), "3".repeat(10_000)]);
    channels.remove("a").unwrap();
    assert_eq!(channels.publish_to(&mut target, b"gone", Form::Text).unwrap(), None);
    assert_eq!(channels.publish_to(&mut target, &[b'x'; 10_000], Form::Text).unwrap(), None);
    channels.create("a", &spec(16)).unwrap();
    let receiver = channels.subscribe("a", "alice", None).unwrap().unwrap();
    assert_eq!(channels.publish_to(&mut target, b"of the last life", Form::Text).unwrap(), None);
    assert_eq!(drain(&receiver), [""; 0]);
    assert_eq!(channels.stats("a").unwrap().unwrap().published, 0);
    assert_eq!(segment.check().unwrap(), [""; 0]);
}

#[test]
fn unsubscribing_ends_delivery_but_not_what_is_left() {
    let segment = segment();
    let channels = channels(&segment);
    channels.create("a", &spec(16)).unwrap();
    let receiver = channels.subscribe("a", "alice", None).unwrap().unwrap();
    channels.publish("a", b"before", Form::Text).unwrap();
    assert!(channels.unsubscribe("a", "alice").unwrap());
    assert!(!channels.unsubscribe("a", "alice").unwrap());
    assert_eq!(channels.publish("a", b"after", Form::Text).unwrap(), Some(0));
    assert_eq!(drain(&receiver), ["before"]);
    assert_eq!(drain(&receiver), [""; 0]);
    receiver.close().unwrap();
    assert_eq!(receiver.try_recv(&mut Vec::new()), Err(Error::HandleClosed));
}

#[test]
fn a_removed_channel_is_drained_and_its_room_is_used_again() {
    let segment = segment();
    let channels = channels(&segment);
    let before = segment.stats().unwrap();
    for round in 0..5000 {
        assert!(channels.create("a", &spec(64)).unwrap(), "round {round}");
        let receiver = channels.subscribe("a", "alice", None).unwrap().unwrap();
        channels.publish("a", b"left", Form::Text).unwrap();
        assert!(channels.remove("a").unwrap());
        assert!(!channels.remove("a").unwrap());
        assert_eq!(channels.publish("a", b"gone", Form::Text).unwrap(), None);
        assert_eq!(drain(&receiver), ["left"]);
    }
    let after = segment.stats().unwrap();
    assert_eq!(after.blocks, before.blocks.map(|used| used), "blocks leaked");
    assert_eq!((after.ring_slots, after.cells), (before.ring_slots, before.cells), "cells or units leaked");
}

#[test]
fn every_length_comes_back_as_it_went_in() {
    let segment = Segment::private(&Options::default()).unwrap();
    let channels = channels(&segment);
    channels.create("a", &spec(4)).unwrap();
    let receiver = channels.subscribe("a", "alice", None).unwrap().unwrap();
    let mut buffer = Vec::new();
    for length in [0, 1, 63, 192, 193, 1984, 1985, 16_320, 16_321, 100_000, 1 << 20] {
        let payload: Vec<u8> = (0..length).map(|i| (i * 31 % 251) as u8).collect();
        channels.publish("a", &payload, Form::Bytes).unwrap();
        assert_eq!(receiver.try_recv(&mut buffer).unwrap().unwrap().form, Form::Bytes);
        assert!(buffer == payload, "length {length}");
    }
    let too_long = vec![0; 64 << 20];
    assert!(matches!(channels.publish("a", &too_long, Form::Bytes), Err(Error::Full { .. })));
    channels.publish("a", b"still fine", Form::Text).unwrap();
    assert_eq!(drain(&receiver), ["still fine"]);
}

#[test]
fn every_way_to_receive_gives_each_message_once() {
    for buffer_size in [1, 4, 64, 1024] {
        let segment = segment();
        let channels = channels(&segment);
        channels.create("c", &spec(buffer_size)).unwrap();
        let receiver = channels.subscribe("c", "r", None).unwrap().unwrap();
        let count = 20_000_u64;
        std::thread::scope(|scope| {
            scope.spawn(|| (0..count).for_each(|number| _ = channels.publish("c", &number.to_le_bytes(), Form::Bytes).unwrap()));
            let (mut buffer, mut messages) = (Vec::new(), Vec::new());
            let mut got = Vec::new();
            for turn in 0_u32.. {
                let before = got.len() as u64;
                let mut take = |bytes: &[u8]| got.push(u64::from_le_bytes(bytes.try_into().expect("a torn message")));
                match turn % 3 {
                    0 if receiver.try_recv(&mut buffer).unwrap().is_some() => take(&buffer),
                    1 => {
                        if let Some(ready) = receiver.next_ready().unwrap() {
                            // Others publish between the look and the taking.
                            std::thread::yield_now();
                            ready.take(&mut buffer).into_iter().for_each(|_| take(&buffer));
                        }
                    }
                    2 => {
                        receiver.drain(5, &mut buffer, &mut messages).unwrap();
                        messages.iter().for_each(|(end, _)| take(&buffer[end - 8..*end]));
                    }
                    _ => {}
                }
                if before == got.len() as u64 && before + receiver.missed() == count {
                    break;
                }
            }
            assert!(got.is_sorted_by(|one, next| one < next), "a message twice, or in another's place");
            assert_eq!((got.len() as u64, receiver.received() + receiver.missed()), (receiver.received(), count));
        });
    }
}

#[test]
fn a_full_arena_gives_up_history_and_publishing_goes_on() {
    let segment = Segment::private(&Options { size: 512 << 10, ..Options::default() }).unwrap();
    let channels = channels(&segment);
    let mut receivers = Vec::new();
    for name in ["a", "b", "c"] {
        channels.create(name, &spec(1024)).unwrap();
        receivers.push(channels.subscribe(name, "alice", None).unwrap().unwrap());
    }
    let payload = vec![7; 180];
    let published = 3000_u64;
    for i in 0..published {
        channels.publish(["a", "b", "c"][i as usize % 3], &payload, Form::Bytes).unwrap();
    }
    assert!(segment.stats().unwrap().evicted_messages > 0);
    let mut accounted = 0;
    for receiver in &receivers {
        let mut buffer = Vec::new();
        while receiver.try_recv(&mut buffer).unwrap().is_some() {
            assert_eq!(buffer, payload);
        }
        accounted += receiver.received() + receiver.missed();
        assert!(receiver.received() > 0);
    }
    assert_eq!(accounted, published, "delivered + missed = published");
}

#[test]
fn broadcast_dedup_and_policy() {
    let segment = segment();
    let broadcasts = Channels::new(&world(&segment), ChannelKind::Broadcast);
    let dedup = ChannelSpec { dedup_window: Some(2), ..spec(16) };
    broadcasts.create("d", &dedup).unwrap();
    let receiver = broadcasts.open_handle("d", None).unwrap().unwrap();
    let send = |text: &str, id| broadcasts.send("d", text.as_bytes(), Form::Text, id).unwrap();
    assert_eq!(send("1", Some("x")), Sent::Delivered(1));
    assert_eq!(send("1", Some("x")), Sent::Duplicate);
    assert_eq!(send("2", Some("y")), Sent::Delivered(1));
    assert_eq!(send("no id", None), Sent::Delivered(1));
    assert_eq!(send("3", Some("z")), Sent::Delivered(1));
    assert_eq!(send("3", Some("y")), Sent::Duplicate);
    assert_eq!(send("1", Some("x")), Sent::Delivered(1));
    assert_eq!(drain(&receiver), ["1", "2", "no id", "3", "1"]);
    assert_eq!(broadcasts.stats("d").unwrap().unwrap().deduped, 2);
    broadcasts.create("e", &ChannelSpec { fail_when_unheard: true, ..spec(16) }).unwrap();
    assert_eq!(broadcasts.send("e", b"", Form::Text, None).unwrap(), Sent::Unheard);
    assert_eq!(broadcasts.send("zz", b"", Form::Text, None).unwrap(), Sent::Unknown);
    for i in 0..10_000 {
        let id = format!("id {i}");
        assert_eq!(broadcasts.send("d", b"m", Form::Text, Some(&id)).unwrap(), Sent::Delivered(1));
    }
    assert!(segment.stats().unwrap().blocks[0] < 200, "the window is bounded: {:?}", segment.stats());
}

#[test]
fn threads_with_one_id_publish_it_once() {
    let segment = segment();
    let broadcasts = Channels::new(&world(&segment), ChannelKind::Broadcast);
    broadcasts.create("d", &ChannelSpec { dedup_window: Some(10_000), ..spec(4096) }).unwrap();
    let delivered: usize = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    (0..500).filter(|i| broadcasts.send("d", b"x", Form::Text, Some(&i.to_string())).unwrap() != Sent::Duplicate).count()
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).sum()
    });
    assert_eq!(delivered, 500);
}

#[test]
fn presence_tells_the_net_change_once() {
    let segment = segment();
    let presence = Presence::new(&world(&segment));
    let joined = presence.track("r", "alice", &Metadata::from_iter([("n", "A")])).unwrap();
    presence.track("r", "bob", &Metadata::default()).unwrap();
    let again = presence.track("r", "alice", &Metadata::from_iter([("n", "B")])).unwrap();
    assert_eq!(again.joined_at, joined.joined_at);
    assert_eq!(presence.count("r").unwrap(), 2);
    let diff = presence.flush_diff("r").unwrap();
    assert_eq!((diff.joins.len(), diff.leaves.len()), (2, 0));
    assert_eq!(presence.flush_diff("r").unwrap(), Diff::default());
    presence.track("r", "eve", &Metadata::default()).unwrap();
    assert!(presence.untrack("r", "eve").unwrap());
    assert_eq!(presence.flush_diff("r").unwrap(), Diff::default(), "join and leave cancel out");
    assert!(presence.untrack("r", "bob").unwrap());
    assert!(!presence.untrack("r", "bob").unwrap());
    assert_eq!(presence.flush_diff("r").unwrap().leaves, ["bob"]);
    assert!(presence.update("r", "alice", &Metadata::from_iter([("n", "C")])).unwrap());
    assert!(presence.touch("r", "alice").unwrap() && !presence.touch("r", "bob").unwrap());
    assert_eq!(presence.get("r", "alice").unwrap().unwrap().metadata().next().unwrap().1, "C");
    presence.track("s", "alice", &Metadata::default()).unwrap();
    assert_eq!(presence.total_clients().unwrap(), 1);
    let mut rooms = presence.client_channels("alice").unwrap();
    rooms.sort();
    assert_eq!(rooms, ["r", "s"].map(Arc::from));
    let mut left = presence.untrack_all("alice").unwrap();
    left.sort();
    assert_eq!(left, ["r", "s"].map(Arc::from));
    assert_eq!(presence.total_clients().unwrap(), 0);
    assert_eq!(presence.active_channels().unwrap(), [""; 0]);
    presence.track("r", "zoe", &Metadata::default()).unwrap();
    assert_eq!(presence.evict_stale(60.0).unwrap(), []);
    assert_eq!(presence.evict_stale(0.0).unwrap(), [("r".to_owned(), "zoe".to_owned())]);
}

#[test]
fn a_member_told_again_is_seen_and_nothing_else() {
    let segment = segment();
    let presence = Presence::new(&world(&segment));
    let metadata = Metadata::from_iter([("name", "Alice"), ("status", "away")]);
    let watch = Watch::new(&presence, "r").unwrap();
    let changes = || watch.try_next().unwrap().map_or((0, 0), |changes| (changes.joins.len(), changes.updates.len()));
    presence.track("r", "alice", &metadata).unwrap();
    assert_eq!(changes(), (1, 0));
    let mut seen = presence.get("r", "alice").unwrap().unwrap().last_seen;
    let told: [&dyn Fn(); 2] = [&|| assert!(presence.update("r", "alice", &metadata).unwrap()), &|| {
        assert_eq!(presence.track("r", "alice", &metadata).unwrap().metadata().count(), 2)
    }];
    for tell in told {
        // Longer than a tick of the clock it is seen by.
        std::thread::sleep(std::time::Duration::from_millis(15));
        tell();
        let now = presence.get("r", "alice").unwrap().unwrap().last_seen;
        assert!(now > seen, "{now} is not after {seen}");
        seen = now;
    }
    assert_eq!(changes(), (0, 0));
    // One byte less, one other, and the same bytes as other pairs.
    for other in [&[("name", "Alice"), ("status", "awa")][..], &[("name", "Alice"), ("status", "awaz")], &[("name", "Alicestatus")]] {
        let metadata = Metadata::from_iter(other.iter().copied());
        assert!(presence.update("r", "alice", &metadata).unwrap());
        assert_eq!(changes(), (0, 1));
        let member = presence.get("r", "alice").unwrap().unwrap();
        let told: Vec<_> = member.metadata().collect();
        assert!(told.iter().map(|(key, value)| (&**key, &**value)).eq(other.iter().copied()));
    }
    assert_eq!(segment.scavenge().unwrap().blocks, 0, "nothing is left behind");
}

#[test]
fn metadata_of_any_length_take_each_others_place() {
    let segment = segment();
    let presence = Presence::new(&world(&segment));
    let joined = presence.track("r", "alice", &Metadata::default()).unwrap().joined_at;
    // Around the end of a small block, and of a larger one; from each to each.
    let lengths: Vec<usize> = (0..10).chain(120..150).chain([300, 2_000, 70_000, 3]).collect();
    for step in [1, 7] {
        for &length in lengths.iter().cycle().step_by(step).take(lengths.len()) {
            let value = "v".repeat(length);
            let metadata = Metadata::from_iter([("key", value.as_str())]);
            match length % 2 {
                0 => assert!(presence.update("r", "alice", &metadata).unwrap()),
                _ => assert_eq!(presence.track("r", "alice", &metadata).unwrap().joined_at, joined),
            }
            let alice = presence.get("r", "alice").unwrap().unwrap();
            assert_eq!((alice.client().as_ref(), alice.joined_at), ("alice", joined));
            assert!(alice.metadata().eq([("key".into(), value.as_str().into())]), "{length}");
            assert!(presence.holds("alice").unwrap());
        }
    }
    assert_eq!(segment.scavenge().unwrap().blocks, 0, "nothing is left behind");
}

/// Who looks reads the record that is just being replaced, and the time with it.
#[test]
fn when_a_member_was_seen_never_falls_while_others_look() {
    let segment = segment();
    let presence = Presence::new(&world(&segment));
    presence.track("r", "alice", &Metadata::default()).unwrap();
    // So that it was seen after it joined.
    std::thread::sleep(std::time::Duration::from_millis(15));
    let looked = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut told = 0_u64;
            while !looked.load(Ordering::Acquire) {
                told += 1;
                assert!(presence.update("r", "alice", &Metadata::from_iter([("n", told.to_string())])).unwrap());
            }
            assert!(told > 1);
        });
        while !presence.get("r", "alice").unwrap().is_some_and(|alice| alice.last_seen > alice.joined_at) {}
        let mut seen = Vec::new();
        for _ in 0..10_000 {
            seen.extend(presence.get("r", "alice").unwrap().map(|alice| alice.last_seen));
            seen.extend(presence.list("r").unwrap().iter().map(|alice| alice.last_seen));
        }
        looked.store(true, Ordering::Release);
        assert_eq!(seen.len(), 20_000, "it is there throughout");
        assert_eq!(seen.windows(2).filter(|pair| pair[0] > pair[1]).count(), 0);
    });
}

#[test]
fn a_thousand_members_and_a_hundred_thousand_rooms() {
    let segment = Segment::private(&Options::default()).unwrap();
    let presence = Presence::new(&world(&segment));
    for i in 0..1000 {
        presence.track("r", &format!("client {i}"), &Metadata::default()).unwrap();
    }
    assert_eq!(presence.count("r").unwrap(), 1000);
    let mut names: Vec<String> = presence.list("r").unwrap().into_iter().map(|member| member.client().into_owned()).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 1000);
    assert_eq!(presence.flush_diff("r").unwrap().joins.len(), 1000);
    assert_eq!(presence.total_clients().unwrap(), 1000);
    presence.clear().unwrap();
    assert_eq!(presence.total_clients().unwrap(), 0);
    // Far more rooms than there are cells, one after another.
    for i in 0..100_000 {
        let room = format!("room {i}");
        presence.track(&room, "alice", &Metadata::default()).unwrap();
        assert!(presence.untrack(&room, "alice").unwrap());
    }
    assert_eq!(segment.scavenge().unwrap().blocks, 0, "nothing was left for the scavenger");
}

#[test]
fn heartbeats() {
    let segment = segment();
    let heartbeats = Heartbeats::new(&world(&segment));
    let beat = Beat { interval_secs: 0.02, timeout_secs: 0.02, max_retries: 1000 };
    heartbeats.register("a", Some("5")).unwrap();
    assert!(heartbeats.is_alive("a", &Beat { timeout_secs: 60.0, ..beat }).unwrap());
    assert!(!heartbeats.is_alive("zz", &beat).unwrap() && heartbeats.is_timed_out("zz", &beat).unwrap());
    assert_eq!(heartbeats.last_event_id("a").unwrap().as_deref(), Some("5"));
    assert!(heartbeats.set_last_event_id("a", "6").unwrap());
    assert_eq!(heartbeats.last_event_id("a").unwrap().as_deref(), Some("6"));
    std::thread::sleep(std::time::Duration::from_millis(30));
    assert_eq!(heartbeats.own_needing_ping(&beat).unwrap(), ["a"]);
    assert!(heartbeats.ping("a").unwrap());
    let slow = Beat { interval_secs: 60.0, ..beat };
    assert_eq!(heartbeats.check_timeouts(&slow).unwrap(), ["a"]);
    assert_eq!(heartbeats.check_timeouts(&slow).unwrap(), [""; 0], "reported once");
    assert_eq!(heartbeats.retry_count("a", &slow).unwrap(), 1);
    assert!(heartbeats.pong("a").unwrap());
    assert_eq!(heartbeats.retry_count("a", &Beat { timeout_secs: 60.0, ..slow }).unwrap(), 0);
    std::thread::sleep(std::time::Duration::from_millis(30));
    assert_eq!(heartbeats.check_timeouts(&slow).unwrap(), ["a"], "a new silence is a new timeout");
    let once = Beat { max_retries: 0, ..slow };
    assert_eq!(heartbeats.dead(&once).unwrap(), ["a"]);
    assert_eq!(heartbeats.evict_dead(&once).unwrap(), ["a"]);
    assert_eq!(heartbeats.client_count().unwrap(), 0);
    let stats = heartbeats.stats(&slow).unwrap();
    assert_eq!((stats.pings, stats.pongs, stats.timeouts), (1, 1, 2));
}

#[test]
fn topics() {
    let segment = segment();
    let topics = Topics::new(&world(&segment), TopicsKind::Free);
    for (pattern, client) in [("chat:*", "u1"), ("chat:*", "u1"), ("chat:*", "u2"), ("#", "u2"), ("x:#:y", "u3"), ("chat:general", "u1")] {
        topics.subscribe(pattern, client).unwrap();
    }
    let mut found = topics.match_topic("chat:general").unwrap();
    found.sort();
    assert_eq!(found, ["u1", "u2"]);
    assert_eq!(topics.subscriber_count("chat:*").unwrap(), 2);
    assert_eq!(topics.pattern_count().unwrap(), 4);
    assert!(topics.unsubscribe("chat:*", "u1").unwrap() && !topics.unsubscribe("chat:*", "u1").unwrap());
    assert_eq!(topics.unsubscribe_all("u2").unwrap(), 2);
    assert_eq!(topics.match_topic("x:a:b:y").unwrap(), ["u3"]);
    let other = Topics::new(&world(&segment), TopicsKind::OfManager);
    assert_eq!(other.pattern_count().unwrap(), 0, "another kind is another world");
}

#[test]
fn namespaces_and_kinds_are_apart() {
    let segment = segment();
    let here = Channels::new(&World::new(&segment, "a").unwrap(), ChannelKind::Channel);
    let there = Channels::new(&World::new(&segment, "b").unwrap(), ChannelKind::Channel);
    let broadcasts = Channels::new(&World::new(&segment, "a").unwrap(), ChannelKind::Broadcast);
    here.create("x", &spec(2)).unwrap();
    assert!(here.contains("x").unwrap() && !there.contains("x").unwrap() && !broadcasts.contains("x").unwrap());
}

#[test]
fn a_closed_segment_says_so() {
    let segment = segment();
    let channels = channels(&segment);
    segment.close().unwrap();
    segment.close().unwrap();
    assert_eq!(channels.names(), Err(Error::Closed));
}
