//! Waiting in a thread: a short spin, then asleep behind the thread's own bell.
//!
//! Promise: no news is slept through. A publisher killed between publishing and ringing delays it by at
//! most `SWEEP`. A thread keeps its bell until it ends; where all bells are in use, it looks for news
//! every few milliseconds instead.

use once_cell::race::OnceBool;
use std::cell::{Cell as PrivateCell, RefCell};
use std::time::{Duration, Instant};

use crate::doorbell::Bell;
use crate::error::Result;
use crate::layout::{Bell as Words, means};
use crate::os::bell::{Woken, futex_wait};
use crate::segment::{Segment, WeakSegment};
use crate::source::Source;
use crate::space::Context;

/// How often a sleeper looks by itself.
pub const SWEEP: Duration = Duration::from_millis(250);
/// The same where it has no bell.
const WITHOUT_BELL: Duration = Duration::from_millis(5);
/// Longest and shortest spin.
const SPIN: std::ops::RangeInclusive<u64> = 1_000..=50_000;

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parked {
    /// There is news, or was a moment ago.
    News,
    /// The time is over.
    TimedOut,
    /// A signal came, or may have come just before we slept; wait on if it is none of yours.
    Pause,
}

struct Own {
    segment: WeakSegment,
    attachment: u64,
    bell: Bell,
}

impl Drop for Own {
    fn drop(&mut self) {
        // In a forked child it is still the parent's; after a detach it was freed with everything else.
        if let Some(segment) = self.segment.upgrade()
            && let Some(cx) = segment.joined(self.attachment)
        {
            self.bell.release(cx);
        }
    }
}

thread_local! {
    static BELLS: RefCell<Vec<Own>> = const { RefCell::new(Vec::new()) };
    /// Nanoseconds to spin before sleeping: longer where that was enough or would have been, shorter where it would not.
    static PATIENCE: PrivateCell<u64> = const { PrivateCell::new(10_000) };
}

/// This thread's bell in the segment; `None`: all are in use.
fn own_bell(segment: &Segment, cx: Context<'_>, attachment: u64) -> Option<Bell> {
    BELLS.with_borrow_mut(|bells| {
        if let Some(own) = bells.iter().find(|own| own.attachment == attachment) {
            return Some(own.bell);
        }
        bells.retain(|own| own.segment.upgrade().is_some_and(|segment| segment.joined(own.attachment).is_some()));
        let bell = cx.claim_bell()?;
        bell.set_means(cx, means::FUTEX, 0, 0);
        bells.push(Own { segment: segment.downgrade(), attachment, bell });
        Some(bell)
    })
}

/// Is there another CPU on which news could be published meanwhile?
fn may_spin() -> bool {
    static MANY: OnceBool = OnceBool::new();
    MANY.get_or_init(|| std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1))
}

/// Looks for news for a moment, without a system call.
fn spin(source: &dyn Source, start: Instant) -> Result<bool> {
    if !may_spin() {
        return source.has_news();
    }
    let patience = Duration::from_nanos(PATIENCE.get());
    loop {
        for _ in 0..16 {
            if source.has_news()? {
                return Ok(true);
            }
            std::hint::spin_loop();
        }
        if start.elapsed() >= patience {
            return Ok(false);
        }
    }
}

/// News came so long after the wait began: would the longest spin have met it? Then the next one is longer, asleep or not
/// this time: two that answer each other out of their sleep would otherwise do so for ever, ten times as slowly.
/// Source: halt polling in the Linux kernel's KVM, which grows by how long a wait was.
fn learn(waited: Duration) {
    let (patience, waited) = (PATIENCE.get(), u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX));
    let next = if waited <= *SPIN.end() { patience.max(waited) * 2 } else { patience / 2 };
    PATIENCE.set(next.clamp(*SPIN.start(), *SPIN.end()));
}

/// Waits for news until `deadline`; `None`: for ever.
pub fn park(source: &dyn Source, deadline: Option<Instant>) -> Result<Parked> {
    let start = Instant::now();
    if spin(source, start)? {
        learn(start.elapsed());
        return Ok(Parked::News);
    }
    let left = |most: Duration| deadline.map_or(most, |deadline| deadline.saturating_duration_since(Instant::now()).min(most));
    let segment = source.segment();
    let (cx, attachment) = segment.attached()?;
    let Some(bell) = own_bell(segment, cx, attachment) else {
        std::thread::sleep(left(WITHOUT_BELL));
        let over = left(WITHOUT_BELL).is_zero();
        return Ok(match source.has_news()? {
            true => Parked::News,
            false if over => Parked::TimedOut,
            false => Parked::Pause,
        });
    };
    let cells = source.cells();
    for &cell in &cells {
        bell.arm(cx, cell);
    }
    let outcome = sleep(source, cx, &bell, left);
    // After a detach meanwhile the bell is not ours any more.
    if segment.joined(attachment).is_some() {
        for &cell in &cells {
            bell.disarm(cx, cell);
        }
        bell.wake(cx);
    }
    // Whose time was over, or who was interrupted, has waited for nothing that a longer spin would have met.
    learn(if matches!(outcome, Ok(Parked::News)) { start.elapsed() } else { Duration::MAX });
    outcome
}

fn sleep(source: &dyn Source, cx: Context<'_>, bell: &Bell, left: impl Fn(Duration) -> Duration) -> Result<Parked> {
    let pause = Instant::now() + SWEEP;
    loop {
        let word = bell.sleep(cx);
        // One thing is waited for: where there may be news is known.
        bell.collect(cx, |_| {});
        if source.has_news()? {
            return Ok(Parked::News);
        }
        if left(SWEEP).is_zero() {
            return Ok(Parked::TimedOut);
        }
        // A signal that was taken between the last look and the wait does not end the wait.
        let time = left(pause.saturating_duration_since(Instant::now()));
        if time.is_zero() || futex_wait(cx.word(bell.at + Words::bell), word, time) == Woken::Signal {
            return Ok(Parked::Pause);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arena::Info;
    use crate::bound::Form;
    use crate::channels::{ChannelKind, ChannelSpec, Channels};
    use crate::geometry::Options;
    use crate::waitlist::Waitlist;
    use crate::world::World;
    use std::sync::Arc;

    /// Publishes as somebody who is killed before ringing anybody.
    fn publish_and_die(channels: &Channels, name: &str) {
        let cx = channels.world().cx().unwrap();
        let bound = channels.bind(cx, name).unwrap().expect("it is there");
        let held = cx.store(Info::new(Form::Bytes.kind(), 0, 0, 0), u64::from(bound.cell.number()), 0, &[], b"x").unwrap();
        bound.ring.publish(cx, held, |_| true, |_| true).unwrap().expect("it is open");
    }

    #[test]
    fn spinning_is_as_long_as_it_would_have_helped() {
        let after = |waited: Duration| {
            learn(waited);
            Duration::from_nanos(PATIENCE.get())
        };
        let (shortest, longest) = (Duration::from_nanos(*SPIN.start()), Duration::from_nanos(*SPIN.end()));
        let mut last = after(Duration::MAX);
        for _ in 0..10 {
            let next = after(Duration::MAX);
            assert!(next <= last);
            last = next;
        }
        assert_eq!(last, shortest);
        // It slept, and a spin would have met it.
        assert!(after(Duration::from_micros(14)) >= Duration::from_micros(28));
        assert!((0..10).all(|_| after(Duration::from_micros(14)) <= longest));
        assert!(after(longest * 2) < longest);
    }

    #[test]
    fn the_sweep_makes_up_for_a_publisher_that_was_killed_before_ringing() {
        let segment = Segment::private(&Options { size: 4 << 20, ..Options::default() }).unwrap();
        let channels = Channels::new(&World::new(&segment, "").unwrap(), ChannelKind::Channel);
        let spec = ChannelSpec { buffer_size: 16, metadata: vec![], fail_when_unheard: false, dedup_window: None };
        channels.create("a", &spec).unwrap();
        let receiver = channels.subscribe("a", "alice", None).unwrap().expect("it is there");
        std::thread::scope(|scope| {
            let deadline = Some(Instant::now() + Duration::from_secs(60));
            let waiting = receiver.clone();
            let wait = move || loop {
                match park(&*waiting, deadline) {
                    Ok(Parked::Pause) => {}
                    other => return other,
                }
            };
            let parked = scope.spawn(wait);
            std::thread::sleep(Duration::from_millis(50));
            let start = Instant::now();
            publish_and_die(&channels, "a");
            assert_eq!(parked.join().unwrap(), Ok(Parked::News));
            println!("a thread was woken by its sweep after {:?}", start.elapsed());
        });
        receiver.try_recv(&mut Vec::new()).unwrap().expect("the message");
        let list = Waitlist::new(&segment).unwrap();
        let source: Arc<dyn Source> = receiver;
        let token = list.park(&source).unwrap().expect("nothing is there");
        let start = Instant::now();
        publish_and_die(&channels, "a");
        while list.take().unwrap() != [token] {
            assert!(start.elapsed() < Duration::from_secs(60), "the keeper did not sweep");
            std::thread::sleep(Duration::from_millis(1));
        }
        println!("a loop was rung by the keeper's sweep after {:?}", start.elapsed());
    }
}
