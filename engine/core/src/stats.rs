//! What is known of channels and broadcasts: counts that live in their cells and pages, read when asked for.

use crate::cells::Cell;
use crate::channels::Channels;
use crate::directory::Found;
use crate::error::Result;
use crate::layout::Channel;
use crate::record::decode_pairs;
use crate::space::Context;

/// What is known of one channel.
#[derive(Clone, Debug, Default)]
pub struct ChannelStats {
    /// Its name.
    pub name: String,
    /// Registered clients.
    pub subscribers: u64,
    /// Open handles.
    pub handles: u64,
    /// Messages published.
    pub published: u64,
    /// Sends that were no duplicates, refused ones included.
    pub sent: u64,
    /// Messages missed by lagging handles; of a broadcast also those that nobody heard.
    pub dropped: u64,
    /// Duplicates skipped.
    pub deduped: u64,
    /// Text pairs kept with the channel.
    pub metadata: Vec<(String, String)>,
}

impl Channels {
    /// What is known of a channel; `None`: no such channel.
    pub fn stats(&self, name: &str) -> Result<Option<ChannelStats>> {
        let cx = self.world().cx()?;
        match self.directory(cx).find(name)? {
            Some(found) => stats_of(cx, &found),
            None => Ok(None),
        }
    }

    /// The sums over all channels, and how many there are.
    pub fn totals(&self) -> Result<(u64, ChannelStats)> {
        let cx = self.world().cx()?;
        let mut cells = Vec::new();
        self.directory(cx).each(|found| cells.push(found))?;
        let mut sum = ChannelStats::default();
        for found in &cells {
            let Some(one) = stats_of(cx, found)? else {
                continue;
            };
            sum.subscribers += one.subscribers;
            sum.handles += one.handles;
            sum.published += one.published;
            sum.sent += one.sent;
            sum.dropped += one.dropped;
            sum.deduped += one.deduped;
        }
        Ok((cells.len() as u64, sum))
    }
}

/// `None`: it is gone.
fn stats_of(cx: Context<'_>, found: &Found) -> Result<Option<ChannelStats>> {
    let counts = counts_of(cx, found.cell)?;
    Ok(counts.map(|counts| ChannelStats { name: found.record.name(), metadata: decode_pairs(found.extra()), ..counts }))
}

/// What is counted of one life of a channel; without what its directory entry says. `None`: it is gone.
pub(crate) fn counts_of(cx: Context<'_>, cell: Cell) -> Result<Option<ChannelStats>> {
    let view = cx.view();
    let Some(ring) = cell.ring(cx)? else {
        return Ok(None);
    };
    let published = ring.head(cx).wrapping_sub(view.get(cell.at() + Channel::start));
    let stats = ChannelStats {
        name: String::new(),
        subscribers: cell.trie(cx, Channel::subscribers).live()?,
        handles: cell.trie(cx, Channel::handles).live()?,
        published,
        sent: published.wrapping_add(view.get(cell.at() + Channel::refused)),
        dropped: view.get(cell.at() + Channel::dropped),
        deduped: view.get(cell.at() + Channel::deduped),
        metadata: Vec::new(),
    };
    Ok(cell.is_same_life(cx).then_some(stats))
}
