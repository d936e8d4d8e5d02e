//! Presence by client: where somebody is, and how many there are at all. The hints say where to look, the
//! members are the truth.

use crate::error::Result;
use crate::layout::Group;
use crate::presence::Presence;
use crate::whereabouts::key_pair;

impl Presence {
    /// Removes a client from every channel; gives those it was in.
    pub fn untrack_all(&self, client: &str) -> Result<Vec<String>> {
        let mut left = Vec::new();
        for channel in self.hinted(client)? {
            if self.untrack(&channel, client)? {
                left.push(channel);
            }
        }
        Ok(left)
    }

    /// The channels that the hints name for a client.
    fn hinted(&self, client: &str) -> Result<Vec<String>> {
        let cx = self.world().cx()?;
        let mut channels = Vec::new();
        let pair = cx.space.hash(client.as_bytes()).high;
        self.whereabouts(cx).records_of_pair(pair, |_, record| {
            if let Some((who, channel)) = key_pair(record.key())
                && who == client
            {
                channels.push(channel);
            }
        })?;
        Ok(channels)
    }

    /// Does this process have a part in any of a client's memberships?
    pub fn holds(&self, client: &str) -> Result<bool> {
        let cx = self.world().cx()?;
        for channel in self.hinted(client)? {
            if self.find(cx, &channel, client)?.is_some_and(|record| record.owners.contains(&cx.actor.owner)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The channels a client is in.
    pub fn client_channels(&self, client: &str) -> Result<Vec<String>> {
        let cx = self.world().cx()?;
        let mut channels = Vec::new();
        for channel in self.hinted(client)? {
            if self.find(cx, &channel, client)?.is_some() {
                channels.push(channel);
            }
        }
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
        let whereabouts = self.whereabouts(self.world().cx()?);
        let (mut total, mut last, mut shared) = (0, None, Vec::new());
        whereabouts.entries(|entry| {
            let client = entry.place() & crate::space::PAIR_MASK;
            if last != Some(client) {
                total += 1;
                last = Some(client);
            } else if shared.last() != Some(&client) {
                shared.push(client);
            }
        })?;
        // Neighbours under one hash prefix are almost always one client in several channels.
        for client in shared {
            let mut names = hashbrown::HashSet::new();
            whereabouts.records_of_pair(client, |_, record| {
                names.extend(key_pair(record.key()).map(|(name, _)| name));
            })?;
            total += (names.len() as u64).saturating_sub(1);
        }
        Ok(total)
    }
}
