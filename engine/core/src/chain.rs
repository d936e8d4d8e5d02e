//! Chains of blocks: content of any length in blocks that one process holds, written once and copied out.
//!
//! An ordinary message is one block of the smallest class that holds it; what is longer than the largest is a chain of
//! the largest. All blocks after the head are CONT and live and die with it. What is copied means nothing until the
//! caller has re-checked that the chain is still the one it meant.

use crate::arena::{Held, Info, LARGE, MEDIUM, Preference, SMALL, hot};
use crate::error::{Error, Result};
use crate::geometry::Geometry;
use crate::layout::{BLOCK_HEADER_WORDS, Block, kind, reference, state};
use crate::points::point;
use crate::space::Context;
use crate::sync::Ordering;
use crate::view::Words;

impl Context<'_> {
    /// Writes prefix and body into a chain of held blocks (one block where they fit) and gives its
    /// head, still held. All blocks after the head are CONT already: they live and die with it.
    #[inline(always)]
    pub fn store(self, info: Info, back: u64, ident: u64, prefix: &[u64], body: &[u8]) -> Result<Held> {
        let bytes = prefix.len() * 8 + body.len();
        if bytes > Geometry::payload(0) {
            return self.store_long(info, back, ident, prefix, body);
        }
        let head = self.allocate(SMALL)?;
        self.fill(&head, Info(info.0 & 0xffff_ffff | (bytes as u64) << 32), back, ident);
        let at = head.at + BLOCK_HEADER_WORDS;
        for (index, &word) in prefix.iter().enumerate() {
            self.view().set(at + index, word);
        }
        self.view().write(at + prefix.len(), body);
        Ok(head)
    }

    #[inline(never)]
    fn store_long(self, info: Info, back: u64, ident: u64, prefix: &[u64], body: &[u8]) -> Result<Held> {
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
        let info = Info(info.0 & 0xffff_ffff | (bytes as u64) << 32);
        self.fill(&head, info, back, ident);
        let mut at = head.at + BLOCK_HEADER_WORDS;
        for &word in prefix {
            self.view().set(at, word);
            at += 1;
        }
        let first = body.len().min(self.payload(&head) - prefix.len() * 8);
        self.view().write(at, &body[..first]);
        let mut rest = &body[first..];
        let mut last = head.at;
        while !rest.is_empty() {
            let block = match self.allocate(preference(rest.len())) {
                Ok(block) => block,
                Err(error) => {
                    self.free(head.reference());
                    return Err(error);
                }
            };
            self.fill(&block, Info::new(kind::TAIL, 0, 0, rest.len() as u64), head.reference(), 0);
            let part = rest.len().min(self.payload(&block));
            self.view().write(block.at + BLOCK_HEADER_WORDS, &rest[..part]);
            rest = &rest[part..];
            point!("chain.written");
            self.word(block.at).store(state::with(block.word, state::CONT), Ordering::Release);
            point!("chain.cont");
            self.view().set(last + Block::next, block.reference());
            last = block.at;
        }
        Ok(head)
    }

    fn payload(self, held: &Held) -> usize {
        self.space.geometry.block(held.block as u32).map_or(0, |(class, _)| Geometry::payload(class))
    }

    /// Writes a held block's header. The hot words start as zeros of this life.
    #[inline(always)]
    pub fn fill(self, held: &Held, info: Info, back: u64, ident: u64) {
        if let Some(words) = self.view().array(held.at) {
            Self::fill_words(words, held, info, back, ident);
        }
    }

    /// As `fill`, where the block's words are looked up.
    #[inline(always)]
    pub fn fill_words(header: &Words, held: &Held, info: Info, back: u64, ident: u64) {
        let cold = hot(state::generation(held.word), 0);
        let set = |field: usize, value: u64| header[field].store(value, Ordering::Relaxed);
        set(Block::back, back);
        set(Block::info, info.0);
        set(Block::next, 0);
        set(Block::ident, ident);
        set(Block::hot0, cold);
        set(Block::hot1, cold);
        set(Block::hot2, cold);
    }

    /// Copies a chain's content behind what `out` holds. What is copied means nothing until the
    /// caller has re-checked, behind an acquire fence, that the chain is still the one it meant.
    #[inline(always)]
    pub fn load(self, at: usize, class: usize, out: &mut Vec<u8>) -> Option<Info> {
        let info = Info(self.view().get(at + Block::info));
        let bytes = info.bytes() as usize;
        let part = bytes.min(Geometry::payload(class));
        self.view().read(at + BLOCK_HEADER_WORDS, part, out);
        if part == bytes { Some(info) } else { self.load_rest(at, info, bytes - part, out) }
    }

    #[inline(never)]
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
