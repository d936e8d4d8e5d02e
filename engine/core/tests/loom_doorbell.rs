//! The doorbell under loom: a sleeper and two publishers in every interleaving, one of which may be stopped
//! in the middle of a ring. A lost wake-up shows as a deadlock.
//!
//! Run with `make test-loom`.
#![cfg(loom)]

use hypern_shm_core::doorbell::Bell;
use hypern_shm_core::geometry::Geometry;
use hypern_shm_core::layout::Header;
use hypern_shm_core::space::{Actor, Context, Ringer, Space};
use hypern_shm_core::sync::Ordering;
use loom::sync::{Arc, Notify};
use loom::thread;

/// What is published: one word for each publisher.
const NEWS: [usize; 3] = [Header::evictions, Header::reaps, Header::keeper_beat];
const CELL: u32 = 0;

/// The kernel: a wait that a ring ends, once for each ring that came before.
struct Sleep {
    rung: Notify,
    /// Until this the first publisher's ring does not reach the kernel: it is stopped in the middle.
    resumes: Option<Notify>,
    /// The first publisher is stopped, or has published.
    stopped: Notify,
}

impl Sleep {
    fn new(resumes: Option<Notify>) -> Arc<Sleep> {
        Arc::new(Sleep { rung: Notify::new(), resumes, stopped: Notify::new() })
    }
}

struct Stand(Arc<Sleep>);

loom::thread_local! {
    static FIRST: std::cell::Cell<bool> = std::cell::Cell::new(false);
}

impl Ringer for Stand {
    fn ring(&self, _: &Space, _: u32, _: u64) {
        if let (Some(resumes), true) = (&self.0.resumes, FIRST.with(|first| first.get())) {
            self.0.stopped.notify();
            resumes.wait();
        }
        self.0.rung.notify();
    }
    fn freed(&self, _: u32, _: u64) {}
    fn rest(&self) {}
}

fn model(preemptions: usize, body: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 100_000;
    let runs = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = runs.clone();
    builder.check(move || {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        body();
    });
    println!("{} interleavings", runs.load(std::sync::atomic::Ordering::Relaxed));
}

/// With nothing but a cell and a bell: loom makes every word anew for every interleaving.
fn space(sleep: &Arc<Sleep>) -> Arc<Space> {
    Arc::new(Space::boxed_with(Geometry::tiny_with_bells(0, 1, 0, 1, [0, 0, 0]), Box::new(Stand(sleep.clone()))))
}

fn publish(cx: Context<'_>, who: usize) {
    // SYNC of the model: published by a swap, as everything that is told of.
    cx.word(NEWS[who]).fetch_add(1, Ordering::AcqRel);
    cx.news(CELL);
}

fn publisher(space: &Arc<Space>, who: usize) -> thread::JoinHandle<()> {
    let space = space.clone();
    thread::spawn(move || {
        FIRST.with(|first| first.set(who == 0));
        let actor = Actor::new(who as u32, 1);
        publish(Context { space: &space, actor: &actor }, who);
    })
}

/// Sleeps until `done`, as `park` does without its sweep.
fn wait_until(cx: Context<'_>, bell: &Bell, sleep: &Sleep, done: impl Fn() -> bool) {
    bell.arm(cx, CELL);
    while !done() {
        bell.sleep(cx);
        bell.collect(cx, |_| {});
        if done() {
            break;
        }
        sleep.rung.wait();
    }
    bell.disarm(cx, CELL);
    bell.wake(cx);
}

#[test]
fn a_sleeper_hears_of_everything() {
    model(2, || {
        let sleep = Sleep::new(None);
        let space = space(&sleep);
        let publishers = [publisher(&space, 0), publisher(&space, 1)];
        let waiter = thread::spawn(move || {
            let actor = Actor::new(2, 1);
            let cx = Context { space: &space, actor: &actor };
            let bell = cx.claim_bell().expect("there is one");
            wait_until(cx, &bell, &sleep, || NEWS[..2].iter().all(|&news| cx.word(news).load(Ordering::Acquire) == 1));
            bell.release(cx);
        });
        waiter.join().unwrap();
        for publisher in publishers {
            publisher.join().unwrap();
        }
    });
}

#[test]
fn a_late_end_of_a_ring_silences_nobody() {
    // The second publisher has rung an earlier sleep and not yet said so; the first is stopped in the middle of
    // ringing this one; the third's news must come through all the same.
    // Two preemptions find a missing epoch, and take minutes to find nothing.
    let preemptions = if std::env::var_os("MUTANT").is_some() { 2 } else { 1 };
    model(preemptions, || {
        let sleep = Sleep::new(Some(Notify::new()));
        let space = space(&sleep);
        let actor = Actor::new(3, 1);
        let bell = Context { space: &space, actor: &actor }.claim_bell().expect("there is one");
        let late = publisher(&space, 1);
        let (there, stopping) = (space.clone(), sleep.clone());
        let stopped = thread::spawn(move || {
            FIRST.with(|first| first.set(true));
            let actor = Actor::new(0, 1);
            publish(Context { space: &there, actor: &actor }, 0);
            stopping.stopped.notify();
        });
        let (there, stopping) = (space.clone(), sleep.clone());
        let third = thread::spawn(move || {
            let actor = Actor::new(2, 1);
            stopping.stopped.wait();
            publish(Context { space: &there, actor: &actor }, 2);
        });
        let cx = Context { space: &space, actor: &actor };
        wait_until(cx, &bell, &sleep, || cx.word(NEWS[1]).load(Ordering::Acquire) == 1);
        wait_until(cx, &bell, &sleep, || cx.word(NEWS[2]).load(Ordering::Acquire) == 1);
        sleep.resumes.as_ref().expect("it is stopped").notify();
        for publisher in [late, stopped, third] {
            publisher.join().unwrap();
        }
    });
}

#[test]
fn a_publisher_stopped_in_mid_ring_strands_nobody_elses_news() {
    model(2, || {
        let sleep = Sleep::new(Some(Notify::new()));
        let space = space(&sleep);
        let publishers = [publisher(&space, 0), publisher(&space, 1)];
        let waiter = thread::spawn(move || {
            let actor = Actor::new(2, 1);
            let cx = Context { space: &space, actor: &actor };
            let bell = cx.claim_bell().expect("there is one");
            // The second one's news must come through while the first one is stopped.
            wait_until(cx, &bell, &sleep, || cx.word(NEWS[1]).load(Ordering::Acquire) == 1);
            sleep.resumes.as_ref().expect("it is stopped").notify();
            // And the first one's when it goes on, whatever it does to the bell then.
            wait_until(cx, &bell, &sleep, || NEWS[..2].iter().all(|&news| cx.word(news).load(Ordering::Acquire) == 1));
            bell.release(cx);
        });
        waiter.join().unwrap();
        for publisher in publishers {
            publisher.join().unwrap();
        }
    });
}

#[test]
fn dirty_bits_name_what_has_news() {
    // The sleeper looks only where the dirty bits say; two cells, two publishers.
    model(2, || {
        let sleep = Sleep::new(None);
        let space = Arc::new(Space::boxed_with(Geometry::tiny_with_bells(0, 2, 0, 1, [0, 0, 0]), Box::new(Stand(sleep.clone()))));
        let publishers: Vec<_> = (0..2_usize)
            .map(|who| {
                let space = space.clone();
                thread::spawn(move || {
                    let actor = Actor::new(who as u32, 1);
                    let cx = Context { space: &space, actor: &actor };
                    cx.word(NEWS[who]).fetch_add(1, Ordering::AcqRel);
                    cx.news(who as u32);
                })
            })
            .collect();
        let waiter = thread::spawn(move || {
            let actor = Actor::new(2, 1);
            let cx = Context { space: &space, actor: &actor };
            let bell = cx.claim_bell().expect("there is one");
            let there = |cell: usize| cx.word(NEWS[cell]).load(Ordering::Acquire) == 1;
            let mut found = [false; 2];
            for cell in 0..2 {
                bell.arm(cx, cell as u32);
                found[cell] = there(cell);
            }
            while found != [true; 2] {
                bell.sleep(cx);
                let mut fresh = false;
                bell.collect(cx, |bucket| {
                    fresh = true;
                    let cell = bucket as usize;
                    found[cell] |= there(cell);
                });
                if !fresh && found != [true; 2] {
                    sleep.rung.wait();
                }
            }
        });
        waiter.join().unwrap();
        for publisher in publishers {
            publisher.join().unwrap();
        }
    });
}
