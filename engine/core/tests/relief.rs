//! Handles on patterns whose owner does not look, where cells or ring units run out: what removed channels keep for them is
//! given up, oldest first, so that others go on creating, and what is received and what is missed add up to what was published.
#![cfg(not(modelled))]

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hypern_shm_core::{ChannelKind, ChannelSpec, Channels, Error, Form, Metadata, Options, PatternReceiver, Presence, Segment, World};

const CELLS: u32 = 64;

fn segment() -> Segment {
    Segment::private(&Options { channels: Some(CELLS), ..Options::default() }).expect("room")
}

fn channels(segment: &Segment, namespace: &str) -> Channels {
    Channels::new(&World::new(segment, namespace).expect("room"), ChannelKind::Channel)
}

fn spec(buffer_size: u64) -> ChannelSpec {
    ChannelSpec { buffer_size, metadata: Vec::new(), fail_when_unheard: false, dedup_window: None }
}

/// A channel that comes and goes, with so many messages.
fn come_and_go(channels: &Channels, name: &str, buffer_size: u64, messages: u64) {
    assert_eq!(channels.create(name, &spec(buffer_size)), Ok(true), "{name}");
    for number in 0..messages {
        channels.publish(name, format!("{name}|{number}").as_bytes(), Form::Text).expect("attached").expect("it is there");
    }
    assert_eq!(channels.remove(name), Ok(true), "{name}");
}

/// Takes everything there is; each channel's messages are in order, and none comes twice.
fn drain(receiver: &PatternReceiver, last: &mut HashMap<String, u64>) {
    let mut buffer = Vec::new();
    while let Some((_, channel)) = receiver.try_recv(&mut buffer).expect("open") {
        let text = std::str::from_utf8(&buffer).expect("whole");
        let (name, number) = text.split_once('|').expect("whole");
        assert_eq!(name, channel, "of a wrong channel");
        let number: u64 = number.parse().expect("whole");
        assert!(last.insert(channel, number).is_none_or(|last| last < number), "doubled or out of order: {text}");
    }
}

fn sound(segment: &Segment) {
    assert_eq!(segment.check().expect("attached"), Vec::<String>::new());
}

#[test]
fn who_never_looks_keeps_nobody_from_creating() {
    let segment = segment();
    let channels = channels(&segment, "");
    let (one, other) = (channels.subscribe_pattern("#", "ada").unwrap(), channels.subscribe_pattern("room:*", "bob").unwrap());
    let often = u64::from(CELLS) * 20;
    for number in 0..often {
        come_and_go(&channels, &format!("room:{number}"), 4, 3);
    }
    sound(&segment);
    for receiver in [&one, &other] {
        let mut last = HashMap::new();
        drain(receiver, &mut last);
        assert_eq!(receiver.received() + receiver.missed(), 3 * often, "received {}", receiver.received());
        assert!(receiver.received() > 3 * u64::from(CELLS / 4), "more was given up than need be: {} were received", receiver.received());
        assert!(last.contains_key(&format!("room:{}", often - 1)), "the oldest goes first");
        assert!(!last.contains_key("room:0"));
    }
    println!("{often} channels in {CELLS} cells: received {}, missed {}", one.received(), one.missed());
    one.close().unwrap();
    other.close().unwrap();
    sound(&segment);
}

#[test]
fn who_has_begun_to_look_keeps_a_few_channels_only() {
    let segment = segment();
    let channels = channels(&segment, "");
    let receiver = channels.subscribe_pattern("#", "ada").unwrap();
    for number in 0..100 {
        come_and_go(&channels, &format!("room:{number}"), 4, 3);
    }
    // One message of a hundred channels; as if stopped from here on.
    let mut buffer = Vec::new();
    assert!(receiver.try_recv(&mut buffer).unwrap().is_some());
    let often = u64::from(CELLS) * 20;
    for number in 100..often {
        come_and_go(&channels, &format!("room:{number}"), 4, 3);
    }
    sound(&segment);
    let mut last = HashMap::new();
    drain(&receiver, &mut last);
    assert_eq!(receiver.received() + receiver.missed(), 3 * often, "received {}", receiver.received());
    assert!(last.contains_key("room:1") && last.contains_key(&format!("room:{}", often - 1)), "what was begun is kept, and the last");
    println!("{often} channels in {CELLS} cells: received {}, missed {}", receiver.received(), receiver.missed());
    receiver.close().unwrap();
    sound(&segment);
}

#[test]
fn ring_units_are_given_up_like_cells() {
    let segment = Segment::private(&Options { channels: Some(CELLS), ring_slots: Some(1 << 10), ..Options::default() }).expect("room");
    let channels = channels(&segment, "");
    let receiver = channels.subscribe_pattern("#", "ada").unwrap();
    for number in 0..100 {
        come_and_go(&channels, &format!("a:{number}"), 256, 5);
    }
    drain(&receiver, &mut HashMap::new());
    assert_eq!(receiver.received() + receiver.missed(), 500);
    assert!(receiver.received() > 0 && receiver.missed() > 0);
    sound(&segment);
}

#[test]
fn a_channel_that_somebody_receives_from_is_kept() {
    let segment = segment();
    let channels = channels(&segment, "");
    let receiver = channels.subscribe_pattern("#", "ada").unwrap();
    let mut last = HashMap::new();
    assert!(channels.create("kept", &spec(8)).unwrap());
    drain(&receiver, &mut last);
    for number in 0..5 {
        channels.publish("kept", format!("kept|{number}").as_bytes(), Form::Text).unwrap();
    }
    assert!(channels.remove("kept").unwrap());
    for number in 0..u64::from(CELLS) * 3 {
        come_and_go(&channels, &format!("b:{number}"), 1, 1);
    }
    drain(&receiver, &mut last);
    assert_eq!(last["kept"], 4, "it had been looked at: all of it is received");
    assert_eq!(receiver.received() + receiver.missed(), 5 + u64::from(CELLS) * 3);
    sound(&segment);
}

#[test]
fn many_who_never_look_do_not_fill_the_arena() {
    const LISTENERS: u64 = 100;
    let segment = Segment::private(&Options { size: 2 << 20, channels: Some(512), ..Options::default() }).expect("room");
    let channels = channels(&segment, "");
    let listeners: Vec<_> = (0..LISTENERS).map(|_| channels.subscribe_pattern("#", "ada").expect("room")).collect();
    let mut published = 0;
    for number in 0..200 {
        let name = format!("d:{number}");
        assert_eq!(channels.create(&name, &spec(4)), Ok(true), "{name}");
        assert_eq!(channels.publish(&name, format!("{name}|0").as_bytes(), Form::Text), Ok(Some(LISTENERS)), "{name}");
        published += 1;
        assert_eq!(channels.remove(&name), Ok(true), "{name}");
    }
    sound(&segment);
    for listener in &listeners {
        drain(listener, &mut HashMap::new());
        assert_eq!(listener.received() + listener.missed(), published);
    }
    println!("{LISTENERS} listeners: received {}, missed {} each", listeners[0].received(), listeners[0].missed());
    drop(listeners);
    sound(&segment);
}

#[test]
fn what_came_after_an_unsubscription_is_not_missed() {
    let segment = segment();
    let channels = channels(&segment, "");
    let receiver = channels.subscribe_pattern("#", "ada").unwrap();
    assert!(channels.create("ended", &spec(8)).unwrap());
    drop(channels.subscribe("ended", "ada", None).unwrap().expect("it is there"));
    for number in 0..5 {
        if number == 2 {
            assert!(channels.unsubscribe("ended", "ada").unwrap());
        }
        let heard = channels.publish("ended", format!("ended|{number}").as_bytes(), Form::Text).unwrap();
        assert_eq!(heard, Some(u64::from(number < 2)));
    }
    assert!(channels.remove("ended").unwrap());
    for number in 0..u64::from(CELLS) * 4 {
        come_and_go(&channels, &format!("b:{number}"), 1, 1);
    }
    let mut last = HashMap::new();
    drain(&receiver, &mut last);
    assert!(!last.contains_key("ended"), "given up");
    assert_eq!(receiver.received() + receiver.missed(), 2 + u64::from(CELLS) * 4);
}

#[test]
fn a_handle_that_finds_no_room_hides_no_other_channel() {
    let segment = Segment::private(&Options { size: 1 << 20, ..Options::default() }).expect("room");
    let channels = channels(&segment, "");
    let presence = Presence::new(&World::new(&segment, "").expect("room"));
    let client = "a".repeat(3000);
    let receiver = channels.subscribe_pattern("#", &client).unwrap();
    for number in 0..8 {
        assert!(channels.create(&format!("before:{number}"), &spec(4)).unwrap());
    }
    // Until there is room for a channel's name, and for no handle of so long a client.
    let mut members = 0;
    for length in [1500, 0] {
        let mut metadata = Metadata::default();
        metadata.push("k", &"v".repeat(length));
        while presence.track("room", &format!("{members}"), &metadata).is_ok() {
            members += 1;
        }
    }
    let mut left = 0;
    while !matches!(channels.create("in the middle", &spec(4)), Ok(true)) {
        left += 1;
        assert!(presence.untrack("room", &format!("{}", members - left)).unwrap());
    }
    assert_eq!(channels.publish("in the middle", b"in the middle|0", Form::Text).unwrap(), Some(0), "there was room for a handle");
    let full = receiver.try_recv(&mut Vec::new());
    assert!(matches!(full, Err(Error::Full { .. })), "{full:?}");
    presence.clear().unwrap();
    for number in 0..8 {
        let name = format!("before:{number}");
        channels.publish(&name, format!("{name}|0").as_bytes(), Form::Text).unwrap();
    }
    let mut last = HashMap::new();
    drain(&receiver, &mut last);
    // The arena was full: the one message that was there may have made room for others.
    assert_eq!(receiver.received() + receiver.missed(), 9, "{last:?}");
    assert!((0..8).all(|number| last.contains_key(&format!("before:{number}"))), "{last:?}");
    sound(&segment);
}

#[test]
fn what_is_in_use_is_not_given_up() {
    let segment = segment();
    let channels = channels(&segment, "");
    let mut made = 0;
    let full = loop {
        match channels.create(&format!("c:{made}"), &spec(1)) {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, Error::Full { setting: "channels", .. }), "{full}");
    assert_eq!(channels.count(), Ok(made));
    sound(&segment);
}

#[test]
fn channels_take_the_place_of_groups_in_which_nobody_is() {
    let segment = segment();
    let world = World::new(&segment, "").expect("room");
    let (channels, presence) = (channels(&segment, ""), Presence::new(&world));
    for round in 0..3 {
        for number in 0..u64::from(CELLS) - 4 {
            let room = format!("{round}:{number}");
            presence.track(&room, "ada", &Metadata::default()).expect("room");
            presence.untrack(&room, "ada").expect("attached");
            presence.flush_diff(&room).expect("attached");
        }
        for number in 0..u64::from(CELLS) - 4 {
            assert_eq!(channels.create(&number.to_string(), &spec(1)), Ok(true), "{round}");
        }
        channels.clear().expect("attached");
    }
    sound(&segment);
}

#[test]
fn everything_adds_up_while_others_create_and_look() {
    const CREATORS: u64 = 3;
    const EACH: u64 = 1500;
    let segment = segment();
    let published = AtomicU64::new(0);
    let over = AtomicBool::new(false);
    // Of two worlds, so that one's creators give up what was kept for the other's.
    let receivers: Vec<PatternReceiver> =
        ["#", "a:*"].iter().map(|pattern| channels(&segment, "").subscribe_pattern(pattern, "ada").unwrap()).collect();
    let elsewhere = channels(&segment, "elsewhere").subscribe_pattern("#", "ada").unwrap();
    std::thread::scope(|scope| {
        let creators: Vec<_> = (0..CREATORS)
            .map(|creator| {
                let (segment, published) = (&segment, &published);
                scope.spawn(move || {
                    let (here, there) = (channels(segment, ""), channels(segment, "elsewhere"));
                    for number in 0..EACH {
                        let channels = if number % 4 == 3 { &there } else { &here };
                        come_and_go(channels, &format!("a:{creator} {number}"), 2, number % 3);
                        if number % 4 != 3 {
                            published.fetch_add(number % 3, Ordering::Relaxed);
                        }
                    }
                })
            })
            .collect();
        for receiver in &receivers {
            let over = &over;
            scope.spawn(move || {
                let mut last = HashMap::new();
                while !over.load(Ordering::Acquire) {
                    drain(receiver, &mut last);
                    std::thread::sleep(std::time::Duration::from_millis(2));
                }
                drain(receiver, &mut last);
            });
        }
        // Before anything is said of them: the others end only then.
        let created: Vec<_> = creators.into_iter().map(|creator| creator.join()).collect();
        over.store(true, Ordering::Release);
        created.into_iter().for_each(|created| created.expect("everybody can create"));
    });
    let published = published.load(Ordering::Relaxed);
    for receiver in &receivers {
        println!("{}: {published} published, {} received, {} missed", receiver.pattern(), receiver.received(), receiver.missed());
        assert_eq!(receiver.received() + receiver.missed(), published, "{}", receiver.pattern());
    }
    drain(&elsewhere, &mut HashMap::new());
    let there: u64 = CREATORS * (0..EACH).filter(|number| number % 4 == 3).map(|number| number % 3).sum::<u64>();
    assert_eq!(elsewhere.received() + elsewhere.missed(), there);
    sound(&segment);
}
