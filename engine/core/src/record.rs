//! Records: what a leaf's entry refers to. `key length:32 | owners:16 | flags:16`, the owners, the
//! key, the value. Immutable once published; what changes often stands in the block's hot words.

use std::borrow::Cow;

use smallvec::SmallVec;

use crate::arena::{Held, Info, SMALL};
use crate::content::{Content, put_end, word_at};
use crate::error::Result;
use crate::geometry::Geometry;
use crate::layout::{BLOCK_HEADER_WORDS, Block, kind, reference};
use crate::lives::HOT_MASK;
use crate::space::Context;
use crate::sync::Ordering;
use crate::view::{View, Words, last_word};

/// Owners of an entry: almost always one.
pub type Owners = SmallVec<[u64; 2]>;

/// Bytes of most records.
const ROOM: usize = 192;

/// A private copy of a record.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// The ref it was read through.
    pub reference: u64,
    /// First word of its block.
    pub at: usize,
    /// Who owns the entry; nobody: it stays until somebody removes it.
    pub owners: Owners,
    /// Its hot words.
    hot: [u64; 3],
    bytes: Vec<u8>,
    key: usize,
    value: usize,
}

impl Record {
    /// What a hot word said when it was read. `None`: nothing of this life, which only damage can do.
    pub fn hot(&self, field: usize) -> Option<u64> {
        let word = *self.hot.get(field.checked_sub(Block::hot0)?)?;
        (word >> 48 == reference::generation(self.reference) & 0xffff).then_some(word & HOT_MASK)
    }

    /// The key.
    pub fn key(&self) -> &[u8] {
        &self.bytes[self.key..self.value]
    }

    /// The value.
    pub fn value(&self) -> &[u8] {
        &self.bytes[self.value..]
    }

    /// The key as text; damaged text is shown with replacement characters.
    pub fn name(&self) -> String {
        text_of(self.key()).into_owned()
    }
}

/// Bytes as text; what is damaged is shown with replacement characters.
#[inline]
pub(crate) fn text_of(bytes: &[u8]) -> Cow<'_, str> {
    // Far faster than `from_utf8_lossy` where it is text.
    std::str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
}

/// The front of a record: who owns the entry, and what its value begins with.
#[derive(Clone, Debug, Default)]
pub struct Front {
    /// As `Record::owners`.
    pub owners: Owners,
    /// The first 8 bytes of the value, if it has as many.
    pub word: Option<u64>,
}

/// How many owners a record has, and how many bytes of key, by its first word.
#[inline(always)]
const fn counts_of(head: u64) -> (usize, usize) {
    ((head >> 32 & 0xffff) as usize, (head & 0xffff_ffff) as usize)
}

/// Finds the parts of what was copied; `None` when its lengths do not fit.
fn decode(record: &mut Record) -> Option<()> {
    let head = u64::from_le_bytes(*record.bytes.first_chunk::<8>()?);
    let (owners, key) = counts_of(head);
    record.key = 8 + owners * 8;
    record.value = record.key.checked_add(key)?;
    if record.value > record.bytes.len() {
        return None;
    }
    record.owners.clear();
    for chunk in record.bytes[8..record.key].chunks_exact(8) {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        record.owners.push(u64::from_le_bytes(word));
    }
    Some(())
}

/// The byte of a record's content that follows the first `kept` of its value. `None`: this is no record, or it does not lie among
/// the first words up to there. Unvalidated.
#[inline(always)]
pub(crate) fn end_of(words: &Words, kept: usize) -> Option<usize> {
    let info = Info(words[Block::info].load(Ordering::Relaxed));
    let (owners, key) = counts_of(word_at(words, 0));
    let end = 8 + owners * 8 + key + kept;
    (info.kind() == kind::RECORD && end <= (info.bytes() as usize).min(Geometry::payload(0))).then_some(end)
}

impl<'a> Context<'a> {
    /// Reads the record that `reference` names. `None`: it has moved on; start again at the root.
    pub fn record(self, reference: u64) -> Option<Record> {
        let mut record = Record::default();
        self.record_into(reference, &mut record)?;
        Some(record)
    }

    /// As `record`, into one that was used before.
    pub fn record_into(self, reference: u64, record: &mut Record) -> Option<()> {
        let place @ (_, words) = self.place_of(reference)?;
        if record.bytes.capacity() == 0 {
            record.bytes.reserve(ROOM);
        }
        record.bytes.clear();
        let info = self.load(place, &mut record.bytes);
        record.hot = [Block::hot0, Block::hot1, Block::hot2].map(|field| words[field].load(Ordering::Relaxed));
        // Validated before anything is made of the bytes.
        if !self.are_still(reference, words) || info?.kind() != kind::RECORD {
            return None;
        }
        (record.reference, record.at) = (reference, self.view().index_of(words));
        decode(record)
    }

    /// Does the record that `reference` names have this key? `None`: it has moved on.
    #[inline]
    pub fn has_key(self, reference: u64, key: &[u8]) -> Option<bool> {
        self.has_key_from(reference, key, key.len())
    }

    /// Does it have a key of so many bytes that begins with these? `None`: it has moved on. Compared in place, word by
    /// word, where the key lies in the first block.
    #[inline]
    pub fn has_key_from(self, reference: u64, key: &[u8], length: usize) -> Option<bool> {
        let (class, at) = self.life(reference)?;
        let view = self.view();
        let first = at + BLOCK_HEADER_WORDS;
        let (owners, key_length) = counts_of(view.get(first));
        if 8 + owners * 8 + length > Geometry::payload(class) {
            return self.has_long_key_from(reference, key, length);
        }
        let is_record = Info(view.get(at + Block::info)).kind() == kind::RECORD;
        let mut same = is_record && key_length == length;
        if same {
            let mut index = first + 1 + owners;
            let mut chunks = key.chunks_exact(8);
            for chunk in &mut chunks {
                let mut word = [0; 8];
                word.copy_from_slice(chunk);
                same &= view.get(index) == u64::from_le_bytes(word);
                index += 1;
            }
            if let rest @ 1.. = key.len() % 8 {
                let mask = !0 >> (64 - rest * 8);
                same &= view.get(index) & mask == last_word(key, rest);
            }
        }
        self.still(reference, at).then_some(same)
    }

    #[cold]
    #[inline(never)]
    fn has_long_key_from(self, reference: u64, key: &[u8], length: usize) -> Option<bool> {
        let record = self.record(reference)?;
        Some(record.key().len() == length && record.key().starts_with(key))
    }

    /// Is this one of the record's owners? `None`: it has moved on. Looked at in place, where they lie in the first block.
    #[inline]
    pub fn has_owner(self, reference: u64, owner: u64) -> Option<bool> {
        let (class, at) = self.life(reference)?;
        let view = self.view();
        let first = at + BLOCK_HEADER_WORDS;
        let (owners, _) = counts_of(view.get(first));
        if 8 + owners * 8 > Geometry::payload(class) {
            return self.has_one_of_many(reference, owner);
        }
        let found = (0..owners).any(|index| view.get(first + 1 + index) == owner);
        self.still(reference, at).then_some(found)
    }

    #[cold]
    #[inline(never)]
    fn has_one_of_many(self, reference: u64, owner: u64) -> Option<bool> {
        Some(self.record(reference)?.owners.contains(&owner))
    }

    /// Who owns a record's entry, and what its value begins with. `None`: it has moved on. Read in place where that lies among
    /// the first words; told in place, one by one: what is passed on whole was written in other pieces.
    #[inline]
    pub fn front(self, reference: u64, front: &mut Front) -> Option<()> {
        let words = self.words_of(reference)?;
        let info = Info(words[Block::info].load(Ordering::Relaxed));
        let (count, key) = counts_of(word_at(words, 0));
        let value = 8 + count * 8 + key;
        let (bytes, reach) = (info.bytes() as usize, (info.bytes() as usize).min(Geometry::payload(0)));
        let has_word = value + 8 <= reach;
        front.owners.clear();
        if info.kind() != kind::RECORD || value > reach || !has_word && reach < bytes {
            let record = self.record(reference)?;
            front.word = record.value().first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
            front.owners = record.owners;
            return Some(());
        }
        (1..count + 1).for_each(|index| front.owners.push(word_at(words, 8 * index)));
        front.word = has_word.then(|| word_at(words, value));
        self.are_still(reference, words).then_some(())
    }

    /// Appends a record's key and value to `text`; gives how long the key is. `None`: it has moved on, and what was appended is
    /// to be taken back.
    pub fn text_into(self, reference: u64, text: &mut Vec<u8>) -> Option<usize> {
        let words = self.words_of(reference)?;
        let content = &words[BLOCK_HEADER_WORDS..];
        let info = Info(words[Block::info].load(Ordering::Relaxed));
        let (owners, key) = counts_of(content[0].load(Ordering::Relaxed));
        let skip = 8 + owners * 8;
        let bytes = info.bytes() as usize;
        if info.kind() != kind::RECORD || bytes > Geometry::payload(0) || skip + key > bytes {
            let record = self.record(reference)?;
            text.extend_from_slice(&record.bytes[record.key..]);
            return Some(record.key().len());
        }
        View::read_words(&content[skip / 8..], bytes - skip, text);
        self.are_still(reference, words).then_some(key)
    }

    /// Writes a record into held blocks. `root` and `place` say where it will be found.
    #[inline]
    pub fn new_record(self, root: usize, place: u64, content: &Content<'_>) -> Result<Held<'a>> {
        if content.bytes() > Geometry::payload(0) {
            let held = self.store(Info::new(kind::RECORD, 0, 0, 0), back_of(root), place, &[], &content.encoded())?;
            held.cool();
            return Ok(held);
        }
        let held = self.allocate(SMALL)?;
        held.write_record(root, place, content);
        Ok(held)
    }

    /// Writes a record that differs from one of which all but the end of the value lies among the first words of its block, from
    /// a byte of it on, and has room there for its own end. What is copied is unvalidated.
    #[inline(always)]
    pub fn with_other_end(self, root: usize, place: u64, (words, from): (&Words, usize), end: &[u8]) -> Result<Held<'a>> {
        let held = self.allocate(SMALL)?;
        View::copy(words, held.words);
        held.head_record(root, place, from + end.len());
        put_end(held.words, from, end);
        Ok(held)
    }

    /// As `new_record`, for one that replaces another that is no shorter: from the reserve where all else is in use.
    pub fn shorter_record(self, root: usize, place: u64, content: &Content<'_>) -> Result<Held<'a>> {
        self.new_record(root, place, content).or_else(|error| {
            if content.bytes() > Geometry::payload(0) {
                return Err(error);
            }
            let held = self.allocate_for_less(SMALL)?;
            held.write_record(root, place, content);
            Ok(held)
        })
    }
}

impl Held<'_> {
    #[inline(always)]
    fn write_record(&self, root: usize, place: u64, content: &Content<'_>) {
        self.head_record(root, place, content.bytes());
        content.write(self.words);
    }

    /// Writes everything of a record but its content.
    #[inline(always)]
    fn head_record(&self, root: usize, place: u64, bytes: usize) {
        self.fill(Info::new(kind::RECORD, 0, 0, bytes as u64), back_of(root), place);
        self.cool();
    }
}

/// The back word of a record of a group.
#[inline(always)]
pub(crate) const fn back_of(root: usize) -> u64 {
    (root as u64) << 8 | 0xff
}

/// A key of two texts: the length of the first, the first, the second.
pub(crate) fn pair_key(first: &str, second: &str) -> Vec<u8> {
    let mut key = (first.len() as u32).to_le_bytes().to_vec();
    key.extend_from_slice(first.as_bytes());
    key.extend_from_slice(second.as_bytes());
    key
}

/// Where the entry of two texts is, and its key.
pub(crate) fn pair_of(cx: Context<'_>, first: &str, second: &str) -> (u64, Vec<u8>) {
    let hash = |text: &str| cx.space.hash(text.as_bytes());
    (hash(first).pair(hash(second)), pair_key(first, second))
}

/// The two back.
pub(crate) fn key_pair(key: &[u8]) -> Option<(String, String)> {
    let (length, rest) = key.split_first_chunk::<4>()?;
    let (first, second) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    Some((text_of(first).into_owned(), text_of(second).into_owned()))
}

/// A text pair as bytes: `length:32 key length:32 value`.
pub fn encode_pair(key: &str, value: &str, out: &mut Vec<u8>) {
    for text in [key, value] {
        out.extend_from_slice(&(text.len() as u32).to_le_bytes());
        out.extend_from_slice(text.as_bytes());
    }
}

/// Text pairs as bytes, one after the other.
pub fn encode_pairs(pairs: &[(String, String)], out: &mut Vec<u8>) {
    pairs.iter().for_each(|(key, value)| encode_pair(key, value, out));
}

/// The pairs back; what does not fit is left out.
pub fn pairs_of(mut bytes: &[u8]) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    fn text<'a>(bytes: &mut &'a [u8]) -> Option<Cow<'a, str>> {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let length = u32::from_le_bytes(*length) as usize;
        let text = rest.get(..length)?;
        *bytes = &rest[length..];
        Some(text_of(text))
    }
    std::iter::from_fn(move || Some((text(&mut bytes)?, text(&mut bytes)?)))
}

/// The pairs back, each a text of its own.
pub fn decode_pairs(bytes: &[u8]) -> Vec<(String, String)> {
    pairs_of(bytes).map(|(key, value)| (key.into_owned(), value.into_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::ends_with;
    use crate::space::{Actor, Space};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pairs_come_back(pairs in proptest::collection::vec((".*", ".*"), 0..8)) {
            let mut bytes = Vec::new();
            encode_pairs(&pairs, &mut bytes);
            prop_assert_eq!(decode_pairs(&bytes), pairs);
        }

        #[test]
        fn any_bytes_are_a_record_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut record = Record::default();
            record.bytes.extend_from_slice(&bytes);
            if decode(&mut record).is_some() {
                let _ = (record.key().len(), record.value().len());
                decode_pairs(record.value());
            }
        }

        #[test]
        fn records_come_back(owners in proptest::collection::vec(any::<u64>(), 0..4), key in ".*", value in ".*") {
            let mut record = Record::default();
            record.bytes.extend_from_slice(&Content::new(&owners, key.as_bytes(), value.as_bytes()).encoded());
            decode(&mut record).unwrap();
            prop_assert_eq!(record.key(), key.as_bytes());
            prop_assert_eq!(record.value(), value.as_bytes());
            prop_assert_eq!(&record.owners[..], &owners[..]);
        }

        /// Of short parts, so that ends often agree.
        #[test]
        fn a_record_with_another_end_is_as_if_it_was_made_of_both(
            owners in 0_usize..3,
            key in proptest::collection::vec(any::<u8>(), 0..30),
            kept in proptest::collection::vec(any::<u8>(), 0..10),
            ends in proptest::array::uniform2(proptest::collection::vec(0_u8..2, 0..90)),
        ) {
            let space = Space::boxed(Geometry::tiny(1, 1, 1, [8, 4, 2]));
            let actor = Actor::new(0, 1);
            let cx = Context { space: &space, actor: &actor };
            let [one, other] = ends.each_ref().map(|end| Content { owners: &[7; 3][..owners], key: [&key, &[]], value: [&kept, end] });
            let held = cx.new_record(1, 16, &one).unwrap();
            let from = end_of(held.words, kept.len()).unwrap();
            prop_assert_eq!(from, one.bytes() - ends[0].len());
            prop_assert_eq!(end_of(held.words, one.bytes()), None);
            prop_assert_eq!(ends_with(held.words, from, &ends[1]), ends[0] == ends[1]);
            let [as_made, changed] = [cx.new_record(1, 16, &other), cx.with_other_end(1, 16, (held.words, from), &ends[1])].map(Result::unwrap);
            let [as_made, changed] = [as_made, changed].map(|held| cx.record(held.reference).unwrap());
            prop_assert_eq!((changed.key(), changed.value(), &changed.owners), (as_made.key(), as_made.value(), &as_made.owners));
            prop_assert!(ends_with(cx.words_of(changed.reference).unwrap(), from, &ends[1]));
        }

        #[test]
        fn a_front_is_what_the_record_says(
            owners in proptest::collection::vec(any::<u64>(), 0..4),
            key in proptest::collection::vec(any::<u8>(), 0..200),
            value in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let space = Space::boxed(Geometry::tiny(1, 1, 1, [8, 4, 2]));
            let actor = Actor::new(0, 1);
            let cx = Context { space: &space, actor: &actor };
            let held = cx.new_record(1, 16, &Content::new(&owners, &key, &value)).unwrap();
            let mut front = Front::default();
            cx.front(held.reference, &mut front).unwrap();
            let record = cx.record(held.reference).unwrap();
            prop_assert_eq!((record.key(), record.value()), (&key[..], &value[..]));
            prop_assert_eq!((&front.owners, &record.owners), (&Owners::from_slice(&owners), &Owners::from_slice(&owners)));
            prop_assert_eq!(front.word, value.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)));
            let mut text = b"before".to_vec();
            prop_assert_eq!(cx.text_into(held.reference, &mut text), Some(key.len()));
            prop_assert_eq!(text, [b"before", &key[..], &value[..]].concat());
        }
    }
}
