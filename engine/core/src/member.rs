//! A member of a channel as it is told: the content of its record, made into text when somebody asks.

use std::borrow::Cow;
use std::ops::Deref;
use std::sync::Arc;

use crate::layout::{Block, Header};
use crate::owned::seen_of;
use crate::record::{Record, pairs_of, text_of};
use crate::space::Context;
use crate::trie::Entry;

/// A member of a channel.
#[derive(Clone, Debug)]
pub struct Member {
    /// Unix seconds.
    pub joined_at: f64,
    /// Unix seconds.
    pub last_seen: f64,
    /// The channel's name, then the client's id and the metadata behind it.
    text: Text,
    place: Place,
}

/// Bytes of one member, or of all that were listed with it.
#[derive(Clone, Debug)]
enum Text {
    Own(Box<[u8]>),
    Shared(Arc<[u8]>),
}

impl Deref for Text {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Text::Own(text) => text,
            Text::Shared(text) => text,
        }
    }
}

/// Where a member's text is: the channel's name up to `channel`, the client's id from `client` to `client_end`, its metadata
/// from `metadata` to `end`.
#[derive(Clone, Copy, Debug)]
struct Place {
    channel: usize,
    client: usize,
    client_end: usize,
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

    #[inline(always)]
    pub(crate) fn of(channel: &str, client: &[u8], metadata: &[u8], joined_at: f64, last_seen: f64) -> Member {
        let mut text = Vec::with_capacity(channel.len() + client.len() + metadata.len());
        [channel.as_bytes(), client, metadata].iter().for_each(|part| text.extend_from_slice(part));
        let client_end = channel.len() + client.len();
        let place = Place { channel: channel.len(), client: channel.len(), client_end, metadata: client_end, end: text.len() };
        Member { joined_at, last_seen, text: Text::Own(text.into()), place }
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
        &self.text[self.place.client..self.place.client_end]
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

    /// Adds all of them who are there. `None`: one has moved on, and none was added.
    pub(crate) fn push_all(&mut self, cx: Context<'_>, entries: &[Entry]) -> Option<()> {
        let before = (self.text.len(), self.waiting.len());
        let added = entries.iter().filter(|entry| entry.is_live()).try_for_each(|entry| self.push(cx, entry.value));
        if added.is_none() {
            self.text.truncate(before.0);
            self.waiting.truncate(before.1);
        } else if self.text.len() >= PORTION {
            self.finish();
        }
        added
    }

    fn push(&mut self, cx: Context<'_>, reference: u64) -> Option<()> {
        if self.text.is_empty() {
            self.text.extend_from_slice(self.channel.as_bytes());
        }
        let client = self.text.len();
        let (_, at) = cx.life(reference)?;
        // Read before the text, which is validated: so it is of the same life.
        let seen = cx.hot(reference, at, Block::hot0);
        let key = cx.text_into(reference, &mut self.text)?;
        let (value, end) = (client + key, self.text.len());
        let joined = self.text[value..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let seen = seen.map_or(joined, seen_of);
        // What lies between the client's id and the metadata stays in between.
        let place = Place { channel: self.channel.len(), client, client_end: value, metadata: (value + JOINED).min(end), end };
        self.waiting.push((unix_seconds(cx, joined), unix_seconds(cx, seen), place));
        Some(())
    }

    fn finish(&mut self) {
        let text: Arc<[u8]> = self.text.as_slice().into();
        self.text.clear();
        let member = |(joined_at, last_seen, place)| Member { joined_at, last_seen, text: Text::Shared(text.clone()), place };
        let members = self.waiting.drain(..).map(member);
        self.done.extend(members);
    }

    /// All of them.
    pub(crate) fn all(mut self) -> Vec<Member> {
        self.finish();
        self.done
    }
}

/// Monotonic microseconds as Unix seconds, the same in every process of the segment.
pub(crate) fn unix_seconds(cx: Context<'_>, micros: u64) -> f64 {
    cx.view().get(Header::clock_offset).wrapping_add(micros) as f64 / 1e6
}

/// When the member joined, monotonic microseconds, as its record says it.
pub(crate) fn joined_of(record: &Record) -> Option<u64> {
    record.value().first_chunk::<JOINED>().map(|bytes| u64::from_le_bytes(*bytes))
}

/// A member's metadata, encoded, as its record says them.
pub(crate) fn metadata_of(record: &Record) -> &[u8] {
    record.value().get(JOINED..).unwrap_or(&[])
}

/// Room for the first pairs.
const ROOM: usize = 128;

/// Text pairs kept with a member, encoded once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata(Vec<u8>);

impl Metadata {
    /// No pairs.
    pub const fn new() -> Metadata {
        Metadata(Vec::new())
    }

    /// Forgets the pairs, and keeps the room they took.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// How many bytes of them there is room for.
    pub fn capacity(&self) -> usize {
        self.0.capacity()
    }

    /// Adds a pair.
    pub fn push(&mut self, key: &str, value: &str) {
        if self.0.capacity() == 0 {
            // Cheaper than to reserve.
            self.0 = Vec::with_capacity(ROOM);
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
