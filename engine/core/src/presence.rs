//! Presence: who is in which channel, with metadata, last seen and the net change since the last flush.
//!
//! A channel's members are one trie; that is the truth. The world's `whereabouts`, keyed by (client,
//! channel), is a hint to where a client is: written first, removed last, checked on use, pruned by
//! the keeper. A join nobody has flushed yet is PENDING, a leave is GONE; join and leave between two
//! flushes cancel out.

use std::sync::Arc;

use hashbrown::HashMap;

use crate::arena::{HOT_MASK, hot};
use crate::cells::Cell;
use crate::directory::Directory;
use crate::error::{Error, Result};
use crate::layout::{Block, Group, Header, World as WorldCell, cell_kind, state};
use crate::os::clock;
use crate::os::lock::Lock;
use crate::owned::{leaving, remove_all, replaced, sweep_members};
use crate::points::point;
use crate::record::{Owners, Record, decode_pairs, encode, encode_pairs};
use crate::space::Context;
use crate::trie::{Change, GONE, PENDING, Root, Stop, Trie};
use crate::whereabouts::Hint;
use crate::world::{World, check_length};

/// A member of a channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// The client's id.
    pub client: String,
    /// The channel's name.
    pub channel: Arc<str>,
    /// Text pairs.
    pub metadata: Vec<(String, String)>,
    /// Unix seconds.
    pub joined_at: f64,
    /// Unix seconds.
    pub last_seen: f64,
}

/// The net change since the last flush.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Diff {
    /// Who joined and is there.
    pub joins: Vec<Member>,
    /// Who was there and left.
    pub leaves: Vec<String>,
}

/// The presence of one world.
#[derive(Clone)]
pub struct Presence {
    world: World,
    /// Channel → group, found once and valid while the cell's life is open.
    groups: Arc<Lock<HashMap<Box<str>, Cell>>>,
}

/// Rounds against others who change the same member: what is left after them is pruned by the scavenger.
const PATIENCE: u32 = 1 << 10;
/// Names remembered before the private map is emptied.
const REMEMBERED: usize = 16 << 10;

/// Monotonic microseconds as Unix seconds, the same in every process of the segment.
pub(crate) fn unix_seconds(cx: Context<'_>, micros: u64) -> f64 {
    cx.view().get(Header::clock_offset).wrapping_add(micros) as f64 / 1e6
}

pub(crate) fn member_of(cx: Context<'_>, channel: &Arc<str>, record: &Record) -> Member {
    let joined = record.value().first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let seen = cx.hot(record.reference, record.at, Block::hot0).unwrap_or(joined);
    Member {
        client: record.name(),
        channel: channel.clone(),
        metadata: decode_pairs(record.value().get(8..).unwrap_or(&[])),
        joined_at: unix_seconds(cx, joined),
        last_seen: unix_seconds(cx, seen),
    }
}

impl Presence {
    /// The world it is of.
    pub(crate) fn world(&self) -> &World {
        &self.world
    }

    /// The presence of `world`.
    pub fn new(world: &World) -> Presence {
        Presence { world: world.clone(), groups: Arc::default() }
    }

    pub(crate) fn directory<'a>(&self, cx: Context<'a>) -> Directory<'a> {
        Directory::new(cx, self.world.root(WorldCell::presence))
    }

    pub(crate) fn whereabouts<'a>(&self, cx: Context<'a>) -> Trie<'a> {
        Trie::new(cx, self.world.root(WorldCell::whereabouts))
    }

    pub(crate) fn members<'a>(&self, cx: Context<'a>, channel: &str) -> Result<Option<(Cell, Trie<'a>)>> {
        if let Some(groups) = self.groups.try_lock()
            && let Some(&cell) = groups.get(channel)
            && cell.is_open(cx)
        {
            return Ok(Some((cell, cell.trie(cx, Group::members))));
        }
        let Some(found) = self.directory(cx).find(channel)? else {
            return Ok(None);
        };
        if let Some(mut groups) = self.groups.try_lock() {
            if groups.len() >= REMEMBERED {
                groups.clear();
            }
            groups.insert(channel.into(), found.cell);
        }
        Ok(Some((found.cell, found.cell.trie(cx, Group::members))))
    }

    /// The members of a channel, made if need be. When cells run out, empty groups are given back.
    fn group<'a>(&self, cx: Context<'a>, channel: &str) -> Result<(Cell, Trie<'a>)> {
        let directory = self.directory(cx);
        let mut purged = false;
        for _ in 0..1 << 16 {
            if let Some((cell, members)) = self.members(cx, channel)? {
                if members.root() != Root::Sealed {
                    return Ok((cell, members));
                }
                // Sealed by somebody who gives the group back: help to forget it.
                directory.remove(channel, Some(cell))?;
                cell.release(cx);
                continue;
            }
            let root = directory.trie.root;
            match directory.insert(channel, &[], |ident| cx.new_cell(cell_kind::GROUP, root, ident)) {
                // Whoever watches a channel that had no members yet looks again.
                Ok(_) => cx.news(self.world.cell_number()),
                Err(Error::Full { .. }) if !purged => {
                    purged = true;
                    self.purge(cx)?;
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::Corrupt { what: "a channel's members cannot be found after they were made" })
    }

    /// Gives back the groups in which nobody is and nothing is left to flush.
    fn purge(&self, cx: Context<'_>) -> Result<()> {
        let directory = self.directory(cx);
        let mut empty = Vec::new();
        directory.each(|found| {
            let members = found.cell.trie(cx, Group::members);
            if !matches!(members.root(), Root::Page(_)) {
                empty.push((found.record.name(), found.cell));
            }
        })?;
        for (channel, cell) in empty {
            if cell.trie(cx, Group::members).seal_if_empty() {
                point!("purge.sealed");
                directory.remove(&channel, Some(cell))?;
                cell.release(cx);
            }
        }
        Ok(())
    }

    /// Adds a member, or replaces its metadata, keeping when it joined.
    pub fn track(&self, channel: &str, client: &str, metadata: &[(String, String)]) -> Result<Member> {
        check_length("channel", channel)?;
        check_length("client_id", client)?;
        let cx = self.world.cx()?;
        self.world.segment().owns_something()?;
        let hint = Hint::new(self.whereabouts(cx), client, channel);
        hint.write()?;
        point!("track.hinted");
        match self.add(cx, channel, client, metadata) {
            Ok(member) => {
                point!("track.joined");
                // Somebody who removed the member before may have removed the hint only now; and somebody who
                // removed it since may have done so before we wrote.
                if hint.write()? && self.find(cx, channel, client)?.is_none() {
                    self.forget(cx, channel, client)?;
                }
                Ok(member)
            }
            Err(error) => {
                // Nothing is left half done; what this cannot remove is pruned by the scavenger.
                self.forget(cx, channel, client)?;
                Err(error)
            }
        }
    }

    /// Adds or replaces the member itself.
    fn add(&self, cx: Context<'_>, channel: &str, client: &str, metadata: &[(String, String)]) -> Result<Member> {
        let place = cx.space.hash(client.as_bytes()).place();
        let me = cx.actor.owner;
        let mut value = vec![0; 8];
        encode_pairs(metadata, &mut value);
        for _ in 0..1 << 16 {
            let (cell, members) = self.group(cx, channel)?;
            let now = clock::monotonic_micros() & HOT_MASK;
            let joined = members.change_record(place, client.as_bytes(), |found| {
                let mut owners = Owners::new();
                let mut joined = now;
                // Somebody who left and is back before the leave was taken never left.
                let mut flags = if found.is_some() { 0 } else { PENDING };
                if let Some((entry, record)) = found
                    && entry.is_live()
                {
                    joined = record.value().first_chunk::<8>().map_or(now, |bytes| u64::from_le_bytes(*bytes));
                    flags = entry.flags();
                    owners = record.owners;
                }
                if !owners.contains(&me) {
                    owners.push(me);
                }
                value[..8].copy_from_slice(&joined.to_le_bytes());
                let held = cx.new_record(members.root, place, &encode(&owners, client.as_bytes(), &value))?;
                cx.view().set(held.at + Block::hot0, hot(state::generation(held.word), now));
                Ok((Change::Put(flags, held), joined))
            })?;
            if let Some(joined) = joined {
                cx.news(cell.number);
                return Ok(Member {
                    client: client.to_owned(),
                    channel: channel.into(),
                    metadata: metadata.to_vec(),
                    joined_at: unix_seconds(cx, joined),
                    last_seen: unix_seconds(cx, now),
                });
            }
        }
        Err(Error::Corrupt { what: "a channel's members stay sealed" })
    }

    /// Removes a member from a channel, whoever tracks it. False: it was not there.
    pub fn untrack(&self, channel: &str, client: &str) -> Result<bool> {
        let cx = self.world.cx()?;
        self.remove(cx, channel, client, |_| true)
    }

    /// Ends this process's part in a member, who leaves with its last. True: it left.
    pub fn release(&self, channel: &str, client: &str) -> Result<bool> {
        let cx = self.world.cx()?;
        let me = cx.actor.owner;
        self.remove(cx, channel, client, |record| record.owners.iter().all(|&owner| owner == me))
    }

    /// Takes a member out, if `whole` says so; otherwise only this process from its owners. True: it is out.
    fn remove(&self, cx: Context<'_>, channel: &str, client: &str, whole: impl Fn(&Record) -> bool) -> Result<bool> {
        let Some((cell, members)) = self.members(cx, channel)? else {
            return Ok(false);
        };
        let place = cx.space.hash(client.as_bytes()).place();
        let left = members.change_record(place, client.as_bytes(), |found| {
            let Some((entry, record)) = found.filter(|(entry, _)| entry.is_live()) else {
                return Ok((Change::Keep, false));
            };
            if whole(&record) {
                return Ok((leaving(&entry), true));
            }
            let rest: Owners = record.owners.iter().copied().filter(|&owner| owner != cx.actor.owner).collect();
            let change = if rest.len() < record.owners.len() { replaced(&members, &entry, &record, &rest)? } else { Change::Keep };
            Ok((change, false))
        })?;
        let left = left.unwrap_or(false);
        if left {
            point!("untrack.left");
            cx.news(cell.number);
            self.forget(cx, channel, client)?;
        }
        Ok(left)
    }

    /// Removes the hint to a member that left; writes it again should the member be back.
    fn forget(&self, cx: Context<'_>, channel: &str, client: &str) -> Result<()> {
        let hint = Hint::new(self.whereabouts(cx), client, channel);
        for _ in 0..PATIENCE {
            hint.remove()?;
            point!("untrack.forgotten");
            // Back again, and its hint written before we removed it; and who removed it since looked before we wrote.
            let is_back = || self.find(cx, channel, client).map(|found| found.is_some());
            if !is_back()? || !hint.write()? || is_back()? {
                break;
            }
        }
        Ok(())
    }

    pub(crate) fn find(&self, cx: Context<'_>, channel: &str, client: &str) -> Result<Option<Record>> {
        let Some((_, members)) = self.members(cx, channel)? else {
            return Ok(None);
        };
        let place = cx.space.hash(client.as_bytes()).place();
        let found = members.get(place, client.as_bytes())?;
        Ok(found.filter(|(entry, _)| entry.is_live()).map(|(_, record)| record))
    }

    /// Replaces a member's metadata. False: it is not there.
    pub fn update(&self, channel: &str, client: &str, metadata: &[(String, String)]) -> Result<bool> {
        let cx = self.world.cx()?;
        let Some((cell, members)) = self.members(cx, channel)? else {
            return Ok(false);
        };
        let place = cx.space.hash(client.as_bytes()).place();
        let now = clock::monotonic_micros() & HOT_MASK;
        let updated = members.change_record(place, client.as_bytes(), |found| {
            let Some((entry, record)) = found.filter(|(entry, _)| entry.is_live()) else {
                return Ok((Change::Keep, false));
            };
            let mut value = record.value().get(..8).unwrap_or(&[0; 8]).to_vec();
            encode_pairs(metadata, &mut value);
            let held = cx.new_record(members.root, place, &encode(&record.owners, client.as_bytes(), &value))?;
            cx.view().set(held.at + Block::hot0, hot(state::generation(held.word), now));
            Ok((Change::Put(entry.flags(), held), true))
        })?;
        let updated = updated.unwrap_or(false);
        if updated {
            cx.news(cell.number);
        }
        Ok(updated)
    }

    /// Sets a member's last seen to now. False: it is not there.
    pub fn touch(&self, channel: &str, client: &str) -> Result<bool> {
        let cx = self.world.cx()?;
        let now = clock::monotonic_micros() & HOT_MASK;
        for _ in 0..1 << 16 {
            let Some(record) = self.find(cx, channel, client)? else {
                return Ok(false);
            };
            let later = |seen: u64| (seen < now).then_some(now);
            // A record that was replaced meanwhile: touch the one that replaced it.
            if cx.set_hot(record.reference, record.at, Block::hot0, later).is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The members of a channel.
    pub fn list(&self, channel: &str) -> Result<Vec<Member>> {
        self.world.segment().tend()?;
        let cx = self.world.cx()?;
        let Some((_, members)) = self.members(cx, channel)? else {
            return Ok(Vec::new());
        };
        let channel: Arc<str> = channel.into();
        let mut list = Vec::with_capacity(members.live()?.min(1 << 20) as usize);
        members.records(|entry, record| {
            if entry.is_live() {
                list.push(member_of(cx, &channel, record));
            }
        })?;
        Ok(list)
    }

    /// One member.
    pub fn get(&self, channel: &str, client: &str) -> Result<Option<Member>> {
        let cx = self.world.cx()?;
        Ok(self.find(cx, channel, client)?.map(|record| member_of(cx, &channel.into(), &record)))
    }

    /// How many members a channel has.
    pub fn count(&self, channel: &str) -> Result<u64> {
        self.world.segment().tend()?;
        let cx = self.world.cx()?;
        match self.members(cx, channel)? {
            Some((_, members)) => members.live(),
            None => Ok(0),
        }
    }

    /// Takes the net change since the last take; each change goes to one taker.
    pub fn flush_diff(&self, channel: &str) -> Result<Diff> {
        let cx = self.world.cx()?;
        let mut diff = Diff::default();
        let Some((_, members)) = self.members(cx, channel)? else {
            return Ok(diff);
        };
        let channel: Arc<str> = channel.into();
        let mut from = Some(0);
        while let Some(cursor) = from {
            let (taken, next) = members.sweep(cursor, true, |entry, taken| {
                if entry.flags() & (PENDING | GONE) == 0 {
                    return Ok(Change::Keep);
                }
                let record = cx.record(entry.value).ok_or(Stop::Moved)?;
                taken.push((entry.is_live(), record));
                Ok(if entry.is_live() { Change::Mark(0) } else { Change::Remove })
            })?;
            for (live, record) in taken {
                if live {
                    diff.joins.push(member_of(cx, &channel, &record));
                } else {
                    diff.leaves.push(record.name());
                }
            }
            from = next;
        }
        Ok(diff)
    }

    /// Removes members not seen for `timeout_secs`; each is given to one caller.
    pub fn evict_stale(&self, timeout_secs: f64) -> Result<Vec<(String, String)>> {
        if timeout_secs.is_nan() || timeout_secs < 0.0 {
            return Err(Error::invalid("timeout_secs", timeout_secs, "0 or more seconds"));
        }
        let cx = self.world.cx()?;
        let mut groups = Vec::new();
        self.directory(cx).each(|found| groups.push((found.record.name(), found.cell)))?;
        let now = clock::monotonic_micros();
        let mut evicted = Vec::new();
        for (channel, cell) in groups {
            let members = cell.trie(cx, Group::members);
            let stale = |record: &Record| {
                let seen = cx.hot(record.reference, record.at, Block::hot0).unwrap_or(now);
                now.saturating_sub(seen) as f64 >= timeout_secs * 1e6
            };
            let left = sweep_members(&members, |record| stale(record).then(Owners::new))?;
            if !left.is_empty() {
                cx.news(cell.number);
            }
            for client in left {
                point!("stale.left");
                self.forget(cx, &channel, &client)?;
                evicted.push((channel.clone(), client));
            }
        }
        Ok(evicted)
    }

    /// Forgets everybody, without a diff.
    pub fn clear(&self) -> Result<()> {
        let cx = self.world.cx()?;
        let mut cells = Vec::new();
        self.directory(cx).each(|found| cells.push(found.cell))?;
        for cell in cells {
            remove_all(&cell.trie(cx, Group::members))?;
            cx.news(cell.number);
        }
        remove_all(&self.whereabouts(cx))
    }
}
