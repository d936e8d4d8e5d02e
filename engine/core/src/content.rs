//! What a record is to hold, from where its parts are.
//!
//! Promise: what is written word by word is what `encoded` gives.

use crate::arena::Info;
use crate::layout::{BLOCK_HEADER_WORDS, Block};
use crate::sync::Ordering;
use crate::view::{Words, last_word};

/// What a record is to hold. Key and value may be of two parts each, which follow each other.
#[derive(Clone, Copy, Debug)]
pub struct Content<'a> {
    /// Who owns the entry.
    pub owners: &'a [u64],
    /// The key.
    pub key: [&'a [u8]; 2],
    /// The value.
    pub value: [&'a [u8]; 2],
}

impl<'a> Content<'a> {
    /// Of a key and a value of one part.
    pub const fn new(owners: &'a [u64], key: &'a [u8], value: &'a [u8]) -> Content<'a> {
        Content { owners, key: [key, &[]], value: [value, &[]] }
    }

    #[inline(always)]
    pub(crate) fn head(&self) -> u64 {
        (self.key[0].len() + self.key[1].len()) as u64 | (self.owners.len() as u64) << 32
    }

    #[inline(always)]
    pub(crate) fn bytes(&self) -> usize {
        let parts = [self.key, self.value].as_flattened().iter().map(|part| part.len()).sum::<usize>();
        8 + self.owners.len() * 8 + parts
    }

    /// All of it, for what does not fit into a small block.
    pub(crate) fn encoded(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.bytes());
        bytes.extend_from_slice(&self.head().to_le_bytes());
        self.owners.iter().for_each(|owner| bytes.extend_from_slice(&owner.to_le_bytes()));
        [self.key, self.value].as_flattened().iter().for_each(|part| bytes.extend_from_slice(part));
        bytes
    }

    /// Writes it word by word from where its parts are: what is put together in a buffer first, and read from it at once in other
    /// pieces than it was written in, makes the processor wait for each piece.
    #[inline(always)]
    pub(crate) fn write(&self, words: &Words) {
        let mut packer = Packer { words, index: BLOCK_HEADER_WORDS, word: 0, bits: 0 };
        packer.word(self.head());
        self.owners.iter().for_each(|&owner| packer.word(owner));
        packer.bytes(self.key[0]);
        packer.bytes(self.key[1]);
        packer.bytes(self.value[0]);
        packer.bytes(self.value[1]);
        packer.finish();
    }
}

/// The 8 bytes of a block's content from a byte on; zeros where the words end. Unvalidated.
#[inline(always)]
pub(crate) fn word_at(words: &Words, from: usize) -> u64 {
    let get = |index: usize| words.get(BLOCK_HEADER_WORDS + index).map_or(0, |word| word.load(Ordering::Relaxed));
    let (index, shift) = (from / 8, from as u32 % 8 * 8);
    let low = get(index) >> shift;
    if shift == 0 { low } else { low | get(index + 1) << (64 - shift) }
}

/// Does a block's content end, from a byte on, with just this? Unvalidated.
#[inline(always)]
pub(crate) fn ends_with(words: &Words, from: usize, end: &[u8]) -> bool {
    Info(words[Block::info].load(Ordering::Relaxed)).bytes() == (from + end.len()) as u64 && is_there(words, from, end)
}

/// Is a block's content, from a byte on, just this? Unvalidated.
#[inline(always)]
fn is_there(words: &Words, from: usize, bytes: &[u8]) -> bool {
    let (whole, rest) = bytes.as_chunks::<8>();
    let same = whole.iter().enumerate().all(|(index, &chunk)| word_at(words, from + 8 * index) == u64::from_le_bytes(chunk));
    match rest.len() {
        0 => same,
        rest => same && (word_at(words, from + 8 * whole.len()) ^ last_word(bytes, rest)) << (64 - rest * 8) == 0,
    }
}

/// Writes a block's content from a byte on, which keeps what comes before.
#[inline(always)]
pub(crate) fn put_end(words: &Words, from: usize, end: &[u8]) {
    let bits = from as u32 % 8 * 8;
    let word = word_at(words, from - from % 8) & ((1 << bits) - 1);
    let mut packer = Packer { words, index: BLOCK_HEADER_WORDS + from / 8, word, bits };
    packer.bytes(end);
    packer.finish();
}

/// Puts bytes one behind the other into whole words, which lie behind the header of a block.
struct Packer<'w> {
    words: &'w Words,
    index: usize,
    /// What is not written yet, and how many bits of it: fewer than 64.
    word: u64,
    bits: u32,
}

impl Packer<'_> {
    #[inline(always)]
    fn put(&mut self, word: u64) {
        // The caller has seen to it that all fits.
        if let Some(place) = self.words.get(self.index) {
            place.store(word, Ordering::Relaxed);
        }
        self.index += 1;
    }

    /// Adds so many bits, fewer than 64.
    #[inline(always)]
    fn add(&mut self, value: u64, bits: u32) {
        self.word |= value << self.bits;
        self.bits += bits;
        if self.bits >= 64 {
            self.put(self.word);
            self.bits -= 64;
            // What did not fit.
            self.word = value >> (bits - self.bits);
        }
    }

    /// Adds all 64.
    #[inline(always)]
    fn word(&mut self, value: u64) {
        if self.bits == 0 {
            return self.put(value);
        }
        self.put(self.word | value << self.bits);
        self.word = value >> (64 - self.bits);
    }

    #[inline(always)]
    fn bytes(&mut self, bytes: &[u8]) {
        let (whole, rest) = bytes.as_chunks::<8>();
        whole.iter().for_each(|&chunk| self.word(u64::from_le_bytes(chunk)));
        if !rest.is_empty() {
            self.add(last_word(bytes, rest.len()), rest.len() as u32 * 8);
        }
    }

    #[inline(always)]
    fn finish(mut self) {
        if self.bits > 0 {
            self.put(self.word);
        }
    }
}

#[cfg(all(test, not(modelled)))]
mod tests {
    use super::*;
    use crate::geometry::Geometry;
    use crate::sync::AtomicU64;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_are_written_as_if_they_were_one(
            owners in proptest::collection::vec(any::<u64>(), 0..3),
            parts in proptest::array::uniform4(proptest::collection::vec(any::<u8>(), 0..40)),
        ) {
            let [a, b, c, d] = &parts;
            let content = Content { owners: &owners, key: [a, b], value: [c, d] };
            let bytes = content.encoded();
            prop_assume!(bytes.len() <= Geometry::payload(0));
            let words: Words = std::array::from_fn(|_| AtomicU64::new(0));
            content.write(&words);
            let written: Vec<u8> = words[BLOCK_HEADER_WORDS..].iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes()).collect();
            prop_assert_eq!(&written[..bytes.len()], &bytes[..]);
            prop_assert!(written[bytes.len()..].iter().all(|&byte| byte == 0));
            // What ends with its last part ends with no other.
            let from = bytes.len() - d.len();
            prop_assert!(is_there(&words, from, d));
            for at in 0..d.len() {
                let mut other = d.clone();
                other[at] ^= 1;
                prop_assert!(!is_there(&words, from, &other), "byte {}", at);
            }
        }
    }
}
