//! Chains of blocks: content of any length in blocks that one process holds, written once and copied out.
//!
//! An ordinary message is one block of the smallest class that holds it; what is longer than the largest is a chain of
//! the largest. All blocks after the head are CONT and live and die with it. What is copied means nothing until the
//! caller has re-checked that the chain is still the one it meant.

use crate::arena::{Held, Info, LARGE, MEDIUM, Preference, SMALL};
use crate::error::{Error, Result};
use crate::geometry::Geometry;
use crate::layout::{BLOCK_HEADER_WORDS, Block, kind, reference, state};
use crate::points::point;
use crate::space::Context;
use crate::sync::Ordering;
use crate::view::{View, Words};

impl<'a> Context<'a> {
    /// Writes what fits into a small block into one that is at hand, still held. `None`: it does not, or there is none.
    #[inline(always)]
    pub fn store_short(self, info: Info, back: u64, ident: u64, body: &[u8]) -> Option<Held<'a>> {
        if body.len() > Geometry::payload(0) {
            return None;
        }
        let head = self.claim_hinted(0)?;
        head.fill(info.of_bytes(body.len()), back, ident);
        View::write_words(&head.words[BLOCK_HEADER_WORDS..], body);
        Some(head)
    }

    /// Writes prefix and body into a chain of held blocks (one block where they fit) and gives its
    /// head, still held. All blocks after the head are CONT already: they live and die with it.
    #[inline(never)]
    pub fn store(self, info: Info, back: u64, ident: u64, prefix: &[u64], body: &[u8]) -> Result<Held<'a>> {
        let bytes = prefix.len() * 8 + body.len();
        if bytes > Geometry::payload(2) {
            let geometry = &self.space.geometry;
            let most = (0..3).map(|class| geometry.blocks[class] as u64 * Geometry::payload(class) as u64);
            let most = most.sum::<u64>().min(u64::from(u32::MAX));
            if bytes as u64 > most {
                return Err(Error::Full {
                    what: "a value does not fit into the arena; its bytes are",
                    used: bytes as u64,
                    capacity: most,
                    setting: "size",
                });
            }
        }
        let head = self.allocate(preference(bytes))?;
        head.fill(info.of_bytes(bytes), back, ident);
        let mut at = self.index_of(&head) + BLOCK_HEADER_WORDS;
        for &word in prefix {
            self.view().set(at, word);
            at += 1;
        }
        let first = body.len().min(self.payload(&head) - prefix.len() * 8);
        self.view().write(at, &body[..first]);
        let mut rest = &body[first..];
        let mut last = head;
        while !rest.is_empty() {
            let block = match self.allocate(preference(rest.len())) {
                Ok(block) => block,
                Err(error) => {
                    self.free(head.reference);
                    return Err(error);
                }
            };
            block.fill(Info::new(kind::TAIL, 0, 0, rest.len() as u64), head.reference, 0);
            let part = rest.len().min(self.payload(&block));
            self.view().write(self.index_of(&block) + BLOCK_HEADER_WORDS, &rest[..part]);
            rest = &rest[part..];
            point!("chain.written");
            block.words[Block::state].store(state::with(block.word(), state::CONT), Ordering::Release);
            point!("chain.cont");
            last.set(Block::next, block.reference);
            last = block;
        }
        Ok(head)
    }

    fn payload(self, held: &Held<'_>) -> usize {
        self.space.geometry.block(reference::block(held.reference)).map_or(0, |(class, _)| Geometry::payload(class))
    }

    /// The first word of a held block.
    #[inline(always)]
    pub fn index_of(self, held: &Held<'_>) -> usize {
        self.view().index_of(held.words)
    }

    /// Copies a chain's content behind what `out` holds. What is copied means nothing until the
    /// caller has re-checked, behind an acquire fence, that the chain is still the one it meant.
    #[inline(always)]
    pub fn load(self, (class, words): (usize, &Words), out: &mut Vec<u8>) -> Option<Info> {
        let info = Info(words[Block::info].load(Ordering::Relaxed));
        let bytes = info.bytes() as usize;
        if bytes > Geometry::payload(0) {
            return self.load_long(class, words, info, out);
        }
        View::read_words(&words[BLOCK_HEADER_WORDS..], bytes, out);
        Some(info)
    }

    #[inline(never)]
    fn load_long(self, class: usize, words: &Words, info: Info, out: &mut Vec<u8>) -> Option<Info> {
        let (at, bytes) = (self.view().index_of(words), info.bytes() as usize);
        let part = bytes.min(Geometry::payload(class));
        self.view().read(at + BLOCK_HEADER_WORDS, part, out);
        if part == bytes { Some(info) } else { self.load_rest(at, info, bytes - part, out) }
    }

    fn load_rest(self, at: usize, info: Info, mut rest: usize, out: &mut Vec<u8>) -> Option<Info> {
        if info.bytes() > self.space.geometry.size {
            return None;
        }
        let view = self.view();
        let mut next = view.get(at + Block::next);
        while rest > 0 {
            let (class, at) = self.space.geometry.block(reference::block(next))?;
            if !reference::is_life(next, self.word(at).load(Ordering::Acquire)) {
                return None;
            }
            let part = rest.min(Geometry::payload(class));
            view.read(at + BLOCK_HEADER_WORDS, part, out);
            next = view.get(at + Block::next);
            rest -= part;
        }
        Some(info)
    }
}

impl Held<'_> {
    /// Writes its header, but for the hot words, which records alone have.
    #[inline(always)]
    pub fn fill(&self, info: Info, back: u64, ident: u64) {
        self.set(Block::back, back);
        self.set(Block::info, info.0);
        self.set(Block::next, 0);
        self.set(Block::ident, ident);
    }

    /// The hot words of a record: zeros of this life.
    #[inline(always)]
    pub fn cool(&self) {
        for field in [Block::hot0, Block::hot1, Block::hot2] {
            self.set_hot(field, 0);
        }
    }
}

#[inline(always)]
fn preference(bytes: usize) -> Preference {
    if bytes <= Geometry::payload(0) {
        SMALL
    } else if bytes <= Geometry::payload(1) {
        MEDIUM
    } else {
        LARGE
    }
}
