//! Channels and broadcasts: how full, how far, who listens, who lags.

use hashbrown::HashSet;
use serde::Serialize;

use super::{Attached, Inspector, Named, Owner, Problems, as_map, directory_of};
use crate::arena::Info;
use crate::bound::{FAIL_WHEN_UNHEARD, bound_of};
use crate::cells::{Cell, is_channel};
use crate::channels::ChannelKind;
use crate::error::Result;
use crate::handles::{key_client, shown, stride};
use crate::ids::{EventId, epoch_of};
use crate::layout::{Block, Channel, cell_kind, state};
use crate::reap::each_cell;
use crate::record::decode_pairs;
use crate::ring::Ring;
use crate::stats::counts_of;

/// One channel or broadcast.
#[derive(Clone, Debug, Serialize)]
pub struct ChannelRow {
    /// Its namespace; `None`: no name is found for it.
    pub namespace: Option<String>,
    /// Its name; `None`: it was removed, or its name cannot be read.
    pub name: Option<String>,
    /// `channel` or `broadcast`.
    pub kind: &'static str,
    /// `open`; `removed`: open handles still drain it; `clearing`: it is being given back.
    pub state: &'static str,
    /// The number of its cell.
    pub cell: u32,
    /// How many messages it retains at most.
    pub buffer_size: u64,
    /// How many it retains; those that were given up in between because the arena was full are counted, too.
    pub retained: u64,
    /// The id of the oldest that may still be there; `None`: nothing is retained.
    pub oldest_id: Option<String>,
    /// The id of the newest, and where a tail begins.
    pub newest_id: String,
    /// Messages published in its life.
    pub published: u64,
    /// Messages missed by handles, and broadcasts nobody heard.
    pub missed: u64,
    /// Sends refused because nobody listened.
    pub refused: u64,
    /// Duplicates skipped.
    pub deduplicated: u64,
    /// Message ids remembered; 0: none are.
    pub dedup_window: u64,
    /// Do sends fail when nobody listens?
    pub fail_when_unheard: bool,
    /// Registered subscribers.
    pub subscribers: u64,
    /// Open handles.
    pub handles: u64,
    /// The largest lag of its handles, in messages; `None`: no handle has shown how far it is. As each shows it
    /// only now and then, it may be up to an eighth of the buffer (64 messages at most) too large.
    pub max_lag: Option<u64>,
    /// Text pairs kept with it.
    #[serde(serialize_with = "as_map")]
    pub metadata: Vec<(String, String)>,
}

/// Channels and broadcasts.
#[derive(Clone, Debug, Serialize)]
pub struct ChannelRows {
    /// By namespace, kind and name.
    pub channels: Vec<ChannelRow>,
    /// What could not be read.
    pub problems: Vec<String>,
}

/// A registered subscriber.
#[derive(Clone, Debug, Serialize)]
pub struct SubscriberRow {
    /// The client's id.
    pub client: String,
    /// The processes where it subscribed.
    pub owners: Vec<Owner>,
}

/// An open handle.
#[derive(Clone, Debug, Serialize)]
pub struct HandleRow {
    /// The client's id; empty for a broadcast.
    pub client: String,
    /// The process it is in.
    pub owner: Owner,
    /// `open`; `ended`: it was unsubscribed, and may still drain what came before.
    pub state: &'static str,
    /// Made by the channel's creator for a handle on a pattern.
    pub by_pattern: bool,
    /// The id after which it goes on; `None`: it has not shown it.
    pub position_id: Option<String>,
    /// Messages that it has not received; `None`: as above. It may be up to `lag_precision` too large.
    pub lag: Option<u64>,
    /// How many of them are overwritten already, and will be missed.
    pub lost: u64,
}

/// All of one channel.
#[derive(Clone, Debug, Serialize)]
pub struct ChannelDetail {
    /// As it is listed.
    pub channel: ChannelRow,
    /// Messages that are there.
    pub retained_messages: u64,
    /// Their bytes.
    pub retained_bytes: u64,
    /// After how many messages a busy handle shows how far it is.
    pub lag_precision: u64,
    /// Registered subscribers, by client.
    pub subscribers: Vec<SubscriberRow>,
    /// Handles, those that lag most first.
    pub handles: Vec<HandleRow>,
    /// What could not be read.
    pub problems: Vec<String>,
}

impl Inspector {
    /// All channels and broadcasts; `namespace`: only its.
    pub fn channels(&self, namespace: Option<&str>) -> ChannelRows {
        let (cx, mut problems) = (self.cx(), Problems::default());
        let (mut rows, mut seen) = (Vec::new(), HashSet::new());
        let attached = self.attached();
        for world in self.worlds(&mut problems) {
            for kind in [ChannelKind::Channel, ChannelKind::Broadcast] {
                for named in self.named(&world, directory_of(kind), &mut problems) {
                    seen.insert(named.cell);
                    if namespace.is_none_or(|only| only == world.0) {
                        let row = self.row(named.cell, kind, Some(&named), &attached);
                        rows.extend(self.keep_of_cell(&mut problems, named.cell, &format!("{} {:?}", kind.name(), named.name), row));
                    }
                }
            }
        }
        if namespace.is_none() {
            // What has no name: removed and still drained, or of a directory that cannot be read.
            let listed = each_cell(cx, |cell, back| {
                if is_channel(back) && !seen.contains(&cell) {
                    let row = self.row(cell, kind_of(back), None, &attached);
                    rows.extend(self.keep_of_cell(&mut problems, cell, &format!("cell {}", cell.number()), row));
                }
                Ok(())
            });
            problems.keep("the cells", listed);
        }
        ChannelRows { channels: rows, problems: problems.0 }
    }

    /// All of one channel or broadcast; `None`: there is none of this name.
    pub fn channel(&self, namespace: &str, kind: ChannelKind, name: &str) -> Result<Option<ChannelDetail>> {
        let (cx, mut problems, attached) = (self.cx(), Problems::default(), self.attached());
        let Some(named) = self.find(namespace, kind, name)? else {
            return Ok(None);
        };
        let (Some(channel), Some(bound)) = (self.row(named.cell, kind, Some(&named), &attached)?, bound_of(cx, named.cell)?) else {
            return Ok(None);
        };
        let (mut retained_messages, mut retained_bytes) = (0, 0);
        let head = bound.ring.head(cx);
        for sequence in bound.ring.oldest(cx)..head {
            if let Some((_, at)) = bound.ring.block_at(cx, sequence).and_then(|block| cx.space.geometry.block(block)) {
                let info = Info(cx.view().get(at + Block::info));
                retained_messages += 1;
                retained_bytes += info.bytes().saturating_sub(info.flags() * 8).min(cx.space.geometry.size);
            }
        }
        let mut subscribers = Vec::new();
        let listed = named.cell.trie(cx, Channel::subscribers).records(|_, record| {
            subscribers.push(SubscriberRow { client: record.name(), owners: attached.owners(&record.owners) });
        });
        problems.keep("its subscribers", listed);
        subscribers.sort_by(|a, b| a.client.cmp(&b.client));
        let listed = self.handles(named.cell, &bound.ring, &attached);
        let mut handles = problems.keep("its handles", listed);
        handles.sort_by(|a, b| b.lag.cmp(&a.lag).then_with(|| a.client.cmp(&b.client)));
        let lag_precision = stride(bound.ring.len()).saturating_sub(1);
        Ok(Some(ChannelDetail { channel, retained_messages, retained_bytes, lag_precision, subscribers, handles, problems: problems.0 }))
    }

    /// `None`: it is gone.
    fn row(&self, cell: Cell, kind: ChannelKind, named: Option<&Named>, attached: &Attached) -> Result<Option<ChannelRow>> {
        let (cx, view) = (self.cx(), self.cx().view());
        let state = match cell.state(cx) {
            Some(state::LIVE | state::HELD) => "open",
            Some(state::RETIRED) => "removed",
            _ => "clearing",
        };
        let (Some(bound), Some(counts)) = (bound_of(cx, cell)?, counts_of(cx, cell)?) else {
            return Ok(None);
        };
        let (ring, start) = (bound.ring, view.get(cell.at() + Channel::start));
        let head = ring.head(cx);
        let oldest = ring.oldest(cx).max(view.get(cell.at() + Channel::tail)).min(head);
        let id = |sequence: u64| EventId { epoch: epoch_of(cx, cell), sequence: sequence.wrapping_sub(start) }.to_string();
        let lags = self.handles(cell, &ring, attached)?;
        let row = ChannelRow {
            namespace: named.map(|named| named.namespace.clone()),
            name: named.map(|named| named.name.clone()),
            kind: kind.name(),
            state,
            cell: cell.number(),
            buffer_size: ring.len(),
            retained: head.wrapping_sub(oldest),
            oldest_id: (head != oldest).then(|| id(oldest.wrapping_add(1))),
            newest_id: id(head),
            published: counts.published,
            missed: counts.dropped,
            refused: view.get(cell.at() + Channel::refused),
            deduplicated: counts.deduped,
            dedup_window: bound.window,
            fail_when_unheard: bound.flags & FAIL_WHEN_UNHEARD != 0,
            subscribers: counts.subscribers,
            handles: counts.handles,
            max_lag: lags.iter().filter_map(|handle| handle.lag).max(),
            metadata: named.map_or_else(Vec::new, |named| decode_pairs(&named.extra)),
        };
        Ok(cell.is_same_life(cx).then_some(row))
    }

    /// The handles of a channel, in no order.
    fn handles(&self, cell: Cell, ring: &Ring, attached: &Attached) -> Result<Vec<HandleRow>> {
        let cx = self.cx();
        let (start, epoch) = (cx.view().get(cell.at() + Channel::start), epoch_of(cx, cell));
        let mut handles = Vec::new();
        cell.trie(cx, Channel::handles).records(|entry, record| {
            let Some(shown) = shown(cx, record, start) else {
                return;
            };
            // The head after the position: what is shown is never negative.
            let (head, oldest) = (ring.head(cx), ring.oldest(cx));
            let end = shown.end.unwrap_or(head).min(head);
            handles.push(HandleRow {
                client: String::from_utf8_lossy(key_client(record.key())).into_owned(),
                owner: attached.owner(record.owners.first().copied().unwrap_or(0)),
                state: if entry.is_live() { "open" } else { "ended" },
                by_pattern: !record.value().is_empty(),
                position_id: shown.cursor.map(|cursor| EventId { epoch, sequence: cursor.wrapping_sub(start) }.to_string()),
                lag: shown.cursor.map(|cursor| end.saturating_sub(cursor)),
                lost: shown.cursor.map_or(0, |cursor| oldest.min(end).saturating_sub(cursor)),
            });
        })?;
        Ok(handles)
    }
}

const fn kind_of(back: u64) -> ChannelKind {
    if back & 0xff == cell_kind::BROADCAST { ChannelKind::Broadcast } else { ChannelKind::Channel }
}
