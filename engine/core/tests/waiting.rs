//! Waiting without Python: threads that park, a waitlist behind one descriptor, patterns and watches.
#![cfg(not(modelled))]

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hypern_shm_core::{
    ChannelKind, ChannelSpec, Channels, Error, Form, Metadata, Options, Parked, Presence, Segment, Source, Waitlist, Watch, World, park,
};

fn world() -> World {
    World::new(&Segment::private(&Options { size: 4 << 20, ..Options::default() }).unwrap(), "").unwrap()
}

fn channels(names: &[&str]) -> Channels {
    let channels = Channels::new(&world(), ChannelKind::Channel);
    for name in names {
        create(&channels, name);
    }
    channels
}

fn create(channels: &Channels, name: &str) {
    let spec = ChannelSpec { buffer_size: 64, metadata: vec![], fail_when_unheard: false, dedup_window: None };
    assert!(channels.create(name, &spec).unwrap());
}

fn soon() -> Option<Instant> {
    Some(Instant::now() + Duration::from_secs(20))
}

/// Waits as its users do: on after every pause.
fn wait(source: &dyn Source) -> Result<Parked, Error> {
    let deadline = soon();
    loop {
        match park(source, deadline) {
            Ok(Parked::Pause) => {}
            other => return other,
        }
    }
}

#[test]
fn a_parked_thread_wakes_or_times_out() {
    let channels = channels(&["a"]);
    let receiver = channels.subscribe("a", "alice", None).unwrap().unwrap();
    assert_eq!(park(&*receiver, Some(Instant::now() + Duration::from_millis(20))), Ok(Parked::TimedOut));
    std::thread::scope(|scope| {
        let parked = scope.spawn(|| wait(&*receiver));
        std::thread::sleep(Duration::from_millis(50));
        channels.publish("a", b"x", Form::Bytes).unwrap();
        assert_eq!(parked.join().unwrap(), Ok(Parked::News));
        receiver.try_recv(&mut Vec::new()).unwrap().expect("it was rung for");
        let parked = scope.spawn(|| wait(&*receiver));
        std::thread::sleep(Duration::from_millis(50));
        assert!(channels.remove("a").unwrap());
        assert_eq!(parked.join().unwrap(), Ok(Parked::News), "the end is news");
        assert!(receiver.is_ended().unwrap());
    });
}

#[test]
fn a_waitlist_names_what_has_news_and_nothing_else() {
    let channels = channels(&["a", "b", "c"]);
    let open = |name: &str| -> Arc<dyn Source> { channels.subscribe(name, "alice", None).unwrap().unwrap() };
    let sources = [open("a"), open("b"), open("c")];
    let list = Waitlist::new(sources[0].segment()).unwrap();
    let tokens: Vec<u64> = sources.iter().map(|source| list.park(source).unwrap().expect("nothing is there")).collect();
    assert_eq!(list.take().unwrap(), []);
    channels.publish("b", b"x", Form::Bytes).unwrap();
    assert_eq!(list.take().unwrap(), [tokens[1]]);
    assert_eq!(list.park(&sources[1]).unwrap(), None, "what is there is not waited for");
    assert_eq!(list.len(), 2);
    channels.publish("a", b"x", Form::Bytes).unwrap();
    channels.publish("c", b"x", Form::Bytes).unwrap();
    assert!(list.unpark(tokens[0]) && !list.unpark(tokens[0]));
    assert_eq!(list.take().unwrap(), [tokens[2]]);
    assert!(list.is_empty());
    // Another world's news may share a dirty bit, and names nothing.
    channels.publish("a", b"x", Form::Bytes).unwrap();
    assert_eq!(list.take().unwrap(), []);
    let segment = sources[0].segment().clone();
    let token = list.park(&open("a")).unwrap().expect("it begins at the head");
    segment.close().unwrap();
    assert!(list.is_stale());
    assert_eq!(list.take(), Err(Error::Closed));
    assert_eq!(list.take_all(), [token]);
}

#[test]
fn bells_are_given_back() {
    let channels = channels(&["a"]);
    let segment = channels.world().segment();
    for _ in 0..300 {
        drop(Waitlist::new(segment).unwrap());
    }
    let lists: Vec<_> = (0..192).map_while(|_| Waitlist::new(segment).ok()).collect();
    assert!(matches!(Waitlist::new(segment), Err(Error::Full { setting: "waiters", .. })), "{} lists", lists.len());
    // A thread that finds none still hears.
    let receiver = channels.subscribe("a", "alice", None).unwrap().unwrap();
    std::thread::scope(|scope| {
        let parked = scope.spawn(|| {
            assert_eq!(wait(&*receiver), Ok(Parked::News));
            receiver.try_recv(&mut Vec::new()).unwrap().expect("the message");
            receiver.received()
        });
        std::thread::sleep(Duration::from_millis(30));
        channels.publish("a", b"x", Form::Bytes).unwrap();
        assert_eq!(parked.join().unwrap(), 1);
    });
    drop(lists);
    assert!(Waitlist::new(segment).is_ok());
}

#[test]
fn a_pattern_has_a_handle_on_every_match() {
    let channels = channels(&["chat:a", "other"]);
    let receiver = channels.subscribe_pattern("chat:#", "p").unwrap();
    create(&channels, "chat:b");
    let mut heard = HashSet::new();
    for name in ["chat:a", "chat:b"] {
        assert_eq!(channels.publish(name, b"x", Form::Bytes), Ok(Some(1)));
    }
    assert_eq!(channels.publish("other", b"x", Form::Bytes), Ok(Some(0)));
    while let Some((_, channel)) = receiver.try_recv(&mut Vec::new()).unwrap() {
        heard.insert(channel);
    }
    assert_eq!(heard, HashSet::from(["chat:a".to_owned(), "chat:b".to_owned()]));
    receiver.close().unwrap();
    assert_eq!(channels.publish("chat:b", b"x", Form::Bytes), Ok(Some(0)));
    assert_eq!(receiver.try_recv(&mut Vec::new()), Err(Error::HandleClosed));
}

#[test]
fn a_watch_tells_the_list_and_then_changes() {
    let presence = Presence::new(&world());
    let watch = Watch::new(&presence, "room").unwrap();
    assert!(watch.try_next().unwrap().expect("the list").joins.is_empty());
    assert!(watch.try_next().unwrap().is_none());
    presence.track("room", "ada", &Metadata::default()).unwrap();
    assert_eq!(wait(&watch), Ok(Parked::News));
    assert_eq!(watch.try_next().unwrap().expect("a join").joins[0].client(), "ada");
    assert!(presence.release("room", "ada").unwrap());
    assert_eq!(watch.try_next().unwrap().expect("a leave").leaves, ["ada"]);
}
