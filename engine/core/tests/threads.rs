//! Threads on one segment, as many as a server with several event loops has: everything that loom checks small, at
//! full size. Without the usual harness, so that ThreadSanitizer can watch: `make test-threads`.

#[cfg(loom)]
fn main() {}

#[cfg(not(modelled))]
fn main() {
    // A runner that asks which tests there are is told of none.
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    println!("{} messages, {} joins and leaves, by threads that agree", messages::run(), members::run());
}

#[cfg(not(modelled))]
mod messages {
    use hypern_shm_core::{ChannelKind, ChannelSpec, Channels, Form, Options, Parked, Segment, World, park};
    use std::time::{Duration, Instant};

    const PUBLISHERS: u64 = 3;
    const EACH: u64 = 5_000;

    /// Everything published is received or counted as missed, in order, whole, in every thread.
    pub fn run() -> u64 {
        let segment = Segment::private(&Options { size: 1 << 20, ..Options::default() }).expect("room");
        let channels = Channels::new(&World::new(&segment, "").expect("room"), ChannelKind::Channel);
        let spec = ChannelSpec { buffer_size: 64, metadata: vec![], fail_when_unheard: false, dedup_window: None };
        assert!(channels.create("a", &spec).expect("room"));
        let receivers: Vec<_> = (0..2).map(|_| channels.subscribe("a", "r", None).expect("room").expect("it is there")).collect();
        std::thread::scope(|scope| {
            for publisher in 0..PUBLISHERS {
                let channels = &channels;
                scope.spawn(move || {
                    for number in 0..EACH {
                        let payload = format!("{publisher}|{number}|{}", "x".repeat((number % 7 * 90) as usize));
                        channels.publish("a", payload.as_bytes(), Form::Text).expect("room").expect("it is there");
                    }
                });
            }
            for receiver in &receivers {
                scope.spawn(move || {
                    let mut last = [None; PUBLISHERS as usize];
                    let mut buffer = Vec::new();
                    while receiver.received() + receiver.missed() < PUBLISHERS * EACH {
                        if receiver.try_recv(&mut buffer).expect("open").is_none() {
                            let waited = park(&**receiver, Some(Instant::now() + Duration::from_secs(60))).expect("attached");
                            assert_ne!(waited, Parked::TimedOut, "news was slept through");
                            continue;
                        }
                        let text = std::str::from_utf8(&buffer).expect("whole");
                        let parts: Vec<&str> = text.split('|').collect();
                        let (publisher, number): (usize, u64) = (parts[0].parse().expect("a number"), parts[1].parse().expect("a number"));
                        assert_eq!(parts[2].len() as u64, number % 7 * 90, "torn");
                        assert!(last[publisher].is_none_or(|last| last < number), "reordered or doubled");
                        last[publisher] = Some(number);
                    }
                });
            }
        });
        drop(receivers);
        assert_eq!(segment.check().expect("attached"), Vec::<String>::new());
        PUBLISHERS * EACH
    }
}

#[cfg(not(modelled))]
mod members {
    use hypern_shm_core::{Metadata, Options, Presence, Segment, Watch, World};
    use std::collections::HashSet;

    const THREADS: u64 = 3;
    const EACH: u64 = 1_000;

    /// Joins and leaves of all threads are there or gone at the end, and a watcher has seen neither twice.
    pub fn run() -> u64 {
        let segment = Segment::private(&Options { size: 1 << 20, ..Options::default() }).expect("room");
        let presence = Presence::new(&World::new(&segment, "").expect("room"));
        let watch = Watch::new(&presence, "hall").expect("room");
        let mut present = HashSet::new();
        let mut look = |watch: &Watch| {
            if let Some(changes) = watch.try_next().expect("open") {
                for member in changes.joins {
                    assert!(present.insert(member.client().into_owned()), "joined twice");
                }
                for client in changes.leaves {
                    assert!(present.remove(&client), "left twice");
                }
            }
            present.len()
        };
        std::thread::scope(|scope| {
            let working: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let presence = &presence;
                    scope.spawn(move || {
                        for turn in 0..EACH {
                            let client = format!("{thread} {}", turn % 50);
                            presence.track("hall", &client, &Metadata::from_iter([("turn", turn.to_string())])).expect("room");
                            presence.touch("hall", &client).expect("attached");
                            if turn % 3 > 0 {
                                assert!(presence.untrack("hall", &client).expect("room"));
                            }
                        }
                    })
                })
                .collect();
            while working.iter().any(|thread| !thread.is_finished()) {
                look(&watch);
            }
        });
        assert_eq!(look(&watch) as u64, presence.count("hall").expect("attached"));
        assert_eq!(segment.check().expect("attached"), Vec::<String>::new());
        THREADS * EACH
    }
}
