//! A member of a channel as it is told: the content of its record, made into text when somebody asks.

use std::borrow::Cow;
use std::sync::Arc;

use crate::record::{Record, pairs_of, text_of};

/// A member of a channel.
#[derive(Clone, Debug)]
pub struct Member {
    /// The channel's name.
    pub channel: Arc<str>,
    /// Unix seconds.
    pub joined_at: f64,
    /// Unix seconds.
    pub last_seen: f64,
    /// The client's id and the metadata behind it, among those of who was listed with it.
    text: Arc<[u8]>,
    place: Place,
}

/// Where a member's text is: its client's id from `client` on, its metadata from `metadata` on, to `end`.
#[derive(Clone, Copy, Debug)]
struct Place {
    client: usize,
    metadata: usize,
    end: usize,
}

/// What a member's record has in front of the metadata: when it joined.
pub(crate) const JOINED: usize = 8;

impl Member {
    /// A member that no segment knows of.
    pub fn new(channel: &str, client: &str, metadata: &Metadata, joined_at: f64, last_seen: f64) -> Member {
        Member::of(channel.into(), client.as_bytes(), metadata.encoded(), joined_at, last_seen)
    }

    pub(crate) fn of(channel: Arc<str>, client: &[u8], metadata: &[u8], joined_at: f64, last_seen: f64) -> Member {
        let text = [client, metadata].concat().into();
        let place = Place { client: 0, metadata: client.len(), end: client.len() + metadata.len() };
        Member { channel, joined_at, last_seen, text, place }
    }

    /// The client's id; damaged text is shown with replacement characters.
    pub fn client(&self) -> Cow<'_, str> {
        text_of(self.encoded_client())
    }

    /// The metadata: text pairs, as they were given.
    pub fn metadata(&self) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
        pairs_of(self.encoded_metadata())
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
        let all = |member: &Member| (member.channel.clone(), member.joined_at, member.last_seen);
        let text = |member: &Member| (member.encoded_client().to_vec(), member.encoded_metadata().to_vec());
        all(self) == all(other) && text(self) == text(other)
    }
}

/// Members of one channel share their memory in portions of about so many bytes: who keeps one keeps no more.
const PORTION: usize = 8 << 10;

/// The members of a channel, as they are listed.
pub(crate) struct Members {
    channel: Arc<str>,
    text: Vec<u8>,
    /// Those whose text is in `text`.
    waiting: Vec<(f64, f64, Place)>,
    done: Vec<Member>,
}

impl Members {
    /// None yet, of about so many.
    pub(crate) fn new(channel: Arc<str>, about: usize) -> Members {
        Members { channel, text: Vec::new(), waiting: Vec::new(), done: Vec::with_capacity(about) }
    }

    pub(crate) fn push(&mut self, client: &[u8], metadata: &[u8], joined_at: f64, last_seen: f64) {
        let start = self.text.len();
        self.text.extend_from_slice(client);
        self.text.extend_from_slice(metadata);
        let place = Place { client: start, metadata: start + client.len(), end: self.text.len() };
        self.waiting.push((joined_at, last_seen, place));
        if self.text.len() >= PORTION {
            self.finish();
        }
    }

    fn finish(&mut self) {
        let text: Arc<[u8]> = self.text.as_slice().into();
        self.text.clear();
        let channel = &self.channel;
        let members = self.waiting.drain(..).map(|(joined_at, last_seen, place)| Member {
            channel: channel.clone(),
            joined_at,
            last_seen,
            text: text.clone(),
            place,
        });
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
