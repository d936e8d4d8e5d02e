//! The whole API at random, whatever it answers.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hypern_shm_core::{
    Beat, ChannelKind, ChannelSpec, Channels, Error, Form, Heartbeats, Metadata, PatternReceiver, Presence, Receiver, Segment, Source,
    Topics, TopicsKind, Waitlist, Watch, World, park,
};

/// Where choices come from: a seed (SplitMix64, Steele et al. 2014), or bytes that somebody else chose.
pub enum Choices {
    Seeded(u64),
    Given(std::vec::IntoIter<u8>),
}

impl Choices {
    pub fn next(&mut self) -> u64 {
        match self {
            Choices::Seeded(state) => {
                *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut word = *state;
                word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
                word ^ word >> 31
            }
            Choices::Given(_) => (0..8).fold(0, |word, _| word << 8 | self.byte()),
        }
    }

    fn byte(&mut self) -> u64 {
        match self {
            Choices::Seeded(_) => self.next() & 0xff,
            Choices::Given(bytes) => bytes.next().map_or(0, u64::from),
        }
    }

    /// One of `bound`: a small one costs a byte of those given.
    pub fn below(&mut self, bound: u64) -> u64 {
        let choice = match self {
            Choices::Given(_) if bound <= 1 << 8 => self.byte(),
            Choices::Given(_) if bound <= 1 << 16 => self.byte() << 8 | self.byte(),
            _ => self.next(),
        };
        choice % bound.max(1)
    }

    /// Are there no choices left?
    pub fn is_over(&self) -> bool {
        matches!(self, Choices::Given(bytes) if bytes.len() == 0)
    }
}

/// What is open.
#[derive(Default)]
struct Handles {
    receivers: Vec<Arc<Receiver>>,
    patterns: Vec<PatternReceiver>,
    watches: Vec<Watch>,
    lists: Vec<Arc<Waitlist>>,
}

/// Somebody who uses a segment.
pub struct Worker<'f> {
    /// Told of every operation: begun so far, and of these how many ended in an error.
    counter: &'f dyn Fn([u64; 2]),
    counts: [u64; 2],
    random: Choices,
    handles: Handles,
    buffer: Vec<u8>,
}

impl<'f> Worker<'f> {
    pub fn new(random: Choices, counter: &'f dyn Fn([u64; 2])) -> Worker<'f> {
        Worker { counter, counts: [0; 2], random, handles: Handles::default(), buffer: Vec::new() }
    }

    /// Does all kinds of operations, and leaves open what is open.
    pub fn fill(&mut self, segment: &Segment) {
        for _ in 0..600 {
            self.once(segment);
        }
    }

    /// Does as many operations as there are choices for, then closes everything.
    pub fn use_up(&mut self, segment: &Segment, most: u32) {
        for _ in 0..most {
            if self.random.is_over() {
                break;
            }
            self.once(segment);
        }
        self.handles = Handles::default();
    }

    /// Whatever it answers; but it is written down that it answered.
    fn did<T>(&mut self, done: Result<T, Error>) -> Option<T> {
        self.counts[0] += 1;
        self.counts[1] += u64::from(done.is_err());
        (self.counter)(self.counts);
        done.ok()
    }

    fn name(&mut self, what: &str, many: u64) -> String {
        format!("{what} {}", self.random.below(many))
    }

    fn once(&mut self, segment: &Segment) {
        let Some(world) = self.did(World::new(segment, "")) else {
            return;
        };
        let kind = if self.random.below(3) == 0 { ChannelKind::Broadcast } else { ChannelKind::Channel };
        let channels = Channels::new(&world, kind);
        let presence = Presence::new(&world);
        let heartbeats = Heartbeats::new(&world);
        let topics = Topics::new(&world, TopicsKind::OfManager);
        let beat = Beat { interval_secs: 0.0, timeout_secs: 0.1, max_retries: 2 };
        let (room, client) = (self.name("room", 5), self.name("client", 30));
        let payload = vec![b'x'; [0, 10, 300, 5000, 40_000][self.random.below(5) as usize]];
        let id = self.name("id", 20);
        match self.random.below(34) {
            0 | 1 => {
                let spec = ChannelSpec {
                    buffer_size: 1 << self.random.below(7),
                    metadata: vec![("a".into(), "b".repeat(300))],
                    fail_when_unheard: self.random.below(2) == 0,
                    dedup_window: (self.random.below(2) == 0).then_some(8),
                };
                self.did(channels.create(&room, &spec));
            }
            2 => drop(self.did(channels.remove(&room))),
            3..=6 => drop(self.did(channels.publish(&room, &payload, Form::Text))),
            7 => drop(self.did(channels.send(&room, &payload, Form::Bytes, Some(&id)))),
            8 | 9 => {
                let last = ["", "00-1", "not an id"][self.random.below(3) as usize];
                let opened = self.did(channels.subscribe(&room, &client, (!last.is_empty()).then_some(last)));
                self.handles.receivers.extend(opened.flatten());
            }
            10 => {
                let opened = self.did(channels.subscribe_pattern("#", &client));
                self.handles.patterns.extend(opened);
            }
            11 => drop(self.did(channels.unsubscribe(&room, &client))),
            12 => drop(self.did(channels.subscribers(&room))),
            13 => drop(self.did(channels.names())),
            14 => drop(self.did(channels.stats(&room))),
            15 => drop(self.did(channels.publish_matching("#", b"x", Form::Text))),
            16 => drop(self.did(channels.replay(&room, None, None))),
            17 | 18 => drop(self.did(presence.track(&room, &client, &Metadata::from_iter([("a", "x".repeat(300))])))),
            19 => drop(self.did(presence.untrack(&room, &client))),
            20 => {
                let metadata = Metadata::from_iter([("a", "x".repeat(self.random.below(400) as usize))]);
                _ = self.did(presence.update(&room, &client, &metadata));
            }
            21 => drop(self.did(presence.list(&room))),
            22 => drop(self.did(presence.flush_diff(&room))),
            23 => drop(self.did(presence.evict_stale(0.05))),
            24 => drop(self.did(heartbeats.register(&client, Some("7")))),
            25 => drop(self.did(heartbeats.pong(&client))),
            26 => drop(self.did(heartbeats.evict_dead(&beat))),
            27 => drop(self.did(topics.subscribe("a:*", &client))),
            28 => drop(self.did(topics.match_topic("a:b"))),
            29 => drop(self.did(segment.reap())),
            30 => drop(self.did(segment.stats())),
            31 if self.random.below(20) == 0 => drop(self.did(segment.scavenge())),
            32 => {
                let watch = self.did(Watch::new(&presence, &room));
                self.handles.watches.extend(watch);
            }
            33 if self.random.below(10) == 0 => {
                let list = self.did(Waitlist::new(segment));
                self.handles.lists.extend(list);
            }
            _ => {}
        }
        self.receive();
    }

    fn receive(&mut self) {
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut handles = std::mem::take(&mut self.handles);
        for receiver in &handles.receivers {
            for _ in 0..4 {
                if self.did(receiver.try_recv(&mut buffer)).flatten().is_none() {
                    break;
                }
            }
            self.did(receiver.is_ended());
        }
        for pattern in &handles.patterns {
            for _ in 0..4 {
                if self.did(pattern.try_recv(&mut buffer)).flatten().is_none() {
                    break;
                }
            }
        }
        for watch in &handles.watches {
            self.did(watch.try_next());
        }
        if let Some(receiver) = handles.receivers.first() {
            self.did(park(&**receiver, Some(Instant::now() + Duration::from_micros(200))));
            for list in &handles.lists {
                let source: Arc<dyn Source> = receiver.clone();
                self.did(list.park(&source));
                self.did(list.take());
            }
        }
        // Oldest out: closing is part of it.
        if handles.receivers.len() > 6 {
            handles.receivers.remove(0);
        }
        if handles.patterns.len() > 2 {
            let gone = handles.patterns.remove(0);
            self.did(gone.close());
        }
        if handles.watches.len() > 2 {
            handles.watches.remove(0);
        }
        if handles.lists.len() > 2 {
            handles.lists.remove(0);
        }
        self.handles = handles;
        self.buffer = buffer;
    }
}

/// Until somebody kills us.
pub fn for_ever(name: &str, seed: u64, counter: &File) {
    let count = |counts: [u64; 2]| {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&counts[0].to_le_bytes());
        bytes[8..].copy_from_slice(&counts[1].to_le_bytes());
        counter.write_all_at(&bytes, 0).expect("a file");
    };
    let mut worker = Worker::new(Choices::Seeded(seed), &count);
    loop {
        let Some(segment) = worker.did(Segment::attach(name)) else {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        let most = worker.random.below(400) as u32;
        worker.use_up(&segment, most);
        worker.did(segment.close());
    }
}
