//! What each process does: the whole API in one round, with everything that is received checked.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hypern_shm_core::points::{Fate, arm, meanwhile, number};
use hypern_shm_core::{
    Beat, ChannelKind, ChannelSpec, Channels, Error, Form, Heartbeats, Hub, Metadata, Options, PatternReceiver, Presence, Receiver,
    Segment, Source, Topics, TopicsKind, Waitlist, World, park,
};

use crate::ledger::{Entry, Ledger};
use crate::variable;

/// The channel that is never removed, on which every message is accounted for.
const STEADY: &str = "steady";
/// The channel that the sleeper sleeps behind.
const BEDSIDE: &str = "bedside";
/// Which of the peers sleeps.
const SLEEPER: usize = 2;
/// Which of the peers has a handle on a pattern, in a world apart, and looks only when it comes to rest.
const ABSENT: usize = 1;
const APART: &str = "apart";
/// A publisher's entries in the ledger: peers first, then these.
const PREY: usize = 6;
const VICTIM: usize = 7;
/// Rounds of a victim that never comes by its point.
const ROUNDS: u64 = 12;

/// The name of the segment that victims create anew.
pub fn fresh(name: &str) -> String {
    format!("{name}-fresh")
}

fn small() -> Options {
    Options { size: 512 << 10, max_processes: 4, ..Options::default() }
}

/// Whatever a victim left of it, the next one gets a sound segment.
pub fn open_fresh(name: &str) {
    let segment = Segment::open(&fresh(name), &small()).expect("it is made anew");
    segment.reap().expect("attached");
    assert_eq!(segment.check().expect("attached"), Vec::<String>::new(), "the segment that a victim made");
    segment.unlink().expect("it is ours");
    segment.close().expect("attached");
}

fn spec(buffer_size: u64) -> ChannelSpec {
    ChannelSpec { buffer_size, metadata: vec![("a".into(), "b".into())], fail_when_unheard: false, dedup_window: None }
}

/// What must be there before anybody begins.
pub fn prepare(segment: &Segment) {
    let channels = Channels::new(&World::new(segment, "").expect("room"), ChannelKind::Channel);
    for name in [STEADY, BEDSIDE] {
        assert!(channels.create(name, &spec(64)).expect("room"));
    }
}

/// How many messages the steady channel has seen.
pub fn published(segment: &Segment) -> u64 {
    let channels = Channels::new(&World::new(segment, "").expect("room"), ChannelKind::Channel);
    let receiver = channels.open_handle(STEADY, None).expect("room").expect("it is never removed");
    receiver.last_id().sequence
}

/// Messages as last seen, by channel and publisher.
#[derive(Default)]
struct Seen {
    last: HashMap<(String, String), u64>,
    gaps: u64,
}

impl Seen {
    /// A message is whole, of this channel, and after what came before it from its publisher.
    fn check(&mut self, channel: &str, bytes: &[u8]) {
        let text = std::str::from_utf8(bytes).unwrap_or_else(|_| panic!("torn: {bytes:?}"));
        let parts: Vec<&str> = text.splitn(5, '|').collect();
        let [named, publisher, number, length, rest] = parts[..] else {
            panic!("torn: {text:.100}");
        };
        assert_eq!(named, channel, "delivered to a wrong channel");
        assert!(rest.len().to_string() == length && rest.bytes().all(|byte| byte == b'x'), "torn: {text:.100}");
        let number: u64 = number.parse().expect("a number");
        let last = self.last.insert((named.into(), publisher.into()), number);
        assert!(last.is_none_or(|last| last < number), "reordered or doubled: {text:.60} after {last:?}");
        self.gaps += last.map_or(0, |last| number - last - 1);
    }
}

/// Nothing is lost because something is full: history shrinks, and what is refused is refused whole.
fn room<T>(done: Result<T, Error>) -> Option<T> {
    match done {
        Ok(value) => Some(value),
        Err(Error::Full { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

struct Worker {
    name: String,
    index: usize,
    publisher: String,
    /// Messages published on the steady channel, and on others.
    published: u64,
    elsewhere: u64,
    ledger: Ledger,
    random: u64,
    segment: Segment,
    steady: Arc<Receiver>,
    first: u64,
    seen: Seen,
    turn: u64,
}

impl Worker {
    fn new(index: usize) -> Worker {
        let name = variable("SEGMENT").expect("the harness says");
        let ledger = Ledger::open(variable("LEDGER").expect("the harness says").into());
        let segment = Segment::open(&name, &crate::options()).expect("it is there");
        let channels = Channels::new(&World::new(&segment, "").expect("room"), ChannelKind::Channel);
        let steady = channels.subscribe(STEADY, &format!("client {index}"), None).expect("room").expect("it is never removed");
        Worker {
            name,
            index,
            publisher: std::process::id().to_string(),
            published: 0,
            elsewhere: 0,
            ledger,
            random: variable("SEED").expect("the harness says").parse().expect("a number"),
            first: steady.last_id().sequence,
            segment,
            steady,
            seen: Seen::default(),
            turn: 0,
        }
    }

    /// SplitMix64 (Steele et al. 2014).
    fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.random;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ word >> 31) % bound
    }

    fn message(&mut self, channel: &str, number: u64) -> Vec<u8> {
        let length = [0, 20, 400, 3000, 20_000][self.below(5) as usize];
        self.message_of(channel, number, length)
    }

    fn message_of(&self, channel: &str, number: u64, length: usize) -> Vec<u8> {
        format!("{channel}|{}|{number}|{length}|{}", self.publisher, "x".repeat(length)).into_bytes()
    }

    /// Publishes one message that is accounted for, and takes what is there.
    fn steady(&mut self, channels: &Channels) {
        self.published += 1;
        let message = self.message(STEADY, self.published);
        self.ledger.add(Entry::Tried(self.index));
        if room(channels.publish(STEADY, &message, Form::Text)).is_some() {
            self.ledger.add(Entry::Done(self.index));
        } else {
            self.published -= 1;
        }
        // Asleep for a moment, so that publishers have somebody to ring.
        self.drain();
        room(park(&*self.steady, Some(Instant::now() + Duration::from_micros(500))));
        self.drain();
    }

    fn drain(&mut self) {
        let mut buffer = Vec::new();
        while self.steady.try_recv(&mut buffer).expect("open").is_some() {
            self.seen.check(STEADY, &buffer);
        }
        let cursor = self.steady.last_id().sequence;
        let (got, missed) = (self.steady.received(), self.steady.missed());
        assert_eq!(got + missed, cursor - self.first, "delivered and missed are not what was published");
        assert!(self.seen.gaps <= missed, "{} messages are neither delivered nor missed, {missed} are missed", self.seen.gaps);
    }

    /// Everything once.
    fn round(&mut self) {
        let world = World::new(&self.segment, "").expect("room");
        let channels = Channels::new(&world, ChannelKind::Channel);
        self.steady(&channels);
        self.rooms(&channels);
        self.broadcasts(&Channels::new(&world, ChannelKind::Broadcast));
        self.presence(&Presence::new(&world));
        self.heartbeats(&Heartbeats::new(&world));
        self.topics(&Topics::new(&world, TopicsKind::OfManager));
        self.guests(&Hub::new(channels.clone(), Presence::new(&world), Heartbeats::new(&world)));
        self.steady(&channels);
    }

    /// Channels that come and go, with handles on them by name and by pattern.
    fn rooms(&mut self, channels: &Channels) {
        // Everybody at once: somebody finds the name taken after having made a channel for it; we do for sure.
        let others = channels.clone();
        meanwhile(number("create.made"), move || {
            room(others.create("contested", &spec(1)));
        });
        for _ in 0..10 {
            room(channels.create("contested", &spec(1)));
            channels.remove("contested").expect("attached");
        }
        let room_name = format!("room {}", self.below(3));
        let mut seen = Seen::default();
        let mut of_pattern = Seen::default();
        let pattern: Option<PatternReceiver> = room(channels.subscribe_pattern("#", "pattern"));
        room(channels.create(&room_name, &spec(1 << self.below(4))));
        let receiver = room(channels.subscribe(&room_name, "guest", None)).flatten();
        let mut buffer = Vec::new();
        for _ in 0..3 {
            self.elsewhere += 1;
            let message = self.message(&room_name, self.elsewhere);
            room(channels.publish(&room_name, &message, Form::Text));
        }
        if let Some(receiver) = receiver {
            let source: Arc<dyn Source> = receiver.clone();
            while receiver.try_recv(&mut buffer).expect("open").is_some() {
                seen.check(&room_name, &buffer);
            }
            if let Some(list) = room(Waitlist::new(&self.segment))
                && let Some(token) = room(list.park(&source)).flatten()
            {
                // Rings a loop of this very process, if nobody else does.
                self.elsewhere += 1;
                let message = self.message(&room_name, self.elsewhere);
                room(channels.publish(&room_name, &message, Form::Text));
                list.take().expect("attached");
                list.unpark(token);
            }
            while receiver.try_recv(&mut buffer).expect("open").is_some() {
                seen.check(&room_name, &buffer);
            }
            room(channels.unsubscribe(&room_name, "guest"));
            if self.below(2) == 0 {
                channels.remove(&room_name).expect("attached");
            }
            while receiver.try_recv(&mut buffer).expect("open").is_some() {
                seen.check(&room_name, &buffer);
            }
        }
        if let Some(pattern) = pattern {
            while let Some((_, channel)) = room(pattern.try_recv(&mut buffer)).flatten() {
                of_pattern.check(&channel, &buffer);
            }
            pattern.close().expect("attached");
        }
    }

    /// Channels that come and go behind somebody who has a handle on all of them, and does not look.
    fn apart(&mut self, times: u64) {
        let channels = Channels::new(&World::new(&self.segment, APART).expect("room"), ChannelKind::Channel);
        for turn in 0..times {
            // One that was killed may have left it.
            let name = format!("gone {}", turn % 4);
            room(channels.create(&name, &spec(1)));
            self.elsewhere += 1;
            let message = self.message(&name, self.elsewhere);
            self.ledger.add(Entry::TriedApart(self.index));
            // Without room for its handle there would be none to account for it.
            if room(channels.publish(&name, &message, Form::Text)).flatten().is_some_and(|heard| heard > 0) {
                self.ledger.add(Entry::DoneApart(self.index));
            }
            channels.remove(&name).expect("attached");
        }
    }

    /// The same behind ourselves, who look at the end.
    fn alone(&mut self, times: u64) {
        let channels = Channels::new(&World::new(&self.segment, "alone").expect("room"), ChannelKind::Channel);
        let mine = format!("gone {}", std::process::id());
        let pattern = room(channels.subscribe_pattern(&mine, "ourselves"));
        let mut published = 0;
        for _ in 0..times {
            room(channels.create(&mine, &spec(1)));
            self.elsewhere += 1;
            let message = self.message(&mine, self.elsewhere);
            published += room(channels.publish(&mine, &message, Form::Text)).flatten().unwrap_or(0);
            channels.remove(&mine).expect("attached");
        }
        if let Some(pattern) = pattern {
            let mut seen = Seen::default();
            let mut buffer = Vec::new();
            while let Some((_, channel)) = room(pattern.try_recv(&mut buffer)).flatten() {
                seen.check(&channel, &buffer);
            }
            assert_eq!(pattern.received() + pattern.missed(), published, "what is given up is counted once");
        }
    }

    fn broadcasts(&mut self, broadcasts: &Channels) {
        let spec = ChannelSpec { dedup_window: Some(4), ..spec(8) };
        room(broadcasts.create("news", &spec));
        let receiver = room(broadcasts.open_handle("news", None)).flatten();
        for _ in 0..3 {
            let id = format!("id {}", self.below(12));
            room(broadcasts.send("news", b"news|", Form::Text, Some(&id)));
        }
        let mut buffer = Vec::new();
        while receiver.as_ref().is_some_and(|receiver| receiver.try_recv(&mut buffer).expect("open").is_some()) {
            assert_eq!(buffer, b"news|", "torn, or of another channel");
        }
        if self.below(8) == 0 {
            broadcasts.remove("news").expect("attached");
        }
    }

    /// Clients that come and go as a whole.
    fn guests(&mut self, hub: &Hub) {
        let guest = format!("guest {}", self.below(6));
        let metadata = Metadata::from_iter([("a", "b")]);
        let come = || room(hub.join(STEADY, &guest, &metadata, None)).map(|joined| joined.expect("it is never removed"));
        if let Some(receiver) = come() {
            assert_eq!(receiver.client(), guest);
            hub.leave(STEADY, &guest).expect("attached");
        }
        drop(come());
        hub.disconnect(&guest).expect("attached");
    }

    fn presence(&mut self, presence: &Presence) {
        let channel = format!("hall {}", self.below(3));
        let client = format!("client {}", self.below(40));
        let [tracked, updated] = [(); 2].map(|()| Metadata::from_iter([("a", "x".repeat(self.below(400) as usize))]));
        room(presence.track(&channel, &client, &tracked));
        room(presence.update(&channel, &client, &updated));
        presence.touch(&channel, &client).expect("attached");
        let names: Vec<String> =
            presence.list(&channel).expect("attached").into_iter().map(|member| member.client().into_owned()).collect();
        let mut single = names.clone();
        single.sort();
        single.dedup();
        assert_eq!(single.len(), names.len(), "listed twice");
        room(presence.untrack(&channel, &client));
        room(presence.track(&channel, "old", &Metadata::default()));
        room(presence.evict_stale(0.0));
        room(presence.flush_diff(&channel));
        self.lobby(presence);
    }

    /// A lobby of one's own, empty again: after many, cells run out and empty groups are given back.
    fn lobby(&mut self, presence: &Presence) {
        self.turn += 1;
        let lobby = format!("lobby {} {}", std::process::id(), self.turn);
        room(presence.track(&lobby, "alone", &Metadata::default()));
        room(presence.untrack(&lobby, "alone"));
        room(presence.flush_diff(&lobby));
    }

    fn heartbeats(&mut self, heartbeats: &Heartbeats) {
        let client = format!("client {}", self.below(20));
        let beat = Beat { interval_secs: 0.0, timeout_secs: 100.0, max_retries: 3 };
        room(heartbeats.register(&client, Some("7")));
        heartbeats.pong(&client).expect("attached");
        heartbeats.needing_ping(&beat).expect("attached");
        // Late at once: reported by one of those who ask.
        heartbeats.check_timeouts(&Beat { timeout_secs: 0.0, ..beat }).expect("attached");
        room(heartbeats.unregister(&client));
    }

    fn topics(&mut self, topics: &Topics) {
        let client = format!("client {}", self.below(20));
        room(topics.subscribe("a:*", &client));
        topics.match_topic("a:b").expect("attached");
        if self.below(2) == 0 {
            room(topics.unsubscribe("a:*", &client));
        }
    }
}

/// One of the other processes.
pub fn play(role: &str) {
    match role {
        "peer" => peer(variable("INDEX").expect("the harness says").parse().expect("a number")),
        "prey" => prey(),
        "victim" => victim(),
        other => panic!("no role is {other}"),
    }
}

/// Goes on for ever; rests when asked.
fn peer(index: usize) {
    let mut worker = Worker::new(index);
    let channels = Channels::new(&World::new(&worker.segment, "").expect("room"), ChannelKind::Channel);
    let bedside = channels.open_handle(BEDSIDE, None).expect("room").expect("it is never removed");
    let mut apart = (index == ABSENT).then(|| {
        let channels = Channels::new(&World::new(&worker.segment, APART).expect("room"), ChannelKind::Channel);
        (channels.subscribe_pattern("#", "absent").expect("room"), Seen::default())
    });
    loop {
        if index == SLEEPER {
            room(park(&*bedside, Some(Instant::now() + Duration::from_millis(5))));
            while bedside.try_recv(&mut Vec::new()).expect("open").is_some() {}
            worker.drain();
        } else {
            worker.round();
        }
        worker.ledger.add(Entry::Rounds(index));
        let pause = worker.ledger.get(Entry::Pause);
        if pause % 2 == 1 {
            worker.drain();
            if let Some((pattern, seen)) = &mut apart {
                let mut buffer = Vec::new();
                while let Some((_, channel)) = room(pattern.try_recv(&mut buffer)).flatten() {
                    seen.check(&channel, &buffer);
                }
                worker.ledger.set(Entry::Apart, pattern.received() + pattern.missed());
            }
            worker.ledger.set(Entry::Paused(index), pause);
            while worker.ledger.get(Entry::Pause) == pause {
                std::thread::sleep(Duration::from_micros(300));
            }
        }
    }
}

/// Leaves as much as it can behind.
fn prey() {
    let mut worker = Worker::new(PREY);
    worker.round();
    let world = World::new(&worker.segment, "").expect("room");
    let channels = Channels::new(&world, ChannelKind::Channel);
    let pattern = room(channels.subscribe_pattern("#", "prey"));
    room(Presence::new(&world).track("hall 0", "prey", &Metadata::default()));
    room(Heartbeats::new(&world).register("prey", None));
    room(Topics::new(&world, TopicsKind::Free).subscribe("a:#", "prey"));
    let list = room(Waitlist::new(&worker.segment));
    // Killed on the way to a member: the hint to it is the scavenger's.
    arm(number("track.hinted"), Fate::Kill, 0);
    room(Presence::new(&world).track("hall 0", "prey's friend", &Metadata::default()));
    // There was no room for it.
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).expect("ourselves");
    drop((pattern, list));
}

/// Comes by its point; does everything until then, attaching anew each time.
fn victim() {
    let said = |name: &str| variable(name).expect("the harness says").parse().expect("a number");
    let fate = if variable("FATE").as_deref() == Some("kill") { Fate::Kill } else { Fate::Stop };
    arm(said("POINT") as usize, fate, said("AFTER"));
    for round in 0..ROUNDS {
        let mut worker = Worker::new(VICTIM);
        // Other choices each time.
        worker.random = worker.random.wrapping_add(round << 32);
        worker.publisher = format!("{}.{}", std::process::id(), worker.steady.last_id().sequence);
        worker.segment.reap().expect("attached");
        let channels = Channels::new(&World::new(&worker.segment, "").expect("room"), ChannelKind::Channel);
        for _ in 0..4 {
            worker.round();
            // The sleeper's spin is over by then.
            std::thread::sleep(Duration::from_micros(500));
            worker.elsewhere += 1;
            let message = worker.message(BEDSIDE, worker.elsewhere);
            room(channels.publish(BEDSIDE, &message, Form::Text));
        }
        // More than the arena holds, once.
        for _ in 0..if round == 0 { 70 } else { 0 } {
            worker.elsewhere += 1;
            let message = worker.message_of(BEDSIDE, worker.elsewhere, 20_000);
            room(channels.publish(BEDSIDE, &message, Form::Text));
        }
        let presence = Presence::new(&World::new(&worker.segment, "").expect("room"));
        // More than there are cells, once, in front of others and of ourselves.
        let more = if round == 0 { 300 } else { 4 };
        worker.apart(more);
        worker.alone(more);
        for _ in 0..if round == 0 { 300 } else { 20 } {
            worker.lobby(&presence);
        }
        let made = Segment::open(&fresh(&worker.name), &small()).expect("room");
        made.close().expect("attached");
        // Nobody is attached: what belongs to connections is cleared.
        let made = Segment::open(&fresh(&worker.name), &small()).expect("it is there");
        made.unlink().expect("it is ours");
        made.close().expect("attached");
        worker.segment.close().expect("attached");
    }
}
