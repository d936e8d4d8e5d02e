//! Heartbeats: when a client was last pinged and last answered, and which of its timeouts were reported.
//!
//! Timeouts go by time, not by calls: timeout n of a client happens at
//! `last pong + timeout + (n - 1) · interval`, and whoever asks first reports it, once across workers.
//! Hot words of a record: last pong, last ping, and `low 32 bits of the pong's time | timeouts reported:16`,
//! so that a report that comes late counts for nothing after a newer pong.

use std::sync::Arc;

use crate::content::Content;
use crate::error::Result;
use crate::layout::{Block, World as WorldCell};
use crate::lives::HOT_MASK;
use crate::os::clock;
use crate::os::lock::Lock;
use crate::owned::{carry_hot, owners_and_us, release_owner, remove_all, replaced};
use crate::points::point;
use crate::process::TAKEN;
use crate::record::Record;
use crate::space::{Client, Context, Hash, owner_slot};
use crate::sync::Ordering;
use crate::trie::{Change, Stop, Trie};
use crate::world::{World, check_length};

/// A handle's configuration of heartbeats.
#[derive(Clone, Copy, Debug)]
pub struct Beat {
    /// Seconds between pings, and between one timeout and the next.
    pub interval_secs: f64,
    /// Seconds without a pong until the first timeout.
    pub timeout_secs: f64,
    /// Consecutive timeouts after which a client is dead; 0: at the first.
    pub max_retries: u32,
}

impl Beat {
    /// How many timeouts have happened so long after the last pong.
    pub(crate) fn timeouts(&self, silent_secs: f64) -> u32 {
        if silent_secs < self.timeout_secs {
            return 0;
        }
        // A cast saturates: an interval of 0 means every retry is used up at once.
        (((silent_secs - self.timeout_secs) / self.interval_secs.max(0.0)).floor() as u32).saturating_add(1)
    }

    /// How many microseconds after the last pong the next timeout happens, once so many have; never too late.
    fn next_after(&self, timeouts: u32) -> u64 {
        let next = self.timeout_secs + f64::from(timeouts) * self.interval_secs.max(0.0);
        ((next * 1e6) as u64).saturating_sub(1)
    }

    pub(crate) fn is_dead(&self, timeouts: u32) -> bool {
        timeouts >= self.max_retries.max(1)
    }
}

/// What is known of a client.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientInfo {
    /// Its id.
    pub client: String,
    /// No timeout since the last pong.
    pub alive: bool,
    /// Timeouts since the last pong.
    pub retries: u32,
    /// Seconds since the last pong.
    pub last_pong_ago_secs: f64,
    /// Where its stream resumes.
    pub last_event_id: Option<String>,
}

/// Sums over a world's clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BeatStats {
    /// Clients now.
    pub monitored: u64,
    /// Pings ever.
    pub pings: u64,
    /// Pongs ever.
    pub pongs: u64,
    /// Timeouts ever reported.
    pub timeouts: u64,
    /// Clients timed out now.
    pub timed_out: u64,
}

/// The heartbeats of one world.
#[derive(Clone)]
pub struct Heartbeats {
    world: World,
    quiet: Arc<Lock<Quiet>>,
}

/// Until when nobody can time out: what the last look at all clients found. Pongs, registrations and reports by others
/// only put a timeout off, so nothing has to be looked at before.
#[derive(Default)]
struct Quiet {
    /// Interval and timeout for which it holds.
    beat: (f64, f64),
    /// Monotonic microseconds.
    until: u64,
}

const PONG: usize = Block::hot0;
pub(crate) const PING: usize = Block::hot1;
const REPORTED: usize = Block::hot2;

/// Seconds since the last pong; `None`: the record is damaged.
pub(crate) fn silence(record: &Record, now: u64) -> Option<f64> {
    record.hot(PONG).map(|pong| now.saturating_sub(pong) as f64 / 1e6)
}

/// Marks so many timeouts of a client as reported. Gives how many of them nobody had reported.
fn report(cx: Context<'_>, reference: u64, at: usize, pong: u64, timeouts: u64) -> u64 {
    let life = pong & 0xffff_ffff;
    let mut new = 0;
    cx.set_hot(reference, at, REPORTED, |seen| {
        let before = if seen >> 16 == life { seen & 0xffff } else { 0 };
        new = timeouts.saturating_sub(before);
        (new > 0).then_some(life << 16 | timeouts)
    })
    .map_or(0, |_| new)
}

/// Where a client's stream resumes.
pub(crate) fn event_id(record: &Record) -> Option<String> {
    match record.value().split_first() {
        Some((1, id)) => Some(String::from_utf8_lossy(id).into_owned()),
        _ => None,
    }
}

/// A client's record.
fn content_of<'a>(owners: &'a [u64], client: &'a str, event_id: Option<&'a str>) -> Content<'a> {
    let (is_there, id): (&[u8], &str) = event_id.map_or((&[0], ""), |id| (&[1], id));
    Content { owners, key: [client.as_bytes(), &[]], value: [is_there, id.as_bytes()] }
}

impl Heartbeats {
    /// The heartbeats of `world`.
    pub fn new(world: &World) -> Heartbeats {
        Heartbeats { world: world.clone(), quiet: Arc::default() }
    }

    fn clients<'a>(&self, cx: Context<'a>) -> Trie<'a> {
        Trie::new(cx, self.world.root(WorldCell::heartbeats))
    }

    fn counter(&self, cx: Context<'_>, field: usize, count: u64) {
        cx.word(self.world.root(field)).fetch_add(count, Ordering::Relaxed);
    }

    fn find(&self, cx: Context<'_>, client: &str) -> Result<Option<Record>> {
        let place = cx.space.hash(client.as_bytes()).place();
        Ok(self.clients(cx).get(place, client.as_bytes())?.map(|(_, record)| record))
    }

    /// Starts to watch a client, or starts again.
    pub fn register(&self, client: &str, last_event_id: Option<&str>) -> Result<()> {
        let cx = self.world.cx()?;
        self.register_client(cx, (client, cx.space.hash(client.as_bytes())), last_event_id)
    }

    /// As `register`, where the client's hash is known.
    pub(crate) fn register_client(&self, cx: Context<'_>, (client, hash): Client<'_>, last_event_id: Option<&str>) -> Result<()> {
        check_length("client_id", client)?;
        check_length("last_event_id", last_event_id.unwrap_or(""))?;
        self.world.segment().owns_something()?;
        let clients = self.clients(cx);
        let place = hash.place();
        let now = clock::tick_micros() & HOT_MASK;
        let same = |value| cx.has_key(value, client.as_bytes());
        clients.change(place, same, |found| {
            let (owners, _) = owners_and_us(cx, found)?;
            point!("register.found");
            let held = cx.new_record(clients.root, place, &content_of(&owners, client, last_event_id))?;
            held.set_hot(PONG, now);
            held.set_hot(PING, now);
            Ok((Change::Put(0, held), ()))
        })?;
        Ok(())
    }

    /// Stops watching a client. False: it was not watched.
    pub fn unregister(&self, client: &str) -> Result<bool> {
        let cx = self.world.cx()?;
        self.unregister_client(cx, (client, cx.space.hash(client.as_bytes())))
    }

    /// Asks for what is kept of a client who is about to go.
    pub(crate) fn expect(&self, cx: Context<'_>, client: Hash) {
        self.clients(cx).expect(client.place());
    }

    /// As `unregister`, where the client's hash is known.
    pub(crate) fn unregister_client(&self, cx: Context<'_>, (client, hash): Client<'_>) -> Result<bool> {
        self.clients(cx).remove(hash.place(), |value| cx.has_key(value, client.as_bytes()))
    }

    /// Ends this process's part in watching a client, which ends with its last. True: it ended.
    pub fn release(&self, client: &str) -> Result<bool> {
        release_owner(&self.clients(self.world.cx()?), client)
    }

    /// Sets a time of a client to now.
    fn beat(&self, client: &str, field: usize, counter: usize) -> Result<bool> {
        let cx = self.world.cx()?;
        let now = clock::tick_micros() & HOT_MASK;
        let place = cx.space.hash(client.as_bytes()).place();
        let set = self.clients(cx).touch(place, client.as_bytes(), field, |then| (then < now).then_some(now))?.is_some();
        if set {
            point!("beat.set");
            self.counter(cx, counter, 1);
        }
        Ok(set)
    }

    /// Records that a ping was sent. False: not watched.
    pub fn ping(&self, client: &str) -> Result<bool> {
        self.beat(client, PING, WorldCell::pings)
    }

    /// Records that the client answered. False: not watched.
    pub fn pong(&self, client: &str) -> Result<bool> {
        self.beat(client, PONG, WorldCell::pongs)
    }

    /// Calls `see` with every client and its silence in seconds.
    fn each(&self, mut see: impl FnMut(&Record, f64)) -> Result<()> {
        let cx = self.world.cx()?;
        let now = clock::tick_micros();
        self.clients(cx).records(|_, record| {
            if let Some(silent) = silence(record, now) {
                see(record, silent);
            }
        })
    }

    fn select(&self, which: impl Fn(f64) -> bool) -> Result<Vec<String>> {
        let mut selected = Vec::new();
        self.each(|record, silent| {
            if which(silent) {
                selected.push(record.name());
            }
        })?;
        Ok(selected)
    }

    /// Clients with a timeout that nobody has reported yet. Reports them.
    pub fn check_timeouts(&self, beat: &Beat) -> Result<Vec<String>> {
        let cx = self.world.cx()?;
        let now = clock::tick_micros();
        let key = (beat.interval_secs, beat.timeout_secs);
        if self.quiet.try_look().is_some_and(|quiet| quiet.beat == key && now < quiet.until) {
            return Ok(Vec::new());
        }
        let mut reported = Vec::new();
        let mut total = 0;
        // Who registers or answers from here on has until then at least.
        let mut until = now.saturating_add(beat.next_after(0));
        self.clients(cx).entries(|entry| {
            let Some((at, pong)) = cx.life(entry.value).and_then(|(_, at)| Some((at, cx.hot(entry.value, at, PONG)?))) else {
                // Replaced under the look: looked at again the next time.
                until = now;
                return;
            };
            let timeouts = beat.timeouts(now.saturating_sub(pong) as f64 / 1e6).min(0xffff);
            until = until.min(pong.saturating_add(beat.next_after(timeouts)));
            if timeouts == 0 {
                return;
            }
            // Its name first: what was marked as reported is to be told.
            let Some(record) = cx.record(entry.value) else {
                until = now;
                return;
            };
            let new = report(cx, entry.value, at, pong, u64::from(timeouts));
            point!("timeouts.reported");
            if new > 0 {
                total += new;
                reported.push(record.name());
            }
        })?;
        if let Some(mut quiet) = self.quiet.try_lock() {
            *quiet = Quiet { beat: key, until };
        }
        if total > 0 {
            self.counter(cx, WorldCell::timeouts, total);
        }
        Ok(reported)
    }

    fn timeouts_of(&self, client: &str, beat: &Beat) -> Result<Option<u32>> {
        let cx = self.world.cx()?;
        let silent = self.find(cx, client)?.and_then(|record| silence(&record, clock::tick_micros()));
        Ok(silent.map(|silent| beat.timeouts(silent)))
    }

    /// Is a client timed out? True for one that is not watched.
    pub fn is_timed_out(&self, client: &str, beat: &Beat) -> Result<bool> {
        Ok(self.timeouts_of(client, beat)?.is_none_or(|timeouts| timeouts > 0))
    }

    /// Is a client alive? False for one that is not watched.
    pub fn is_alive(&self, client: &str, beat: &Beat) -> Result<bool> {
        Ok(self.timeouts_of(client, beat)? == Some(0))
    }

    /// Timeouts since a client's last pong; 0 for one that is not watched.
    pub fn retry_count(&self, client: &str, beat: &Beat) -> Result<u32> {
        Ok(self.timeouts_of(client, beat)?.unwrap_or(0))
    }

    /// Clients that used up their retries.
    pub fn dead(&self, beat: &Beat) -> Result<Vec<String>> {
        self.select(|silent| beat.is_dead(beat.timeouts(silent)))
    }

    /// Removes clients that used up their retries; each is given to one caller.
    pub fn evict_dead(&self, beat: &Beat) -> Result<Vec<String>> {
        let cx = self.world.cx()?;
        let now = clock::tick_micros();
        let clients = self.clients(cx);
        let mut evicted = Vec::new();
        let mut from = Some(0);
        while let Some(cursor) = from {
            let (gone, next) = clients.sweep(cursor, false, |entry, gone| {
                let (_, at) = cx.life(entry.value).ok_or(Stop::Moved)?;
                let pong = cx.hot(entry.value, at, PONG).ok_or(Stop::Moved)?;
                if !beat.is_dead(beat.timeouts(now.saturating_sub(pong) as f64 / 1e6)) {
                    return Ok(Change::Keep);
                }
                gone.push(cx.record(entry.value).ok_or(Stop::Moved)?.name());
                Ok(Change::Remove)
            })?;
            evicted.extend(gone);
            from = next;
        }
        Ok(evicted)
    }

    /// Clients whose last ping is an interval ago.
    pub fn needing_ping(&self, beat: &Beat) -> Result<Vec<String>> {
        Ok(self.due(beat)?.into_iter().map(|record| record.name()).collect())
    }

    fn due(&self, beat: &Beat) -> Result<Vec<Record>> {
        let now = clock::tick_micros();
        let mut due = Vec::new();
        self.each(|record, _| {
            let pinged = record.hot(PING).unwrap_or(now);
            if now.saturating_sub(pinged) as f64 >= beat.interval_secs * 1e6 {
                due.push(record.clone());
            }
        })?;
        Ok(due)
    }

    /// As `needing_ping`, but only the clients of this process, and ownerless ones, which it adopts.
    pub fn own_needing_ping(&self, beat: &Beat) -> Result<Vec<String>> {
        let cx = self.world.cx()?;
        let mut own = Vec::new();
        for record in self.due(beat)? {
            if record.owners.contains(&cx.actor.owner) || (!has_owner(cx, &record) && self.adopt(cx, &record)?) {
                own.push(record.name());
            }
        }
        Ok(own)
    }

    /// Makes this process the owner of an ownerless client. False: another was first.
    fn adopt(&self, cx: Context<'_>, orphan: &Record) -> Result<bool> {
        let clients = self.clients(cx);
        let place = cx.space.hash(orphan.key()).place();
        let adopted = clients.change_record(place, orphan.key(), |found| match found {
            Some((entry, record)) if !has_owner(cx, record) => Ok((replaced(&clients, &entry, record, &[cx.actor.owner])?, true)),
            _ => Ok((Change::Keep, false)),
        })?;
        Ok(adopted.unwrap_or(false))
    }

    /// Where a client's stream resumes.
    pub fn last_event_id(&self, client: &str) -> Result<Option<String>> {
        Ok(self.find(self.world.cx()?, client)?.as_ref().and_then(event_id))
    }

    /// Sets where a client's stream resumes. False: not watched.
    pub fn set_last_event_id(&self, client: &str, id: &str) -> Result<bool> {
        check_length("event_id", id)?;
        let cx = self.world.cx()?;
        let clients = self.clients(cx);
        let place = cx.space.hash(client.as_bytes()).place();
        let set = clients.change_record(place, client.as_bytes(), |found| {
            let Some((entry, record)) = found else {
                return Ok((Change::Keep, false));
            };
            let held = cx.new_record(clients.root, place, &content_of(&record.owners, client, Some(id)))?;
            carry_hot(cx, record, &held);
            Ok((Change::Put(entry.flags(), held), true))
        })?;
        Ok(set.unwrap_or(false))
    }

    /// The clients' ids.
    pub fn client_ids(&self) -> Result<Vec<String>> {
        self.select(|_| true)
    }

    /// How many clients are watched.
    pub fn client_count(&self) -> Result<u64> {
        self.world.segment().tend()?;
        self.clients(self.world.cx()?).live()
    }

    /// What is known of every client.
    pub fn client_info(&self, beat: &Beat) -> Result<Vec<ClientInfo>> {
        let mut all = Vec::new();
        self.each(|record, silent| {
            let retries = beat.timeouts(silent);
            all.push(ClientInfo {
                client: record.name(),
                alive: retries == 0,
                retries,
                last_pong_ago_secs: silent,
                last_event_id: event_id(record),
            });
        })?;
        Ok(all)
    }

    /// Sums over all clients.
    pub fn stats(&self, beat: &Beat) -> Result<BeatStats> {
        let mut timed_out = 0;
        self.each(|_, silent| timed_out += u64::from(beat.timeouts(silent) > 0))?;
        let cx = self.world.cx()?;
        let counter = |field| cx.view().get(self.world.root(field));
        Ok(BeatStats {
            monitored: self.clients(cx).live()?,
            pings: counter(WorldCell::pings),
            pongs: counter(WorldCell::pongs),
            timeouts: counter(WorldCell::timeouts),
            timed_out,
        })
    }

    /// Stops watching everybody.
    pub fn clear(&self) -> Result<()> {
        remove_all(&self.clients(self.world.cx()?))
    }
}

/// Does any owner of a record still have its slot? One that detached in order does not.
fn has_owner(cx: Context<'_>, record: &Record) -> bool {
    record.owners.iter().any(|&owner| {
        let seen = cx.space.slot(owner_slot(owner));
        seen.owner() == owner && seen.state() == TAKEN
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_go_by_time() {
        let beat = Beat { interval_secs: 10.0, timeout_secs: 45.0, max_retries: 3 };
        assert_eq!(beat.timeouts(44.9), 0);
        assert_eq!(beat.timeouts(45.0), 1);
        assert_eq!(beat.timeouts(54.9), 1);
        assert_eq!(beat.timeouts(55.0), 2);
        assert!(!beat.is_dead(2) && beat.is_dead(3));
        let hasty = Beat { interval_secs: 0.0, max_retries: 0, ..beat };
        assert_eq!(hasty.timeouts(46.0), u32::MAX);
        assert!(hasty.is_dead(1) && !hasty.is_dead(0));
    }
}
