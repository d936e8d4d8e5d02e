//! What the engine's calls cost without Python, in instructions and in nanoseconds. `bench/counts.py` and
//! `bench/limit.py` run it; `cargo run --release -p hypern-shm-cost times` does so by hand.
//!
//! `counts` makes a round of each call between two calls of `mark`. Under `callgrind --dump-before=…::mark` each
//! of them writes the instructions since the last. Two runs differ only by the segment's random hash key, which
//! shapes the tries: what walks them is done for many clients.

use hypern_shm_core::{
    Beat, ChannelKind, ChannelSpec, Channels, Form, Heartbeats, Metadata, Options, Presence, Receiver, Result, Segment, Topics, TopicsKind,
    World,
};
use std::hint::black_box;
use std::time::Instant;

const SHORT: &[u8] = &[b'x'; 64];
const LONG: &[u8] = &[b'x'; 4096];
const BUFFER: usize = 256;
const CLIENTS: usize = 1_000;
/// Enough for what is done now and then, as ids that are old are removed, to come as often in every run.
const IDS: usize = 20_000;
const ROUNDS: usize = 9;

/// Something to call: what has to be put in order before a round, and a round of calls, each told which it is.
trait Subject {
    fn prepare(&mut self) -> Result<()>;
    fn round(&mut self, calls: usize) -> Result<()>;
}

struct Of<S, C> {
    state: S,
    prepare: fn(&mut S) -> Result<()>,
    call: C,
}

impl<S, C: Fn(&mut S, usize) -> Result<()>> Subject for Of<S, C> {
    fn prepare(&mut self) -> Result<()> {
        (self.prepare)(&mut self.state)
    }

    /// A loop of its own for each case, so that nothing but the call is in it.
    #[inline(never)]
    fn round(&mut self, calls: usize) -> Result<()> {
        (0..calls).try_for_each(|number| (self.call)(&mut self.state, number))
    }
}

/// A call that needs nothing put in order.
fn plain<S: 'static>(state: S, call: impl Fn(&mut S, usize) -> Result<()> + 'static) -> Result<Box<dyn Subject>> {
    prepared(state, |_| Ok(()), call)
}

fn prepared<S: 'static>(
    state: S,
    prepare: fn(&mut S) -> Result<()>,
    call: impl Fn(&mut S, usize) -> Result<()> + 'static,
) -> Result<Box<dyn Subject>> {
    Ok(Box::new(Of { state, prepare, call }))
}

/// A segment of its own for each case.
fn world() -> Result<World> {
    World::new(&Segment::private(&Options { size: 16 << 20, ..Options::default() })?, "")
}

fn channels(kind: ChannelKind, dedup_window: Option<u32>, names: &[&str]) -> Result<Channels> {
    let channels = Channels::new(&world()?, kind);
    let spec = ChannelSpec { buffer_size: BUFFER as u64, metadata: vec![], fail_when_unheard: false, dedup_window };
    for name in names {
        channels.create(name, &spec)?;
    }
    Ok(channels)
}

fn room() -> Result<Channels> {
    channels(ChannelKind::Channel, None, &["room"])
}

fn open(channels: &Channels, name: &str, client: &str) -> Result<std::sync::Arc<Receiver>> {
    Ok(channels.subscribe(name, client, None)?.expect("it was made"))
}

fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}{number}")).collect()
}

fn metadata() -> Metadata {
    let mut metadata = Metadata::default();
    metadata.push("name", "Alice");
    metadata
}

fn publish(payload: &'static [u8], subscribers: usize) -> Result<Box<dyn Subject>> {
    let channels = room()?;
    let heard = names("client-", subscribers).iter().map(|client| open(&channels, "room", client)).collect::<Result<Vec<_>>>()?;
    plain((channels, payload, heard), |(channels, payload, _), _| {
        channels.publish(black_box("room"), black_box(payload), Form::Text).map(drop)
    })
}

/// A full ring, who reads it, and where to.
type Inbox = (Channels, std::sync::Arc<Receiver>, Vec<u8>, &'static [u8]);

fn reading(payload: &'static [u8], call: impl Fn(&mut Inbox, usize) -> Result<()> + 'static) -> Result<Box<dyn Subject>> {
    let channels = room()?;
    let receiver = open(&channels, "room", "client")?;
    let fill = |(channels, receiver, buffer, payload): &mut Inbox| {
        while receiver.try_recv(buffer)?.is_some() {}
        (0..BUFFER).try_for_each(|_| channels.publish("room", payload, Form::Text).map(drop))
    };
    prepared((channels, receiver, Vec::with_capacity(payload.len()), payload), fill, call)
}

fn read(payload: &'static [u8]) -> Result<Box<dyn Subject>> {
    reading(payload, |(_, receiver, buffer, _), _| receiver.try_recv(buffer).map(|received| _ = black_box(received.expect("it is there"))))
}

/// As the binding does it: whether text is text is found out by whoever makes an object of it.
fn take(payload: &'static [u8]) -> Result<Box<dyn Subject>> {
    reading(payload, |(_, receiver, buffer, _), _| {
        let ready = receiver.next_ready()?.expect("it is there");
        black_box(ready.take(buffer).expect("it is there"));
        Ok(())
    })
}

fn read_nothing() -> Result<Box<dyn Subject>> {
    let channels = room()?;
    let receiver = open(&channels, "room", "client")?;
    plain((channels, receiver, Vec::new()), |(_, receiver, buffer), _| receiver.try_recv(buffer).map(|nothing| assert!(nothing.is_none())))
}

fn publish_matching() -> Result<Box<dyn Subject>> {
    let (some, others) = (names("chat:", 10), names("other:", 90));
    let all: Vec<&str> = some.iter().chain(&others).map(String::as_str).collect();
    let channels = channels(ChannelKind::Channel, None, &all)?;
    let heard = all.iter().map(|name| open(&channels, name, "client")).collect::<Result<Vec<_>>>()?;
    plain((channels, heard), |(channels, _), _| channels.publish_matching(black_box("chat:*"), SHORT, Form::Text).map(drop))
}

fn subscribe_and_close() -> Result<Box<dyn Subject>> {
    plain(room()?, |channels, _| open(channels, "room", "client").map(drop))
}

fn send(dedup_window: Option<u32>) -> Result<Box<dyn Subject>> {
    let channels = channels(ChannelKind::Broadcast, dedup_window, &["room"])?;
    let heard = channels.open_handle("room", None)?;
    let state = (channels, heard, dedup_window.is_some(), Vec::new(), 0);
    prepared(
        state,
        |(_, _, named, ids, rounds)| {
            *rounds += 1;
            *ids = (0..IDS).map(|number| named.then(|| format!("{rounds}-{number}"))).collect();
            Ok(())
        },
        |(channels, _, _, ids, _), number| channels.send("room", SHORT, Form::Text, ids[number].as_deref()).map(drop),
    )
}

fn send_a_duplicate() -> Result<Box<dyn Subject>> {
    let channels = channels(ChannelKind::Broadcast, Some(1_000), &["room"])?;
    let ids = names("event-", CLIENTS);
    for id in &ids {
        channels.send("room", SHORT, Form::Text, Some(id))?;
    }
    plain((channels, ids), |(channels, ids), number| channels.send("room", SHORT, Form::Text, Some(&ids[number])).map(drop))
}

/// A tracker, the names of those who come and go, and what is known of each.
type Room = (Presence, Vec<String>, Metadata);

/// A room of `count` members.
fn presence(count: usize) -> Result<Room> {
    let presence = Presence::new(&world()?);
    let clients = names("client-", CLIENTS);
    for client in &clients[..count] {
        presence.track("room", client, &metadata())?;
    }
    presence.flush_diff("room")?;
    Ok((presence, clients, metadata()))
}

fn track_new() -> Result<Box<dyn Subject>> {
    prepared(
        presence(0)?,
        |(presence, clients, _)| {
            clients.iter().try_for_each(|client| presence.untrack("room", client).map(drop))?;
            presence.flush_diff("room").map(drop)
        },
        |(presence, clients, metadata), number| presence.track("room", &clients[number], metadata).map(drop),
    )
}

/// Each time other metadata.
fn update_other() -> Result<Box<dyn Subject>> {
    let (presence, clients, _) = presence(CLIENTS)?;
    let told = ["Alice A.", "Alice B."].map(|name| Metadata::from_iter([("name", name)]));
    prepared(
        (presence, clients, told, 0),
        |(.., rounds)| {
            *rounds += 1;
            Ok(())
        },
        |(presence, clients, told, rounds), number| presence.update("room", &clients[number], &told[*rounds % 2]).map(drop),
    )
}

fn come_and_go() -> Result<Box<dyn Subject>> {
    plain(presence(100)?, |(presence, clients, metadata), number| {
        presence.track("room", &clients[100 + number % 900], metadata)?;
        presence.untrack("room", &clients[100 + number % 900])?;
        presence.flush_diff("room").map(drop)
    })
}

/// Several matchers, each in a segment with a hash key of its own: how 1,000 patterns fall matters here.
fn match_topic(prefix: &str) -> Result<Box<dyn Subject>> {
    let topic = format!("{prefix}shop:42:orders:new");
    let mut matchers = Vec::new();
    for _ in 0..4 {
        let topics = Topics::new(&world()?, TopicsKind::Free);
        for name in names(&format!("{prefix}room"), 996) {
            topics.subscribe(&format!("{name}:orders:*"), "somebody")?;
        }
        let matching = [&format!("{prefix}shop:42:#"), &format!("{prefix}shop:*:orders:*"), "#:new", &topic];
        for (number, pattern) in matching.iter().enumerate() {
            topics.subscribe(pattern, &format!("client-{number}"))?;
        }
        matchers.push(topics);
    }
    plain((matchers, topic), |(matchers, topic), number| {
        matchers[number % matchers.len()].match_topic(topic).map(|clients| assert_eq!(clients.len(), 4))
    })
}

fn heartbeats() -> Result<(Heartbeats, Vec<String>)> {
    let heartbeats = Heartbeats::new(&world()?);
    let clients = names("client-", CLIENTS);
    for client in &clients {
        heartbeats.register(client, None)?;
    }
    Ok((heartbeats, clients))
}

fn check_timeouts() -> Result<Box<dyn Subject>> {
    plain(heartbeats()?, |(heartbeats, _), _| {
        let beat = Beat { interval_secs: 30.0, timeout_secs: 90.0, max_retries: 5 };
        heartbeats.check_timeouts(&beat).map(|timed_out| assert!(timed_out.is_empty()))
    })
}

/// A case: its name, what makes it ready, and the calls of a round.
struct Case(&'static str, fn() -> Result<Box<dyn Subject>>, usize);

const CASES: &[Case] = &[
    Case("publish 64 B", || publish(SHORT, 1), 1_000),
    Case("publish 64 B, 0 subscribers", || publish(SHORT, 0), 1_000),
    Case("publish 64 B, 100 subscribers", || publish(SHORT, 100), 1_000),
    Case("publish 4 KiB", || publish(LONG, 1), 1_000),
    Case("publish_to_topic, 10 of 100", publish_matching, 200),
    Case("try_recv 64 B", || read(SHORT), BUFFER),
    Case("try_recv 4 KiB", || read(LONG), BUFFER),
    Case("take 64 B", || take(SHORT), BUFFER),
    Case("try_recv, nothing there", read_nothing, 1_000),
    Case("subscribe and drop", subscribe_and_close, 1_000),
    Case("send 64 B", || send(None), 1_000),
    Case("send 64 B, dedup(1,000), new ids", || send(Some(1_000)), IDS),
    Case("send 64 B, dedup(1,000), a duplicate", send_a_duplicate, CLIENTS),
    Case("track, new member", track_new, CLIENTS),
    Case("track, known member", || plain(presence(CLIENTS)?, |(p, c, m), n| p.track("room", &c[n], m).map(drop)), CLIENTS),
    Case("update, other metadata", update_other, CLIENTS),
    Case("touch", || plain(presence(CLIENTS)?, |(p, c, _), n| p.touch("room", &c[n]).map(drop)), CLIENTS),
    Case("count", || plain(presence(CLIENTS)?, |(p, ..), _| p.count("room").map(|count| _ = black_box(count))), 1_000),
    Case("list of 1,000", || plain(presence(CLIENTS)?, |(p, ..), _| p.list("room").map(drop)), 10),
    Case("track + untrack + flush_diff", come_and_go, 900),
    Case("match_topic, 1,000 patterns", || match_topic(""), 200),
    Case("match_topic, long shared prefix", || match_topic("app:prod:eu:west:tenant:7:"), 200),
    Case("ping", || plain(heartbeats()?, |(h, c), n| h.ping(&c[n]).map(drop)), CLIENTS),
    Case("pong", || plain(heartbeats()?, |(h, c), n| h.pong(&c[n]).map(drop)), CLIENTS),
    Case("check_timeouts, 1,000 clients", check_timeouts, 20),
];

/// Callgrind writes what it has counted whenever this is called.
#[inline(never)]
fn mark() {
    black_box(());
}

/// One line a case, `calls<TAB>name`; between the marks around it, the instructions of that many calls.
fn counts() -> Result<()> {
    for Case(name, ready, calls) in CASES {
        let mut subject = ready()?;
        subject.prepare()?;
        subject.round(*calls)?;
        subject.prepare()?;
        mark();
        subject.round(*calls)?;
        mark();
        println!("{calls}\t{name}");
    }
    Ok(())
}

/// One line a case: `nanoseconds a call, one for each round<TAB>name<TAB>the same of its fastest part`. The first round warms up
/// and is left out. A part is what is called between two preparations, few enough calls for a moment in which nobody else is at the
/// processor.
fn times(only: Option<String>, rounds_wanted: usize) -> Result<()> {
    for Case(name, ready, calls) in CASES.iter().filter(|case| only.as_ref().is_none_or(|only| case.0 == only)) {
        let mut subject = ready()?;
        let calls = (*calls).min(BUFFER);
        let (mut rounds, mut fastest) = (Vec::new(), f64::MAX);
        for number in 0..=rounds_wanted {
            let (mut spent, mut made) = (0.0, 0);
            // Long enough for the clock, however short a round is.
            while spent < 2e6 {
                subject.prepare()?;
                let start = Instant::now();
                subject.round(calls)?;
                let part = start.elapsed().as_nanos() as f64;
                fastest = fastest.min(part / calls as f64);
                spent += part;
                made += calls;
            }
            if number > 0 {
                rounds.push(format!("{:.2}", spent / made as f64));
            }
        }
        println!("{}\t{name}\t{fastest:.2}", rounds.join(" "));
    }
    Ok(())
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("counts") => counts(),
        Some("times") => {
            let case = arguments.next();
            times(case, arguments.next().and_then(|rounds| rounds.parse().ok()).unwrap_or(ROUNDS))
        }
        _ => {
            eprintln!("hypern-shm-cost counts | hypern-shm-cost times [CASE [ROUNDS]]");
            std::process::exit(2)
        }
    }
}
