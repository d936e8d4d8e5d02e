//! At every crash point one process is killed, and in a second run stopped and later continued, while others do
//! everything. Asserted: the others go on meanwhile; nothing is torn, reordered, doubled or delivered to a wrong
//! channel; what is delivered and what is missed add up to what was published; and afterwards, with the dead
//! reaped, every block, cell, ring unit, bell and slot is accounted for.
//!
//! Run with `make test-crash`; SEED replays the choices, POINT takes one point (or the beginning of several names), TIMES
//! how often each.
#![cfg(all(crash_points, not(modelled)))]

mod ledger;
mod work;

use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use hypern_shm_core::points::{Fate, POINTS};
use hypern_shm_core::{Options, Segment};
use ledger::{Entry, Ledger};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

/// How long anything may take before it counts as stuck: not a bound on time, but on patience.
const STUCK: Duration = Duration::from_secs(30);
/// Processes that are there all the while: two do everything, one sleeps to be woken.
const PEERS: usize = 3;
/// Points at which a process has the gate, through which one attaches and leaves.
const BEHIND_THE_GATE: [&str; 6] = ["attach.locked", "attach.written", "attach.taken", "attach.cleared", "detach.free", "detach.unlocked"];
/// How often a point is tried to be reached that it takes luck to reach.
const TRIES: u64 = 20;

/// The segment is small, so that the arena is under pressure.
fn options() -> Options {
    Options { size: 1 << 20, max_processes: 16, ..Options::default() }
}

/// Another process of this program, in a role.
fn spawn(role: &str, name: &str, ledger: &Ledger, more: &[(&str, String)]) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "role", "--ignored", "--nocapture", "-q"]).stdin(Stdio::null()).stdout(Stdio::null());
    command.env("ROLE", role).env("SEGMENT", name).env("LEDGER", ledger.path());
    command.envs(more.iter().map(|(key, value)| (key, value)));
    command.spawn().expect("a process")
}

/// What the other processes do: not a test by itself.
#[test]
#[ignore = "the other processes' part"]
fn role() {
    if let Ok(role) = std::env::var("ROLE") {
        work::play(&role);
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("not 0")
}

/// How a victim's run ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Killed,
    Stopped,
    /// It did everything and never came by.
    Unreached,
}

/// Waits until the child has ended or was stopped.
fn end_of(child: &mut Child, what: &str) -> End {
    let start = Instant::now();
    loop {
        let seen = waitpid(Some(pid(child)), WaitOptions::NOHANG | WaitOptions::UNTRACED).expect("our child");
        if let Some((_, status)) = seen {
            return match (status.terminating_signal(), status.exit_status()) {
                (Some(signal), _) if signal == Signal::KILL.as_raw() => End::Killed,
                (None, Some(0)) => End::Unreached,
                (None, None) if status.stopped() => End::Stopped,
                other => panic!("{what}: the victim failed by itself: {other:?}"),
            };
        }
        assert!(start.elapsed() < STUCK, "{what}: the victim is stuck");
        std::thread::sleep(Duration::from_micros(200));
    }
}

struct Scene {
    name: String,
    segment: Segment,
    ledger: Ledger,
    peers: Vec<Child>,
}

impl Scene {
    fn new(seed: u64) -> Scene {
        let name = format!("crash-{}-{seed:x}", std::process::id());
        let segment = Segment::open(&name, &options()).expect("a segment");
        let ledger = Ledger::create(&name);
        work::prepare(&segment);
        let peers = (0..PEERS)
            .map(|index| spawn("peer", &name, &ledger, &[("INDEX", index.to_string()), ("SEED", (seed + index as u64).to_string())]))
            .collect();
        Scene { name, segment, ledger, peers }
    }

    /// Each peer does everything once more, from now on.
    fn peers_go_on(&mut self, what: &str) {
        for index in 0..PEERS {
            let wanted = self.ledger.get(Entry::Rounds(index)) + 2;
            let start = Instant::now();
            while self.ledger.get(Entry::Rounds(index)) < wanted {
                assert!(start.elapsed() < STUCK, "{what}: peer {index} does not go on");
                if let Some(status) = self.peers[index].try_wait().expect("our child") {
                    panic!("{what}: peer {index} failed: {status}");
                }
                std::thread::sleep(Duration::from_micros(200));
            }
        }
    }

    /// Brings everybody to rest, looks at everything, and lets them go on.
    fn look(&mut self, what: &str) {
        let pause = self.ledger.get(Entry::Pause) + 1;
        self.ledger.set(Entry::Pause, pause);
        for index in 0..PEERS {
            let start = Instant::now();
            while self.ledger.get(Entry::Paused(index)) != pause {
                assert!(start.elapsed() < STUCK, "{what}: peer {index} does not come to rest");
                if let Some(status) = self.peers[index].try_wait().expect("our child") {
                    panic!("{what}: peer {index} failed: {status}");
                }
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        self.segment.reap().unwrap_or_else(|error| panic!("{what}: {error}"));
        let found = self.segment.check().unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(found.is_empty(), "{what}: {found:#?}");
        assert_eq!(self.segment.held(), Ok(0), "{what}: blocks are held at rest");
        let (tried, done) = (self.ledger.sum(Entry::Tried), self.ledger.sum(Entry::Done));
        let published = work::published(&self.segment);
        assert!((done..=tried).contains(&published), "{what}: {published} published, {done} known, {tried} begun");
        let (tried, done) = (self.ledger.sum(Entry::TriedApart), self.ledger.sum(Entry::DoneApart));
        let apart = self.ledger.get(Entry::Apart);
        assert!((done..=tried).contains(&apart), "{what}: {apart} accounted for apart, {done} known, {tried} begun");
        self.ledger.set(Entry::Pause, pause + 1);
    }

    /// Somebody who leaves things behind, for whoever reaps.
    fn prey(&self, what: &str, seed: u64) {
        let mut prey = spawn("prey", &self.name, &self.ledger, &[("SEED", seed.to_string())]);
        assert_eq!(end_of(&mut prey, &format!("{what}, prey")), End::Killed);
    }

    /// The victim comes by the point once, or a few times, before it meets its fate.
    fn run(&mut self, point: usize, fate: Fate, seed: u64) -> End {
        for attempt in 0..TRIES {
            let after = match (attempt, seed % 2) {
                (0, 0) => seed / 2 % 4,
                (0, _) => seed / 2 * 37 % 2048,
                _ => 0,
            };
            match self.run_after(point, fate, seed + attempt, after) {
                End::Unreached => {}
                end => return end,
            }
        }
        End::Unreached
    }

    fn run_after(&mut self, point: usize, fate: Fate, seed: u64, after: u64) -> End {
        let what = format!("{} ({fate:?})", POINTS[point]);
        self.prey(&what, seed);
        let fate_name = if fate == Fate::Kill { "kill" } else { "stop" };
        let more = [("POINT", point.to_string()), ("FATE", fate_name.to_owned()), ("AFTER", after.to_string()), ("SEED", seed.to_string())];
        let mut victim = spawn("victim", &self.name, &self.ledger, &more);
        let end = end_of(&mut victim, &what);
        if end == End::Stopped {
            let stopped = format!("{what}, while it is stopped");
            self.peers_go_on(&stopped);
            // What it holds is not taken for lost. (Who is stopped behind the gate keeps others from attaching and
            // leaving, up to the time that they wait for it: nobody dies on us then.)
            if !BEHIND_THE_GATE.contains(&POINTS[point]) {
                self.prey(&stopped, seed + 1);
            }
            self.segment.reap().unwrap_or_else(|error| panic!("{stopped}: {error}"));
            self.peers_go_on(&stopped);
            kill_process(pid(&victim), Signal::CONT).expect("our child");
            assert_eq!(end_of(&mut victim, &format!("{what}, continued")), End::Unreached);
        }
        self.look(&what);
        work::open_fresh(&self.name);
        end
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        for peer in &mut self.peers {
            let _: std::io::Result<()> = peer.kill();
            let _: std::io::Result<ExitStatus> = peer.wait();
        }
        let _ = Segment::unlink_name(&self.name);
        let _ = Segment::unlink_name(&work::fresh(&self.name));
    }
}

/// The FIFOs beside a segment.
fn bells(name: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/dev/shm").expect("a directory").filter_map(Result::ok);
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|entry| entry.contains(&format!(".{name}@"))).collect()
}

#[test]
fn whoever_is_killed_or_stopped_anywhere() {
    let seed = variable("SEED").map_or_else(|| u64::from(std::process::id()), |text| text.parse().expect("a number"));
    let only = variable("POINT").unwrap_or_default();
    println!("SEED={seed}");
    let mut scene = Scene::new(seed);
    let mut unreached = Vec::new();
    let mut runs = [0_u32; 2];
    let points = || POINTS.iter().enumerate().filter(|(_, name)| name.starts_with(&only));
    let times = variable("TIMES").map_or(1, |text| text.parse().expect("a number"));
    for (turn, (point, name)) in (0..times).flat_map(|_| points()).enumerate() {
        for (kind, fate) in [Fate::Kill, Fate::Stop].into_iter().enumerate() {
            match scene.run(point, fate, seed + turn as u64) {
                End::Unreached => unreached.push((*name, fate)),
                _ => runs[kind] += 1,
            }
        }
    }
    let total = POINTS.len();
    println!(
        "{total} points: {} kills, {} stops; {} messages on one channel accounted for, {} on channels that nobody looked at",
        runs[0],
        runs[1],
        work::published(&scene.segment),
        scene.ledger.get(Entry::Apart)
    );
    assert!(unreached.is_empty(), "never reached: {unreached:?}");
}

/// The same without others: whoever attaches next finds everything in order, and nobody's things.
#[test]
fn whoever_dies_alone() {
    let seed = variable("SEED").map_or_else(|| u64::from(std::process::id()), |text| text.parse().expect("a number"));
    let only = variable("POINT").unwrap_or_default();
    println!("SEED={seed}");
    let name = format!("alone-{}-{seed:x}", std::process::id());
    let ledger = Ledger::create(&name);
    let segment = Segment::open(&name, &options()).expect("a segment");
    work::prepare(&segment);
    segment.close().expect("nobody else is there");
    let (mut killed, mut missing) = (0, Vec::new());
    for (point, what) in POINTS.iter().enumerate().filter(|(_, name)| name.starts_with(&only)) {
        // Somebody to be reaped, by the victim.
        let mut prey = spawn("prey", &name, &ledger, &[("SEED", seed.to_string())]);
        assert_eq!(end_of(&mut prey, what), End::Killed);
        let fate = [("POINT", point.to_string()), ("FATE", "kill".to_owned()), ("AFTER", "0".to_owned()), ("SEED", seed.to_string())];
        match end_of(&mut spawn("victim", &name, &ledger, &fate), what) {
            End::Killed => killed += 1,
            _ => missing.push(*what),
        }
        work::open_fresh(&name);
        let segment = Segment::attach(&name).unwrap_or_else(|error| panic!("killed at {what}: {error}"));
        assert_eq!(segment.check().expect("attached"), Vec::<String>::new(), "killed at {what}");
        let stats = segment.stats().expect("attached");
        assert_eq!((stats.waiters, stats.processes), (0, 1), "killed at {what}");
        assert_eq!(bells(&name), Vec::<String>::new(), "killed at {what}");
        segment.close().expect("attached");
    }
    println!("{killed} of {} points reached and survived alone", POINTS.len());
    let _ = Segment::unlink_name(&name);
    let _ = Segment::unlink_name(&work::fresh(&name));
    assert!(missing.is_empty(), "not reached: {missing:?}");
}
