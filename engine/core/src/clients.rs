//! Presence by client: where somebody is, and how many there are at all. The hints say where to look, the
//! members are the truth.

use std::sync::Arc;

use hashbrown::HashSet;
use smallvec::SmallVec;

use crate::cells::Cell;
use crate::error::Result;
use crate::layout::Group;
use crate::presence::{Part, Presence, find_member};
use crate::record::Record;
use crate::space::{Client, Context, Hash};
use crate::whereabouts;

impl Presence {
    /// Removes a client from every channel; gives those it was in.
    pub fn untrack_all(&self, client: &str) -> Result<Vec<Arc<str>>> {
        let cx = self.world().cx()?;
        self.untrack_client(cx, (client, cx.space.hash(client.as_bytes())), |_| ())
    }

    /// As `untrack_all`, where the client's hash is known. First tells `soon` which channels it may be in.
    pub(crate) fn untrack_client(&self, cx: Context<'_>, client: Client<'_>, soon: impl Fn(&str)) -> Result<Vec<Arc<str>>> {
        let mut hinted = SmallVec::<[(Cell, Option<Arc<str>>); 4]>::new();
        for cell in self.hinted(cx, client.1)? {
            cell.trie(cx, Group::members).expect(client.1.place());
            let name = self.name_of(cx, cell)?;
            if let Some(name) = &name {
                soon(name);
            }
            hinted.push((cell, name));
        }
        let mut left = Vec::new();
        for (cell, name) in hinted {
            if self.remove(cx, cell, client, Part::Everybodys)? {
                left.extend(name);
            }
        }
        Ok(left)
    }

    /// The groups that the hints name for a client.
    fn hinted(&self, cx: Context<'_>, client: Hash) -> Result<SmallVec<[Cell; 4]>> {
        whereabouts::hinted(cx, self.world().root(0), client.place())
    }

    /// Where a client is, and its records there.
    fn memberships(&self, client: &str, mut see: impl FnMut(Context<'_>, Cell, Record) -> Result<()>) -> Result<()> {
        let cx = self.world().cx()?;
        for cell in self.hinted(cx, cx.space.hash(client.as_bytes()))? {
            if let Some(record) = find_member(cx, cell, client)? {
                see(cx, cell, record)?;
            }
        }
        Ok(())
    }

    /// Does this process have a part in any of a client's memberships?
    pub fn holds(&self, client: &str) -> Result<bool> {
        let mut holds = false;
        self.memberships(client, |cx, _, record| {
            holds |= record.owners.contains(&cx.actor.owner);
            Ok(())
        })?;
        Ok(holds)
    }

    /// Is a client in any channel?
    pub fn is_anywhere(&self, client: &str) -> Result<bool> {
        let cx = self.world().cx()?;
        self.is_client_anywhere(cx, (client, cx.space.hash(client.as_bytes())))
    }

    /// As `is_anywhere`, where the client's hash is known.
    pub(crate) fn is_client_anywhere(&self, cx: Context<'_>, (client, hash): Client<'_>) -> Result<bool> {
        for cell in self.hinted(cx, hash)? {
            let found = cell.trie(cx, Group::members).find(hash.place(), |value| cx.has_key(value, client.as_bytes()))?;
            if found.is_some_and(|entry| entry.is_live()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The channels a client is in.
    pub fn client_channels(&self, client: &str) -> Result<Vec<Arc<str>>> {
        let mut channels = Vec::new();
        self.memberships(client, |cx, cell, _| {
            channels.extend(self.name_of(cx, cell)?);
            Ok(())
        })?;
        Ok(channels)
    }

    /// The channels that have members.
    pub fn active_channels(&self) -> Result<Vec<String>> {
        let cx = self.world().cx()?;
        let mut groups = Vec::new();
        self.directory(cx).each(|found| groups.push((found.record.name(), found.cell)))?;
        let mut active = Vec::new();
        for (name, cell) in groups {
            if cell.trie(cx, Group::members).live()? > 0 {
                active.push(name);
            }
        }
        Ok(active)
    }

    /// How many clients are in at least one channel.
    pub fn total_clients(&self) -> Result<u64> {
        self.world().segment().tend()?;
        let cx = self.world().cx()?;
        let mut groups = Vec::new();
        self.directory(cx).each(|found| groups.push(found.cell.trie(cx, Group::members)))?;
        let mut occupied = Vec::new();
        for members in groups {
            if members.live()? > 0 {
                occupied.push(members);
            }
        }
        if let [only] = &occupied[..] {
            return only.live();
        }
        // By their places: two clients have one only once in 2^60.
        let mut clients = HashSet::new();
        for members in occupied {
            members.entries(|entry| {
                if entry.is_live() {
                    clients.insert(entry.place());
                }
            })?;
        }
        Ok(clients.len() as u64)
    }
}
