//! Whereabouts: the hint to which channels a client is in, keyed by (client, channel) so that one
//! client's pairs are neighbours. The members are the truth: a hint is written before its member and
//! removed after it, checked on use, and pruned here.

use crate::cells::Cell;
use crate::directory::{Directory, cell_of};
use crate::error::Result;
use crate::layout::{Group, World as WorldCell};
use crate::record::encode;
use crate::space::Context;
use crate::trie::{Change, Root, Trie};

/// A pair's key: the length of the first, the first, the second.
pub(crate) fn pair_key(first: &str, second: &str) -> Vec<u8> {
    let mut key = (first.len() as u32).to_le_bytes().to_vec();
    key.extend_from_slice(first.as_bytes());
    key.extend_from_slice(second.as_bytes());
    key
}

/// The pair back.
pub(crate) fn key_pair(key: &[u8]) -> Option<(String, String)> {
    let (length, rest) = key.split_first_chunk::<4>()?;
    let (first, second) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    Some((String::from_utf8_lossy(first).into_owned(), String::from_utf8_lossy(second).into_owned()))
}

/// The hint that a client is in a channel.
pub(crate) struct Hint<'a> {
    trie: Trie<'a>,
    place: u64,
    key: Vec<u8>,
}

impl<'a> Hint<'a> {
    /// The hint in a trie of whereabouts.
    pub(crate) fn new(trie: Trie<'a>, client: &str, channel: &str) -> Hint<'a> {
        let hash = |text: &str| trie.cx.space.hash(text.as_bytes());
        Hint { trie, place: hash(client).pair(hash(channel)), key: pair_key(client, channel) }
    }

    /// Writes it. False: it was there.
    pub(crate) fn write(&self) -> Result<bool> {
        let cx = self.trie.cx;
        if self.trie.find(self.place, |value| cx.has_key(value, &self.key))?.is_some() {
            return Ok(false);
        }
        let content = encode(&[], &self.key, &[]);
        let written = self.trie.change_record(self.place, &self.key, |found| {
            if found.is_some() {
                return Ok((Change::Keep, false));
            }
            Ok((Change::Put(0, cx.new_record(self.trie.root, self.place, &content)?), true))
        })?;
        Ok(written == Some(true))
    }

    /// Removes it.
    pub(crate) fn remove(&self) -> Result<()> {
        self.trie.change_record(self.place, &self.key, |found| Ok((if found.is_some() { Change::Remove } else { Change::Keep }, ())))?;
        Ok(())
    }
}

/// Removes hints to members that are not there, writes those that are missing, and gives back groups in which nobody is left.
pub(crate) fn prune(cx: Context<'_>, world: Cell) -> Result<u64> {
    let whereabouts = world.trie(cx, WorldCell::whereabouts);
    let directory = Directory::new(cx, world.at + WorldCell::presence);
    let present = |key: &[u8]| -> Result<bool> {
        let Some((client, channel)) = key_pair(key) else {
            return Ok(false);
        };
        let Some(found) = directory.find(&channel)? else {
            return Ok(false);
        };
        let place = cx.space.hash(client.as_bytes()).place();
        let member = found.cell.trie(cx, Group::members).get(place, client.as_bytes())?;
        Ok(member.is_some_and(|(entry, _)| entry.is_live()))
    };
    let mut stale = Vec::new();
    whereabouts.records(|entry, record| stale.push((*entry, record.key().to_vec())))?;
    let mut pruned = 0;
    for (entry, key) in stale {
        if present(&key)? {
            continue;
        }
        let removed = whereabouts.change(
            entry.place(),
            |value| Some(value == entry.value),
            |found| Ok((if found.is_some() { Change::Remove } else { Change::Keep }, found.is_some())),
        )?;
        pruned += u64::from(removed == Some(true));
        // Its client may have joined between the look and the removal.
        if present(&key)?
            && let Some((client, channel)) = key_pair(&key)
        {
            Hint::new(whereabouts, &client, &channel).write()?;
        }
    }
    let mut groups = Vec::new();
    directory.each(|found| groups.push((found.record.name(), found.cell)))?;
    for (channel, cell) in groups {
        // Somebody who removed the hint of a member that was back died before writing it again.
        let mut members = Vec::new();
        cell.trie(cx, Group::members).records(|entry, record| members.extend(entry.is_live().then(|| record.name())))?;
        for client in members {
            Hint::new(whereabouts, &client, &channel).write()?;
        }
    }
    let mut empty = Vec::new();
    directory.trie.records(|_, record| {
        if let Some(cell) = cell_of(cx, record)
            && cell.trie(cx, Group::members).root() == Root::Sealed
        {
            empty.push((record.name(), cell));
        }
    })?;
    for (channel, cell) in empty {
        directory.remove(&channel, Some(cell))?;
        cell.release(cx);
        pruned += 1;
    }
    Ok(pruned)
}
