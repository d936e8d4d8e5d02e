//! A member of a channel as it is told: the content of its record, made into text when somebody asks.

use std::borrow::Cow;
use std::sync::Arc;

use crate::record::{Record, encode, pairs_of};

/// A member of a channel.
#[derive(Clone, Debug)]
pub struct Member {
    /// The channel's name.
    pub channel: Arc<str>,
    /// Unix seconds.
    pub joined_at: f64,
    /// Unix seconds.
    pub last_seen: f64,
    record: Record,
}

/// What a member's record has in front of the metadata: when it joined.
pub(crate) const JOINED: usize = 8;

impl Member {
    /// A member that no segment knows of.
    pub fn new(channel: &str, client: &str, metadata: &Metadata, joined_at: f64, last_seen: f64) -> Member {
        let value = [&[0; JOINED], metadata.encoded()].concat();
        let record = Record::of(encode(&[], client.as_bytes(), &value));
        Member { channel: channel.into(), joined_at, last_seen, record }
    }

    pub(crate) fn of(channel: Arc<str>, record: Record, joined_at: f64, last_seen: f64) -> Member {
        Member { channel, joined_at, last_seen, record }
    }

    /// The client's id; damaged text is shown with replacement characters.
    pub fn client(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.record.key())
    }

    /// The metadata: text pairs, as they were given.
    pub fn metadata(&self) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
        pairs_of(self.encoded_metadata())
    }

    pub(crate) fn encoded_metadata(&self) -> &[u8] {
        self.record.value().get(JOINED..).unwrap_or(&[])
    }
}

/// When the member joined, monotonic microseconds, as its record says it.
pub(crate) fn joined_of(record: &Record) -> Option<u64> {
    record.value().first_chunk::<JOINED>().map(|bytes| u64::from_le_bytes(*bytes))
}

impl PartialEq for Member {
    fn eq(&self, other: &Member) -> bool {
        let all = |member: &Member| (member.channel.clone(), member.joined_at, member.last_seen);
        all(self) == all(other) && self.record.key() == other.record.key() && self.encoded_metadata() == other.encoded_metadata()
    }
}

/// Text pairs kept with a member, encoded once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata(Vec<u8>);

impl Metadata {
    /// Adds a pair.
    pub fn push(&mut self, key: &str, value: &str) {
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
