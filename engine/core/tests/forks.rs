//! Forks in the middle of everything: threads publish, receive, change and come and go without pause, and another one
//! forks. Each child uses all that it inherited at once, and comes to its end. `FORKS=5000` makes it longer.
#![cfg(not(loom))]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hypern_shm_core::*;

/// How long a child may take until it counts as stuck.
const PATIENCE: Duration = Duration::from_secs(60);

fn spec() -> ChannelSpec {
    ChannelSpec { buffer_size: 64, metadata: vec![], fail_when_unheard: false, dedup_window: Some(100) }
}

/// Everything that a program may hold, shared by its threads.
struct Held {
    segment: Segment,
    other: String,
    channels: Channels,
    broadcasts: Channels,
    presence: Presence,
    heartbeats: Heartbeats,
    topics: Topics,
    receiver: Arc<Receiver>,
    pattern: PatternReceiver,
    watch: Watch,
    list: Arc<Waitlist>,
}

impl Held {
    fn new(name: &str) -> Held {
        let segment = Segment::open(name, &Options { size: 8 << 20, ..Options::default() }).unwrap();
        let world = World::new(&segment, "").unwrap();
        let channels = Channels::new(&world, ChannelKind::Channel);
        let broadcasts = Channels::new(&world, ChannelKind::Broadcast);
        let presence = Presence::new(&world);
        assert!(channels.create("a", &spec()).unwrap() && broadcasts.create("b", &spec()).unwrap());
        Held {
            receiver: channels.subscribe("a", "held", None).unwrap().unwrap(),
            pattern: channels.subscribe_pattern("a:#", "held").unwrap(),
            watch: Watch::new(&presence, "room").unwrap(),
            list: Waitlist::new(&segment).unwrap(),
            presence,
            heartbeats: Heartbeats::new(&world),
            topics: Topics::new(&world, TopicsKind::Free),
            other: format!("{name}-other"),
            channels,
            broadcasts,
            segment,
        }
    }

    /// One of the things that the threads do.
    fn act(&self, what: usize, number: u64) -> Result<()> {
        let client = format!("client {}", number % 50);
        let mut buffer = Vec::new();
        match what {
            0 => {
                self.channels.publish("a", &[7; 100], Form::Bytes)?;
                self.broadcasts.send("b", b"x", Form::Text, Some(&number.to_string()))?;
            }
            1 => {
                self.receiver.try_recv(&mut buffer)?;
                self.pattern.try_recv(&mut buffer)?;
                self.watch.try_next()?;
                park(&*self.receiver, Some(Instant::now() + Duration::from_millis(1)))?;
            }
            2 => {
                self.presence.track("room", &client, &Metadata::from_iter([("k", &client)]))?;
                self.presence.untrack("room", &format!("client {}", number % 37))?;
                self.heartbeats.register(&client, None)?;
                self.topics.subscribe(&format!("{client}:*"), &client)?;
                self.topics.match_topic("client 1:x")?;
                self.topics.unsubscribe_all(&client)?;
            }
            3 => {
                let name = format!("channel {}", number % 20); // not matched by the pattern, which would keep what nobody takes
                self.channels.create(&name, &spec())?;
                drop(self.channels.subscribe(&name, &client, None)?);
                self.channels.remove(&name)?;
            }
            4 => {
                let source: Arc<dyn Source> = self.receiver.clone();
                if let Some(token) = self.list.park(&source)? {
                    self.list.unpark(token);
                }
                self.list.take()?;
                self.segment.reap()?;
            }
            _ => {
                let other = Segment::open(&self.other, &Options { size: 1 << 20, ..Options::default() })?;
                World::new(&other, "")?;
                other.close()?;
                Segment::private(&Options { size: 1 << 20, ..Options::default() })?;
            }
        }
        Ok(())
    }

    /// A thread of the parent that was just taking something from a handle takes the handle with it: closed in the
    /// child, with an error that says so. A program that holds a lock of its own around each call, as an
    /// interpreter does, and forks under it, never meets that.
    fn inherited<T>(used: Result<T>) -> Result<()> {
        match used {
            Ok(_) | Err(Error::HandleClosed) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// What a child does with what it inherited.
    fn use_everything(&self) -> Result<()> {
        let mine = self.channels.subscribe("a", "child", None)?.expect("it is there");
        self.channels.publish("a", b"from a child", Form::Text)?;
        let mut buffer = Vec::new();
        assert!(mine.try_recv(&mut buffer)?.is_some() || mine.missed() > 0);
        Held::inherited(self.receiver.try_recv(&mut buffer))?;
        Held::inherited(self.pattern.try_recv(&mut buffer))?;
        Held::inherited(self.watch.try_next())?;
        for what in [0, 2, 3, 5] {
            (0..3).try_for_each(|number| self.act(what, number))?;
        }
        // The parent's list waits for the parent; a child makes one of its own.
        assert!(self.list.is_stale());
        let list = Waitlist::new(&self.segment)?;
        let source: Arc<dyn Source> = self.receiver.clone();
        if let Some(token) = list.park(&source)? {
            list.unpark(token);
        }
        drop(list);
        assert!(self.segment.stats()?.processes >= 2);
        self.segment.close()
    }
}

/// Forks; true: this is the child.
fn fork() -> (bool, libc::pid_t) {
    // SAFETY: the child runs code of this file only, on this thread, and ends by `_exit`. The C library's own locks
    // are in order after its `fork`.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "{}", std::io::Error::last_os_error());
    (pid == 0, pid)
}

/// Ends this process at once.
fn exit(code: i32) -> ! {
    // SAFETY: takes any number, and runs nothing of ours.
    unsafe { libc::_exit(code) }
}

/// How a child ended; `None`: it did not in time, and was killed.
fn wait(pid: libc::pid_t) -> Option<i32> {
    let (start, mut status) = (Instant::now(), 0);
    loop {
        // SAFETY: `status` lives over the call; the pid is that of a child that nobody else waits for.
        match unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) } {
            0 if start.elapsed() > PATIENCE => {
                // SAFETY: as above: it is our child and not yet waited for, so the pid is its own.
                unsafe { libc::kill(pid, libc::SIGKILL) };
                // SAFETY: as above.
                unsafe { libc::waitpid(pid, &raw mut status, 0) };
                return None;
            }
            0 => std::thread::sleep(Duration::from_millis(1)),
            _ => return Some(if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { -libc::WTERMSIG(status) }),
        }
    }
}

#[test]
fn children_forked_in_the_middle_of_everything_go_on_at_once() {
    let rounds: u64 = std::env::var("FORKS").map_or(100, |rounds| rounds.parse().expect("FORKS is a whole number"));
    let name = format!("forks-{}", std::process::id());
    let held = Held::new(&name);
    let stop = AtomicBool::new(false);
    let start = Instant::now();
    let slowest = std::thread::scope(|scope| {
        for what in 0..6 {
            let (held, stop) = (&held, &stop);
            scope.spawn(move || {
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    held.act(what, number).unwrap();
                    number += 1;
                }
            });
        }
        let forker = scope.spawn(|| {
            let mut slowest = Duration::ZERO;
            for round in 0..rounds {
                let start = Instant::now();
                let (is_child, pid) = fork();
                if is_child {
                    // The other threads are not in this process: nothing of theirs may be waited for.
                    let used = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| held.use_everything()));
                    match used {
                        Ok(Ok(())) => exit(0),
                        Ok(Err(error)) => eprintln!("{error}"),
                        Err(_) => eprintln!("a panic in round {round}"),
                    }
                    exit(1);
                }
                let ended = wait(pid);
                if ended != Some(0) {
                    stop.store(true, Ordering::Relaxed);
                }
                assert_eq!(ended, Some(0), "the child of round {round} (None: it was stuck)");
                slowest = slowest.max(start.elapsed());
            }
            stop.store(true, Ordering::Relaxed);
            slowest
        });
        forker.join()
    });
    let slowest = slowest.expect("every child went on");
    println!("{rounds} forks in {:.1?}, six threads at work; the slowest child was done after {slowest:.1?}", start.elapsed());
    held.segment.reap().unwrap();
    assert_eq!(held.segment.stats().unwrap().processes, 1);
    assert_eq!(held.segment.check().unwrap(), Vec::<String>::new());
    held.segment.unlink().unwrap();
    Segment::unlink_name(&held.other).unwrap();
}
