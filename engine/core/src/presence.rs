//! Presence: who is in which channel, with metadata, last seen and the net change since the last flush.
//!
//! A channel's members are one trie; that is the truth. Beside it, `whereabouts` hints at where a client is: written first,
//! removed last, checked on use, pruned by the keeper. A join nobody has flushed yet is PENDING, a leave is GONE; join and leave between two
//! flushes cancel out.

use std::sync::Arc;

use hashbrown::HashMap;

use crate::cells::Cell;
use crate::content::Content;
use crate::directory::Directory;
use crate::error::{Error, Result};
use crate::flag::Flag;
use crate::layout::{Block, Group, World as WorldCell, cell_kind};
use crate::lives::HOT_MASK;
use crate::member::{JOINED, Member, Members, Metadata, joined_of, metadata_of, unix_seconds};
use crate::os::clock;
use crate::os::lock::Lock;
use crate::owned::{TAKEN, leaving, remove_all, replaced_member, seen_of, take_over};
use crate::points::point;
use crate::record::{Front, Owners, Record};
use crate::relief;
use crate::seen::{Told, keep_after_all, sooner, told_again};
use crate::space::{Client, Context, Hash};
use crate::trie::{Attempt, Change, Entry, GONE, PENDING, Root, Stop, Trie};
use crate::whereabouts::{self, Hint, forget_gone, prune_lines};
use crate::world::{World, check_length};

/// The net change since the last flush.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Diff {
    /// Who joined and is there.
    pub joins: Vec<Member>,
    /// Who was there and left.
    pub leaves: Vec<String>,
}

/// How much of a member leaves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// All of it, whoever tracks it.
    Everybodys,
    /// What this process has in it.
    Ours,
}

/// What tracking a member has done.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tracked {
    told: Told,
    /// Has this process a part in it that it had not before?
    pub added: Flag,
}

/// A member's record.
fn content_of<'a>(owners: &'a [u64], client: &'a str, joined: &'a [u8; JOINED], metadata: &'a Metadata) -> Content<'a> {
    Content { owners, key: [client.as_bytes(), &[]], value: [joined, metadata.encoded()] }
}

/// What becomes of the entry of a member that is there when its metadata are told by a process that does not own it.
#[inline(never)]
fn told_by_one_more<'a>(members: &Trie<'a>, entry: Entry, client: &str, metadata: &Metadata, tracked: &mut Tracked) -> Attempt<Change<'a>> {
    let cx = members.cx;
    let (_, at) = cx.life(entry.value).ok_or(Stop::Moved)?;
    let mut front = Front::default();
    cx.front(entry.value, &mut front).ok_or(Stop::Moved)?;
    let joined = front.word.unwrap_or(0);
    // What nobody owned stays ours: there is no saying whose it was.
    *tracked = Tracked { told: Told::of(joined, true), added: (!front.owners.is_empty()).into() };
    front.owners.push(cx.actor.owner);
    let joined = joined.to_le_bytes();
    let content = content_of(&front.owners, client, &joined, metadata);
    Ok(take_over(cx, &entry, at, cx.new_record(members.root, entry.place(), &content)?, tracked.told.seen))
}

/// What becomes of a member's entry without this process's part in it, and whether it is out then.
#[inline(never)]
fn without_us<'a>(members: &Trie<'a>, entry: &Entry) -> Attempt<(Change<'a>, bool)> {
    let cx = members.cx;
    let record = cx.record(entry.value).ok_or(Stop::Moved)?;
    let rest: Owners = record.owners.iter().copied().filter(|&owner| owner != cx.actor.owner).collect();
    if rest.is_empty() {
        return Ok((leaving(entry), true));
    }
    let change = if rest.len() < record.owners.len() { replaced_member(members, entry, &record, &rest)? } else { Change::Keep };
    Ok((change, false))
}

/// The presence of one world.
#[derive(Clone)]
pub struct Presence {
    world: World,
    known: Arc<Lock<Known>>,
}

/// What a process remembers: found once, and valid while the cell's life is open.
#[derive(Default)]
struct Known {
    /// Channel → group.
    groups: HashMap<Arc<str>, Cell>,
    /// Cell → channel.
    names: HashMap<u32, (u64, Arc<str>)>,
}

impl Known {
    fn remember(&mut self, name: &Arc<str>, cell: Cell) {
        if self.groups.len() >= REMEMBERED || self.names.len() >= REMEMBERED {
            *self = Known::default();
        }
        self.groups.insert(name.clone(), cell);
        self.names.insert(cell.number(), (cell.generation, name.clone()));
    }
}

/// Names remembered before the private map is emptied.
const REMEMBERED: usize = 16 << 10;

/// When a member joined, and was seen last, in Unix seconds.
fn times_of(cx: Context<'_>, record: &Record) -> (f64, f64) {
    let joined = joined_of(record).unwrap_or(0);
    let seen = record.hot(Block::hot0).map_or(joined, seen_of);
    (unix_seconds(cx, joined), unix_seconds(cx, seen))
}

pub(crate) fn member_of(cx: Context<'_>, channel: &str, record: &Record) -> Member {
    let (joined, seen) = times_of(cx, record);
    Member::of(channel, record.key(), metadata_of(record), joined, seen)
}

/// A member of a group, if it is there.
pub(crate) fn find_member(cx: Context<'_>, cell: Cell, client: &str) -> Result<Option<Record>> {
    let place = cx.space.hash(client.as_bytes()).place();
    let found = cell.trie(cx, Group::members).get(place, client.as_bytes())?;
    Ok(found.filter(|(entry, _)| entry.is_live()).map(|(_, record)| record))
}

impl Presence {
    /// The world it is of.
    pub(crate) fn world(&self) -> &World {
        &self.world
    }

    /// The presence of `world`.
    pub fn new(world: &World) -> Presence {
        Presence { world: world.clone(), known: Arc::default() }
    }

    pub(crate) fn directory<'a>(&self, cx: Context<'a>) -> Directory<'a> {
        Directory::new(cx, self.world.root(WorldCell::presence))
    }

    #[inline(always)]
    pub(crate) fn members<'a>(&self, cx: Context<'a>, channel: &str) -> Result<Option<(Cell, Trie<'a>)>> {
        let remembered = self.known.try_lock().and_then(|known| known.groups.get(channel).copied());
        let cell = match remembered.filter(|cell| cell.is_open(cx)) {
            Some(cell) => Some(cell),
            None => self.find_group(cx, channel)?,
        };
        Ok(cell.map(|cell| (cell, cell.trie(cx, Group::members))))
    }

    #[cold]
    #[inline(never)]
    fn find_group(&self, cx: Context<'_>, channel: &str) -> Result<Option<Cell>> {
        let found = self.directory(cx).find(channel)?;
        if let (Some(found), Some(mut known)) = (&found, self.known.try_lock()) {
            known.remember(&channel.into(), found.cell);
        }
        Ok(found.map(|found| found.cell))
    }

    /// The channel whose members a group has; `None`: it is gone.
    pub(crate) fn name_of(&self, cx: Context<'_>, cell: Cell) -> Result<Option<Arc<str>>> {
        if let Some(known) = self.known.try_look()
            && let Some((generation, name)) = known.names.get(&cell.number())
            && *generation == cell.generation
        {
            return Ok(Some(name.clone()));
        }
        let name: Option<Arc<str>> = self.directory(cx).name_of(cell)?.map(Into::into);
        if let (Some(name), Some(mut known)) = (&name, self.known.try_lock()) {
            known.remember(name, cell);
        }
        Ok(name)
    }

    /// The members of a channel, made if need be.
    #[inline(always)]
    fn group<'a>(&self, cx: Context<'a>, channel: &str) -> Result<(Cell, Trie<'a>)> {
        match self.members(cx, channel)? {
            Some((cell, members)) if members.root() != Root::Sealed => Ok((cell, members)),
            _ => self.new_group(cx, channel),
        }
    }

    /// The same where there are none, or no more. When the arena is full, empty groups are given back.
    #[cold]
    #[inline(never)]
    fn new_group<'a>(&self, cx: Context<'a>, channel: &str) -> Result<(Cell, Trie<'a>)> {
        let directory = self.directory(cx);
        let mut relieved = false;
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
            match directory.insert(channel, &[], |ident| relief::new_cell(cx, cell_kind::GROUP, root, ident)) {
                // Whoever watches a channel that had no members yet looks again.
                Ok(_) => cx.news(self.world.cell_number()),
                Err(Error::Full { .. }) if !relieved => {
                    relieved = true;
                    relief::relieve(cx)?;
                }
                Err(error) => return Err(error),
            }
        }
        Err(Error::Corrupt { what: "a channel's members cannot be found after they were made" })
    }

    /// Adds a member, or replaces its metadata, keeping when it joined.
    #[inline]
    pub fn track(&self, channel: &str, client: &str, metadata: &Metadata) -> Result<Member> {
        let cx = self.world.cx()?;
        let Tracked { told: Told { joined, seen, .. }, .. } =
            self.track_client(cx, channel, (client, cx.space.hash(client.as_bytes())), metadata)?;
        Ok(Member::of(channel, client.as_bytes(), metadata.encoded(), unix_seconds(cx, joined), unix_seconds(cx, seen)))
    }

    /// As `track`, where the client's hash is known.
    pub(crate) fn track_client(&self, cx: Context<'_>, channel: &str, (client, hash): Client<'_>, metadata: &Metadata) -> Result<Tracked> {
        check_length("channel", channel)?;
        check_length("client_id", client)?;
        whereabouts::expect(cx, hash.place());
        self.world.segment().owns_something()?;
        for _ in 0..1 << 16 {
            let (cell, _) = self.group(cx, channel)?;
            let hint = self.hint(cx, hash, cell);
            hint.write()?;
            point!("track.hinted");
            match self.add(cx, cell, (client, hash), metadata) {
                Ok(Some(tracked)) => {
                    point!("track.joined");
                    // Somebody who removed the member before may have removed the hint only now.
                    if !hint.is_there()? {
                        hint.settle()?;
                    }
                    return Ok(tracked);
                }
                // The group was given back meanwhile.
                Ok(None) => hint.settle()?,
                Err(error) => {
                    // Nothing is left half done; what this cannot remove is pruned by the scavenger.
                    hint.forget()?;
                    return Err(error);
                }
            }
        }
        Err(Error::Corrupt { what: "a channel's members stay sealed" })
    }

    /// Adds or replaces the member itself. `None`: the group is sealed.
    fn add(&self, cx: Context<'_>, cell: Cell, (client, hash): Client<'_>, metadata: &Metadata) -> Result<Option<Tracked>> {
        let me = cx.actor.owner;
        let members = cell.trie(cx, Group::members);
        let same = |value| cx.has_key(value, client.as_bytes());
        // Told here, not with the change: it would be passed on from hand to hand.
        let mut tracked = Tracked::default();
        let done = members.change(hash.place(), same, |found| {
            let Some(entry) = found.filter(Entry::is_live) else {
                let now = seen_of(clock::monotonic_micros() & HOT_MASK);
                tracked = Tracked { told: Told { joined: now, seen: now, changed: Flag::YES }, added: Flag::YES };
                let held = cx.new_record(members.root, hash.place(), &content_of(&[me], client, &now.to_le_bytes(), metadata))?;
                held.set_hot(Block::hot0, now);
                // Somebody who left and is back before the leave was taken never left.
                return Ok((Change::Put(if found.is_some() { 0 } else { PENDING }, held), ()));
            };
            if cx.has_owner(entry.value, me).ok_or(Stop::Moved)? {
                tracked.added = Flag::NO;
                return Ok((told_again(&members, entry, metadata.encoded(), &mut tracked.told)?, ()));
            }
            Ok((told_by_one_more(&members, entry, client, metadata, &mut tracked)?, ()))
        })?;
        if tracked.told.changed.is_set() && done.is_some() {
            cx.news(cell.number());
        }
        Ok(done.map(|()| tracked))
    }

    /// Removes a member from a channel, whoever tracks it. False: it was not there.
    pub fn untrack(&self, channel: &str, client: &str) -> Result<bool> {
        let cx = self.world.cx()?;
        self.remove_from(cx, channel, (client, cx.space.hash(client.as_bytes())), Part::Everybodys)
    }

    /// Ends this process's part in a member, who leaves with its last. True: it left.
    pub fn release(&self, channel: &str, client: &str) -> Result<bool> {
        let cx = self.world.cx()?;
        self.remove_from(cx, channel, (client, cx.space.hash(client.as_bytes())), Part::Ours)
    }

    /// Asks for what is kept in a channel of a client who is about to go. (What fails in here fails again where it matters.)
    pub(crate) fn expect(&self, cx: Context<'_>, channel: &str, client: Hash) {
        if let Ok(Some((_, members))) = self.members(cx, channel) {
            members.expect(client.place());
        }
    }

    /// Takes a member out of a channel, or only this process's part in it. True: it is out.
    pub(crate) fn remove_from(&self, cx: Context<'_>, channel: &str, client: Client<'_>, part: Part) -> Result<bool> {
        whereabouts::expect(cx, client.1.place());
        match self.members(cx, channel)? {
            Some((cell, _)) => self.remove(cx, cell, client, part),
            None => Ok(false),
        }
    }

    /// The same, out of its group.
    pub(crate) fn remove(&self, cx: Context<'_>, cell: Cell, (client, hash): Client<'_>, part: Part) -> Result<bool> {
        let members = cell.trie(cx, Group::members);
        let same = |value| cx.has_key(value, client.as_bytes());
        let left = members.change(hash.place(), same, |found| {
            let Some(entry) = found.filter(Entry::is_live) else {
                return Ok((Change::Keep, false));
            };
            if part == Part::Everybodys {
                return Ok((leaving(&entry), true));
            }
            without_us(&members, &entry)
        })?;
        let left = left.unwrap_or(false);
        if left {
            point!("untrack.left");
            cx.news(cell.number());
            self.hint(cx, hash, cell).forget()?;
        }
        Ok(left)
    }

    pub(crate) fn hint<'a>(&self, cx: Context<'a>, client: Hash, cell: Cell) -> Hint<'a> {
        Hint::new(cx, self.world.root(0), client.place(), cell.number())
    }

    pub(crate) fn find(&self, cx: Context<'_>, channel: &str, client: &str) -> Result<Option<Record>> {
        match self.members(cx, channel)? {
            Some((cell, _)) => find_member(cx, cell, client),
            None => Ok(None),
        }
    }

    /// Replaces a member's metadata. False: it is not there.
    pub fn update(&self, channel: &str, client: &str, metadata: &Metadata) -> Result<bool> {
        let cx = self.world.cx()?;
        let Some((cell, members)) = self.members(cx, channel)? else {
            return Ok(false);
        };
        let place = cx.space.hash(client.as_bytes()).place();
        let same = |value| cx.has_key(value, client.as_bytes());
        let mut told = None;
        let done = members.change(place, same, |found| match found.filter(Entry::is_live) {
            Some(entry) => Ok((told_again(&members, entry, metadata.encoded(), told.insert(Told::default()))?, ())),
            None => {
                told = None;
                Ok((Change::Keep, ()))
            }
        })?;
        let told = told.filter(|_| done.is_some());
        if told.is_some_and(|told| told.changed.is_set()) {
            cx.news(cell.number());
        }
        Ok(told.is_some())
    }

    /// Sets a member's last seen to now. False: it is not there.
    pub fn touch(&self, channel: &str, client: &str) -> Result<bool> {
        let cx = self.world.cx()?;
        let Some((_, members)) = self.members(cx, channel)? else {
            return Ok(false);
        };
        let place = cx.space.hash(client.as_bytes()).place();
        let now = seen_of(clock::tick_micros() & HOT_MASK);
        match members.touch(place, client.as_bytes(), Block::hot0, |then| sooner(then, now))? {
            Some(value) if value & TAKEN != 0 => keep_after_all(&members, (place, client), now),
            seen => Ok(seen.is_some()),
        }
    }

    /// The members of a channel.
    pub fn list(&self, channel: &str) -> Result<Vec<Member>> {
        self.world.segment().tend()?;
        let cx = self.world.cx()?;
        let Some((_, members)) = self.members(cx, channel)? else {
            return Ok(Vec::new());
        };
        let mut list = Members::new(channel, members.live()?.min(1 << 20) as usize);
        members.places_between(0, u64::MAX, |same_place| list.push_all(cx, same_place))?;
        Ok(list.all())
    }

    /// One member.
    pub fn get(&self, channel: &str, client: &str) -> Result<Option<Member>> {
        let cx = self.world.cx()?;
        Ok(self.find(cx, channel, client)?.map(|record| member_of(cx, channel, &record)))
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
        let mut from = members.is_marked()?.then_some(0);
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
                    diff.joins.push(member_of(cx, channel, &record));
                } else {
                    diff.leaves.push(record.name());
                }
            }
            from = next;
        }
        Ok(diff)
    }

    /// Forgets everybody, without a diff.
    pub fn clear(&self) -> Result<()> {
        let cx = self.world.cx()?;
        let mut cells = Vec::new();
        self.directory(cx).each(|found| cells.push(found.cell))?;
        for cell in cells {
            remove_all(&cell.trie(cx, Group::members))?;
            cx.news(cell.number());
        }
        prune_lines(cx)?;
        forget_gone(cx, self.world.root(0)).map(drop)
    }
}
