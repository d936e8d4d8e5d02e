//! A member of a channel as it is told: the content of its record, made into text when somebody asks.

use std::borrow::Cow;
use std::sync::Arc;

use crate::record::{Record, pairs_of, text_of};
use crate::spare::Spare;

/// A member of a channel.
#[derive(Clone, Debug)]
pub struct Member {
    /// Unix seconds.
    pub joined_at: f64,
    /// Unix seconds.
    pub last_seen: f64,
    /// The channel's name, then the client's id and the metadata behind it, among those of who was listed with it.
    text: Arc<[u8]>,
    place: Place,
}

/// Where a member's text is: the channel's name up to `channel`, the client's id from `client` on, its metadata from
/// `metadata` on, to `end`.
#[derive(Clone, Copy, Debug)]
struct Place {
    channel: usize,
    client: usize,
    metadata: usize,
    end: usize,
}

/// What a member's record has in front of the metadata: when it joined.
pub(crate) const JOINED: usize = 8;

impl Member {
    /// A member that no segment knows of.
    pub fn new(channel: &str, client: &str, metadata: &Metadata, joined_at: f64, last_seen: f64) -> Member {
        Member::of(channel, client.as_bytes(), metadata.encoded(), joined_at, last_seen)
    }

    pub(crate) fn of(channel: &str, client: &[u8], metadata: &[u8], joined_at: f64, last_seen: f64) -> Member {
        let mut text = Spare::new();
        let place = put(&mut text, channel.as_bytes(), client, metadata);
        Member { joined_at, last_seen, text: text.as_slice().into(), place }
    }

    /// The channel's name.
    pub fn channel(&self) -> Cow<'_, str> {
        text_of(self.encoded_channel())
    }

    /// The client's id; damaged text is shown with replacement characters.
    pub fn client(&self) -> Cow<'_, str> {
        text_of(self.encoded_client())
    }

    /// The metadata: text pairs, as they were given.
    pub fn metadata(&self) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
        pairs_of(self.encoded_metadata())
    }

    fn encoded_channel(&self) -> &[u8] {
        &self.text[..self.place.channel]
    }

    fn encoded_client(&self) -> &[u8] {
        &self.text[self.place.client..self.place.metadata]
    }

    pub(crate) fn encoded_metadata(&self) -> &[u8] {
        &self.text[self.place.metadata..self.place.end]
    }
}

impl PartialEq for Member {
    fn eq(&self, other: &Member) -> bool {
        let times = |member: &Member| (member.joined_at, member.last_seen);
        let same = times(self) == times(other) && self.encoded_channel() == other.encoded_channel();
        same && self.encoded_client() == other.encoded_client() && self.encoded_metadata() == other.encoded_metadata()
    }
}

/// Appends a member's text, behind the channel's name, which comes first of all.
fn put(text: &mut Vec<u8>, channel: &[u8], client: &[u8], metadata: &[u8]) -> Place {
    if text.is_empty() {
        text.extend_from_slice(channel);
    }
    let start = text.len();
    text.extend_from_slice(client);
    text.extend_from_slice(metadata);
    Place { channel: channel.len(), client: start, metadata: start + client.len(), end: text.len() }
}

/// Members of one channel share their memory in portions of about so many bytes: who keeps one keeps no more.
const PORTION: usize = 8 << 10;

/// The members of a channel, as they are listed.
pub(crate) struct Members<'a> {
    channel: &'a str,
    text: Vec<u8>,
    /// Those whose text is in `text`.
    waiting: Vec<(f64, f64, Place)>,
    done: Vec<Member>,
}

impl<'a> Members<'a> {
    /// None yet, of about so many.
    pub(crate) fn new(channel: &'a str, about: usize) -> Members<'a> {
        Members { channel, text: Vec::new(), waiting: Vec::new(), done: Vec::with_capacity(about) }
    }

    pub(crate) fn push(&mut self, client: &[u8], metadata: &[u8], joined_at: f64, last_seen: f64) {
        let place = put(&mut self.text, self.channel.as_bytes(), client, metadata);
        self.waiting.push((joined_at, last_seen, place));
        if self.text.len() >= PORTION {
            self.finish();
        }
    }

    fn finish(&mut self) {
        let text: Arc<[u8]> = self.text.as_slice().into();
        self.text.clear();
        let members =
            self.waiting.drain(..).map(|(joined_at, last_seen, place)| Member { joined_at, last_seen, text: text.clone(), place });
        self.done.extend(members);
    }

    /// All of them.
    pub(crate) fn all(mut self) -> Vec<Member> {
        self.finish();
        self.done
    }
}

/// When the member joined, monotonic microseconds, as its record says it.
pub(crate) fn joined_of(record: &Record) -> Option<u64> {
    record.value().first_chunk::<JOINED>().map(|bytes| u64::from_le_bytes(*bytes))
}

/// Room for the first pairs.
const ROOM: usize = 128;

/// Text pairs kept with a member, encoded once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata(Vec<u8>);

impl Metadata {
    /// Adds a pair.
    pub fn push(&mut self, key: &str, value: &str) {
        if self.0.is_empty() {
            self.0.reserve(ROOM);
        }
        crate::record::encode_pair(key, value, &mut self.0);
    }

    pub(crate) fn encoded(&self) -> &[u8] {
        &self.0
    }
}

impl<K: AsRef<str>, V: AsRef<str>> FromIterator<(K, V)> for Metadata {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Metadata {
        let mut metadata = Metadata::default();
        pairs.into_iter().for_each(|(key, value)| metadata.push(key.as_ref(), value.as_ref()));
        metadata
    }
}
