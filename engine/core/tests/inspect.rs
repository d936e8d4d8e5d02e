//! Looking on: on a read-only mapping, while everything is used at full speed, and after everybody has died.
#![cfg(not(any(loom, crash_points)))]

#[path = "corrupt/looks.rs"]
mod looks;

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hypern_shm_core::inspect::{Inspector, TailFrom, list};
use hypern_shm_core::{
    Beat, ChannelKind, ChannelSpec, Channels, Form, Heartbeats, Metadata, Options, Presence, Segment, Sent, Topics, TopicsKind, Waitlist,
    World,
};
use looks::look_at_everything;

const BEAT: Beat = Beat { interval_secs: 60.0, timeout_secs: 120.0, max_retries: 3 };

fn options() -> Options {
    Options { size: 4 << 20, max_processes: 16, ..Options::default() }
}

fn spec(buffer_size: u64) -> ChannelSpec {
    ChannelSpec { buffer_size, metadata: vec![("colour".to_owned(), "blue".to_owned())], fail_when_unheard: false, dedup_window: None }
}

struct Named(String);

impl Named {
    fn new(what: &str) -> Named {
        Named(format!("inspect-{what}-{}", std::process::id()))
    }
}

/// Says that it is over, also when a test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _: hypern_shm_core::Result<bool> = Segment::unlink_name(&self.0);
    }
}

/// Everything that changes a segment, over and over: what a look may meet in the middle.
fn churn(segment: &Segment, worker: usize, over: &AtomicBool) -> u64 {
    let world = World::new(segment, "").expect("room");
    let (channels, broadcasts) = (Channels::new(&world, ChannelKind::Channel), Channels::new(&world, ChannelKind::Broadcast));
    let (presence, topics) = (Presence::new(&world), Topics::new(&world, TopicsKind::OfManager));
    let hearts = Heartbeats::new(&world);
    let mut buffer = Vec::new();
    let mut rounds = 0;
    while !over.load(Ordering::Relaxed) {
        rounds += 1;
        let (room, client) = (format!("room {}", rounds % 5), format!("client {worker} {}", rounds % 40));
        channels.create(&room, &spec(16)).expect("room");
        let receiver = channels.subscribe(&room, &client, None).expect("room");
        let rooms = channels.subscribe_pattern("#", &client).expect("room");
        for number in 0..20 {
            let payload = "x".repeat(number * 150);
            channels.publish(&room, payload.as_bytes(), Form::Text).expect("room");
            if let Some(receiver) = receiver.as_ref().filter(|_| number % 3 == 0) {
                receiver.try_recv(&mut buffer).expect("open");
            }
        }
        broadcasts.create("news", &spec(64)).expect("room");
        let sent = broadcasts.send("news", b"so it goes", Form::Bytes, None).expect("room");
        assert!(matches!(sent, Sent::Delivered(_) | Sent::Unknown));
        presence.track(&room, &client, &Metadata::from_iter([("name", client.as_str())])).expect("room");
        hearts.register(&client, Some("an id")).expect("room");
        hearts.pong(&client).expect("room");
        topics.subscribe("a:*", &client).expect("room");
        match rounds % 4 {
            0 => drop(channels.remove(&room).expect("room")),
            1 => drop(presence.untrack(&room, &client).expect("room")),
            2 => drop(hearts.unregister(&client).expect("room")),
            _ => drop(topics.unsubscribe("a:*", &client).expect("room")),
        }
        drop((receiver, rooms));
    }
    rounds
}

#[test]
fn everything_can_be_looked_at_while_everything_changes() {
    let named = Named::new("fire");
    let segment = Segment::open(&named.0, &options()).expect("room");
    let inspector = Inspector::open(&named.0).expect("it is there");
    let over = AtomicBool::new(false);
    let (mut looks, mut seen) = (0, 0);
    let rounds = std::thread::scope(|scope| {
        let (segment, over) = (&segment, &over);
        let workers: Vec<_> = (0..2).map(|worker| scope.spawn(move || churn(segment, worker, over))).collect();
        let ending = Over(over);
        let end = Instant::now() + Duration::from_millis(1500);
        let mut published = 0;
        while Instant::now() < end {
            let (things, problems) = look_at_everything(&inspector);
            assert_eq!(problems, Vec::<String>::new());
            looks += 1;
            seen += things;
            let now = inspector.overview().totals.published_total;
            // Between two words of one removal the sum may be short for a moment, never for long.
            published = published.max(now);
        }
        drop(ending);
        let rounds: Vec<u64> = workers.into_iter().map(|worker| worker.join().expect("no panic")).collect();
        // At least: each publish on a room that was there; rooms go while others publish.
        assert!(inspector.overview().totals.published_total >= published, "a sum over the segment's life went back");
        rounds
    });
    println!("{looks} looks at everything saw {seen} things; {rounds:?} rounds of changes meanwhile");
    assert!(looks > 3 && rounds.iter().all(|&rounds| rounds > 3));
    let lasting: Vec<String> = inspector.check().expect("attached");
    assert_eq!(lasting, Vec::<String>::new());
}

#[test]
fn what_is_shown_is_what_there_is() {
    let named = Named::new("shown");
    let segment = Segment::open(&named.0, &options()).expect("room");
    let world = World::new(&segment, "").expect("room");
    let channels = Channels::new(&world, ChannelKind::Channel);
    let me = u64::from(std::process::id());
    assert!(channels.create("lobby", &spec(16)).expect("room"));
    let quick = channels.subscribe("lobby", "quick", None).expect("room").expect("it is there");
    let slow = channels.subscribe("lobby", "slow", None).expect("room").expect("it is there");
    for number in 0..40_u64 {
        channels.publish("lobby", format!("message {number}").as_bytes(), Form::Text).expect("room");
    }
    let mut buffer = Vec::new();
    while quick.try_recv(&mut buffer).expect("open").is_some() {}
    let inspector = Inspector::open(&named.0).expect("it is there");

    let detail = inspector.channel("", ChannelKind::Channel, "lobby").expect("sound").expect("it is there");
    assert_eq!((detail.channel.published, detail.channel.retained, detail.retained_messages), (40, 16, 16));
    assert_eq!(detail.retained_bytes, 16 * "message 24".len() as u64);
    assert_eq!(detail.channel.metadata, [("colour".to_owned(), "blue".to_owned())]);
    assert_eq!(detail.channel.max_lag, Some(40));
    let lags: Vec<_> = detail.handles.iter().map(|handle| (handle.client.as_str(), handle.lag, handle.lost, handle.owner.pid)).collect();
    assert_eq!(lags, [("slow", Some(40), 24, Some(me)), ("quick", Some(0), 0, Some(me))]);
    assert_eq!(detail.channel.missed, quick.missed());
    let clients: Vec<_> = detail.subscribers.iter().map(|subscriber| subscriber.client.as_str()).collect();
    assert_eq!(clients, ["quick", "slow"]);

    // A slow handle that reads shows how far it is, to within the precision that is told.
    for _ in 0..3 {
        slow.try_recv(&mut buffer).expect("open").expect("it is behind");
    }
    let detail = inspector.channel("", ChannelKind::Channel, "lobby").expect("sound").expect("it is there");
    let lag = detail.handles[0].lag.expect("shown");
    assert!((13..=13 + detail.lag_precision).contains(&lag), "{lag}");

    // A tail has a cursor of its own: in order, from where it was, with what it missed.
    let tail = |from| inspector.tail("", ChannelKind::Channel, "lobby", from, 5).expect("sound").expect("it is there");
    let text = |tail: &hypern_shm_core::inspect::Tail| -> Vec<String> {
        tail.messages.iter().map(|(_, payload)| String::from_utf8_lossy(payload).into_owned()).collect()
    };
    let last = tail(TailFrom::Last(2));
    assert_eq!(text(&last), ["message 38", "message 39"]);
    assert_eq!((last.missed, last.left), (0, 0));
    let on = tail(TailFrom::After(&last.next));
    assert!(on.messages.is_empty() && on.next == last.next && on.missed == 0);
    for number in 40..60_u64 {
        channels.publish("lobby", format!("message {number}").as_bytes(), Form::Text).expect("room");
    }
    let on = tail(TailFrom::After(&last.next));
    assert_eq!((text(&on)[0].as_str(), on.missed, on.left), ("message 44", 4, 11));
    assert!(tail(TailFrom::After("nonsense")).unknown);

    let presence = Presence::new(&world);
    presence.track("lobby", "ada", &Metadata::default()).expect("room");
    Heartbeats::new(&world).register("ada", None).expect("room");
    Topics::new(&world, TopicsKind::Free).subscribe("a:#", "ada").expect("room");
    let _rooms = channels.subscribe_pattern("lob*:#", "bob").expect("room");
    let members = inspector.members(None, Some("lobby"), 10);
    assert_eq!((members.groups[0].members, members.members[0].client.as_str()), (1, "ada"));
    assert_eq!(members.members[0].owners[0].pid, Some(me));
    let clients = inspector.clients(None, &BEAT);
    assert_eq!((clients.clients[0].client.as_str(), clients.clients[0].state), ("ada", "alive"));
    let late = Beat { interval_secs: 0.0, timeout_secs: 0.0, max_retries: 0 };
    assert_eq!(inspector.clients(None, &late).clients[0].state, "dead");
    let topics: Vec<_> = inspector.topics(None).topics.into_iter().map(|row| (row.of, row.pattern, row.client)).collect();
    assert_eq!(topics, [("handle", "lob*:#".to_owned(), "bob".to_owned()), ("matcher", "a:#".to_owned(), "ada".to_owned())]);

    let _waits = Waitlist::new(&segment).expect("room");
    let processes = inspector.processes();
    let [process] = &processes.processes[..] else { panic!("{processes:?}") };
    assert_eq!((process.pid, process.alive, process.waiters.len()), (me, true, 1));
    let holds = &process.holds;
    assert_eq!((holds.blocks, holds.handles, holds.subscriptions, holds.members, holds.clients, holds.topics), (0, 2, 2, 1, 1, 2));

    let overview = inspector.overview();
    assert_eq!((overview.processes, overview.totals.published_total, overview.totals.members), (1, 60, 1));
    let blocks: u64 = overview.blocks.iter().map(|row| row.live + row.free + row.held + row.continued).sum();
    assert_eq!(blocks, overview.blocks.iter().map(|row| row.capacity).sum::<u64>(), "every block is in one state");
    assert_eq!(overview.memory.total + overview.memory.fixed, overview.size);
    // What is gone still counts in the sums.
    drop((quick, slow));
    channels.remove("lobby").expect("room");
    assert_eq!(inspector.overview().totals.published_total, 60);
    assert_eq!(inspector.overview().totals.channels, 0);
    assert!(inspector.is_current().expect("ours"));
    let listed = list().expect("a directory");
    let row = listed.iter().find(|row| row.name == named.0).expect("it is listed");
    assert_eq!((row.state, row.processes, row.size), ("in use", Some(1), Some(4 << 20)));
}

/// A process that is attached until it is killed: not a test by itself.
#[test]
#[ignore = "the other process's part"]
fn role() {
    if let Ok(name) = std::env::var("SEGMENT") {
        let segment = Segment::attach(&name).expect("it is there");
        let world = World::new(&segment, "").expect("room");
        Presence::new(&world).track("lobby", "ada", &Metadata::default()).expect("room");
        loop {
            std::thread::sleep(Duration::from_secs(1));
        }
    }
}

fn start(name: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "role", "--ignored", "-q"]).stdin(Stdio::null()).stdout(Stdio::null());
    command.env("SEGMENT", name).spawn().expect("a process")
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_stopped_and_the_dead_are_told_apart_without_reaping_anybody() {
    let named = Named::new("dead");
    let segment = Segment::open(&named.0, &options()).expect("room");
    let mut child = start(&named.0);
    let pid = u64::from(child.id());
    let inspector = Inspector::open(&named.0).expect("it is there");
    let state = || inspector.processes().processes.into_iter().find(|row| row.pid == pid).map(|row| (row.state, row.holds.members));
    until("it has joined", || state().is_some_and(|(_, members)| members == 1));
    let raw = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(raw, rustix::process::Signal::STOP).expect("our child");
    until("it is stopped", || state() == Some(("stopped", 1)));
    // Nobody reaps: this process has nothing to look after, and leaves.
    segment.close().expect("attached");
    drop(segment);
    child.kill().expect("our child");
    child.wait().expect("our child");
    assert_eq!(state(), Some(("dead", 1)));
    assert_eq!(inspector.alive(), 0);
    let (_, problems) = look_at_everything(&inspector);
    assert_eq!(problems, Vec::<String>::new());
    assert_eq!(inspector.check().expect("a look").len(), 1, "its process was not reaped");
    let row = list().expect("a directory").into_iter().find(|row| row.name == named.0).expect("it is listed");
    assert_eq!((row.state, row.processes), ("abandoned", Some(0)));
    // The name goes, the look goes on.
    assert!(Segment::unlink_name(&named.0).expect("ours"));
    assert!(!inspector.is_current().expect("ours"));
    assert_eq!(inspector.members(None, None, 10).members.len(), 1);
}

#[test]
fn a_copy_with_holes_is_not_touched() {
    use std::os::unix::fs::{FileExt, OpenOptionsExt};
    let named = Named::new("holes");
    let segment = Segment::open(&named.0, &options()).expect("room");
    let row = list().expect("a directory").into_iter().find(|row| row.name == named.0).expect("it is listed");
    let image = std::fs::read(&row.path).expect("ours");
    drop(segment);
    Segment::unlink_name(&named.0).expect("ours");
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&row.path).expect("room");
    file.set_len(image.len() as u64).expect("room");
    file.write_all_at(&image[..1 << 20], 0).expect("room");
    let refused = Inspector::open(&named.0).err().expect("it has holes");
    assert!(refused.to_string().contains("--sparse=never"), "{refused}");
    file.write_all_at(&image, 0).expect("room");
    assert_eq!(look_at_everything(&Inspector::open(&named.0).expect("whole")).1, Vec::<String>::new());
}
