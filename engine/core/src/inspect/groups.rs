//! Who is where, whose heart beats, who wants which topics.

use std::sync::Arc;

use serde::Serialize;

use super::{Inspector, Owner, Problems, as_map};
use crate::error::Result;
use crate::handles::HandleKey;
use crate::heartbeat::{Beat, PING, event_id, silence};
use crate::layout::{Group, World as WorldCell};
use crate::os::clock;
use crate::presence::member_of;
use crate::record::key_pair;

/// A channel that has members, or has had.
#[derive(Clone, Debug, Serialize)]
pub struct GroupRow {
    /// Its namespace.
    pub namespace: String,
    /// The channel.
    pub channel: String,
    /// Members now.
    pub members: u64,
    /// Joins and leaves that no `flush_diff` has taken.
    pub unflushed: u64,
}

/// A member of a channel.
#[derive(Clone, Debug, Serialize)]
pub struct MemberRow {
    /// Its namespace.
    pub namespace: String,
    /// The channel.
    pub channel: String,
    /// The client's id.
    pub client: String,
    /// In seconds since 1970.
    pub joined_at: f64,
    /// In seconds since 1970.
    pub last_seen: f64,
    /// The processes that track it; none: they left in order, and it stays until somebody removes it.
    pub owners: Vec<Owner>,
    /// Text pairs.
    #[serde(serialize_with = "as_map")]
    pub metadata: Vec<(String, String)>,
}

/// Presence.
#[derive(Clone, Debug, Serialize)]
pub struct MemberRows {
    /// The channels that were asked for, by namespace and name.
    pub groups: Vec<GroupRow>,
    /// Their members, by client; no more than were asked for.
    pub members: Vec<MemberRow>,
    /// What could not be read.
    pub problems: Vec<String>,
}

/// A heartbeat client.
#[derive(Clone, Debug, Serialize)]
pub struct ClientRow {
    /// Its namespace.
    pub namespace: String,
    /// The client's id.
    pub client: String,
    /// `alive`; `due`: alive, and its next ping is due; `late`: it has timed out; `dead`: it has used up its retries.
    pub state: &'static str,
    /// Timeouts since the last pong.
    pub timeouts: u32,
    /// Seconds since the last pong.
    pub last_pong_ago: f64,
    /// Seconds since the last ping.
    pub last_ping_ago: f64,
    /// Where its stream resumes.
    pub last_event_id: Option<String>,
    /// The processes that watch it; none: it waits for one to adopt it.
    pub owners: Vec<Owner>,
}

/// Heartbeats.
#[derive(Clone, Debug, Serialize)]
pub struct ClientRows {
    /// Seconds between pings that `state` goes by.
    pub interval_secs: f64,
    /// Seconds without a pong until the first timeout.
    pub timeout_secs: f64,
    /// Timeouts after which a client is dead.
    pub max_retries: u32,
    /// The longest silent first.
    pub clients: Vec<ClientRow>,
    /// What could not be read.
    pub problems: Vec<String>,
}

/// A subscription to a topic pattern.
#[derive(Clone, Debug, Serialize)]
pub struct TopicRow {
    /// Its namespace.
    pub namespace: String,
    /// Whose: `manager` (the matcher of the channel managers), `matcher` (free matchers), `handle` (a handle that
    /// receives from every channel that matches).
    pub of: &'static str,
    /// The pattern.
    pub pattern: String,
    /// The client's id.
    pub client: String,
    /// The processes where it subscribed.
    pub owners: Vec<Owner>,
}

/// Topic patterns.
#[derive(Clone, Debug, Serialize)]
pub struct TopicRows {
    /// By namespace, whose, pattern and client.
    pub topics: Vec<TopicRow>,
    /// What could not be read.
    pub problems: Vec<String>,
}

impl Inspector {
    /// Presence in all channels, or in one: how many members each has, and the first `limit` of them.
    pub fn members(&self, namespace: Option<&str>, channel: Option<&str>, limit: u64) -> MemberRows {
        let (cx, mut problems, attached) = (self.cx(), Problems::default(), self.attached());
        let (mut groups, mut members) = (Vec::new(), Vec::new());
        for world in self.worlds(&mut problems) {
            if namespace.is_some_and(|only| only != world.0) {
                continue;
            }
            for group in self.named(&world, WorldCell::presence, &mut problems) {
                if channel.is_some_and(|only| only != group.name) {
                    continue;
                }
                let what = format!("the members of {:?}", group.name);
                let trie = group.cell.trie(cx, Group::members);
                let counts = problems.keep(&what, trie.counts());
                let name: Arc<str> = group.name.as_str().into();
                let listed = if (members.len() as u64) < limit {
                    trie.records(|entry, record| {
                        if entry.is_live() && (members.len() as u64) < limit {
                            let member = member_of(cx, &name, record);
                            members.push(MemberRow {
                                namespace: group.namespace.clone(),
                                channel: group.name.clone(),
                                client: member.client().into_owned(),
                                joined_at: member.joined_at,
                                last_seen: member.last_seen,
                                owners: attached.owners(&record.owners),
                                metadata: member.metadata().map(|(key, value)| (key.into_owned(), value.into_owned())).collect(),
                            });
                        }
                    })
                } else {
                    Ok(())
                };
                problems.keep(&what, listed);
                let unflushed = counts.pending.wrapping_add(counts.gone);
                groups.push(GroupRow { namespace: group.namespace, channel: group.name, members: counts.live, unflushed });
            }
        }
        let place = |member: &MemberRow| (member.namespace.clone(), member.channel.clone(), member.client.clone());
        members.sort_by_cached_key(place);
        MemberRows { groups, members, problems: problems.0 }
    }

    /// Heartbeats, judged by a configuration: that of the monitors belongs to them and is not in the segment.
    pub fn clients(&self, namespace: Option<&str>, beat: &Beat) -> ClientRows {
        let (cx, mut problems, attached) = (self.cx(), Problems::default(), self.attached());
        let mut clients = Vec::new();
        let now = clock::tick_micros();
        for (world, cell) in self.worlds(&mut problems) {
            if namespace.is_some_and(|only| only != world) {
                continue;
            }
            let listed = cell.trie(cx, WorldCell::heartbeats).records(|_, record| {
                let (Some(silent), Some(pinged)) = (silence(record, now), record.hot(PING)) else {
                    return;
                };
                let timeouts = beat.timeouts(silent);
                let last_ping_ago = now.saturating_sub(pinged) as f64 / 1e6;
                let state = match timeouts {
                    0 if last_ping_ago < beat.interval_secs => "alive",
                    0 => "due",
                    _ if beat.is_dead(timeouts) => "dead",
                    _ => "late",
                };
                clients.push(ClientRow {
                    namespace: world.clone(),
                    client: record.name(),
                    state,
                    timeouts,
                    last_pong_ago: silent,
                    last_ping_ago,
                    last_event_id: event_id(record),
                    owners: attached.owners(&record.owners),
                });
            });
            problems.keep(&format!("namespace {world:?}, its heartbeats"), listed);
        }
        clients.sort_by(|a, b| b.last_pong_ago.total_cmp(&a.last_pong_ago));
        let Beat { interval_secs, timeout_secs, max_retries } = *beat;
        ClientRows { interval_secs, timeout_secs, max_retries, clients, problems: problems.0 }
    }

    /// Who wants which topics.
    pub fn topics(&self, namespace: Option<&str>) -> TopicRows {
        let (cx, mut problems, attached) = (self.cx(), Problems::default(), self.attached());
        let mut topics = Vec::new();
        for (world, cell) in self.worlds(&mut problems) {
            if namespace.is_some_and(|only| only != world) {
                continue;
            }
            let kinds = [(WorldCell::manager_topics, "manager"), (WorldCell::free_topics, "matcher"), (WorldCell::patterns, "handle")];
            for (field, of) in kinds {
                let listed: Result<()> = cell.trie(cx, field).records(|_, record| {
                    let Some((pattern, client)) = key_pair(record.key()) else {
                        return;
                    };
                    // A handle's registration says more than its client.
                    let key = HandleKey::from_text(cx, &client).filter(|_| of == "handle");
                    let client = key.map(|key| key.client().to_owned()).unwrap_or(client);
                    topics.push(TopicRow { namespace: world.clone(), of, pattern, client, owners: attached.owners(&record.owners) });
                });
                problems.keep(&format!("namespace {world:?}, the patterns of a {of}"), listed);
            }
        }
        let place = |topic: &TopicRow| (topic.namespace.clone(), topic.of, topic.pattern.clone(), topic.client.clone());
        topics.sort_by_cached_key(place);
        TopicRows { topics, problems: problems.0 }
    }
}
