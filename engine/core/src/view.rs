//! Mapped bytes → checked references: the one place where the segment's memory is touched.
//!
//! Promise: whatever index or length comes out of the segment, nothing outside the mapping is read
//! or written. An index out of bounds lands on the header's `sink` word, whose value means nothing,
//! and the caller's validation then fails. Every access is an atomic word or, where lines are copied,
//! inline assembly that is opaque to the compiler: there is never a plain load of bytes that
//! another process may be writing, and never a slice over the mapping.

use crate::hint::cold_path;
use crate::layout::{CELL_WORDS, Header};
#[cfg(not(modelled))]
use crate::os::mapping::Mapping;
use crate::sync::{AtomicU64, Ordering};

#[cfg(target_pointer_width = "32")]
compile_error!("the segment is addressed with 64-bit words; 32-bit targets are not supported");
#[cfg(target_endian = "big")]
compile_error!("the segment is little-endian; big-endian targets are not supported");

/// What keeps the words alive.
enum Backing {
    #[cfg(not(modelled))]
    Mapped(Mapping),
    Boxed(Box<[AtomicU64]>),
}

/// The words of a segment.
pub struct View {
    base: *const AtomicU64,
    words: usize,
    backing: Backing,
}

// SAFETY: `base` points into `backing`, which the view owns, does not move and never hands out
// mutably; all access through it is atomic (or assembly of the same effect).
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

/// Payloads of at least this many bytes are copied 32 bytes a move, where there are such moves.
#[cfg(all(target_arch = "x86_64", not(modelled)))]
const LONG: usize = 192;

/// Words of a small block, its header included; larger ones have more.
pub const SMALL_WORDS: usize = 32;
/// The words of a block that is at least as large as a small one, looked up once.
pub type Words = [AtomicU64; SMALL_WORDS];
/// The words of a cell, looked up once.
pub type CellWords = [AtomicU64; CELL_WORDS];
/// Words that are copied at once: a small block's, without its header.
pub const COPIED: usize = 24;

impl View {
    /// The words of a mapping. The mapping must hold at least a header.
    #[cfg(not(modelled))]
    pub fn mapped(mapping: Mapping) -> View {
        let base = mapping.base().as_ptr().cast::<AtomicU64>().cast_const();
        let words = mapping.len() / 8;
        assert!(words >= Header::WORDS, "a mapping smaller than a header");
        View { base, words, backing: Backing::Mapped(mapping) }
    }

    /// Zeroed words on this process's heap, for tests and for the model checker.
    pub fn boxed(words: usize) -> View {
        let boxed: Box<[AtomicU64]> = (0..words.max(Header::WORDS)).map(|_| AtomicU64::new(0)).collect();
        View { base: boxed.as_ptr(), words: boxed.len(), backing: Backing::Boxed(boxed) }
    }

    /// How many words there are.
    #[inline(always)]
    pub fn len(&self) -> usize {
        // SAFETY: `mapped` and `boxed`, which alone make views, make none of fewer words, and nobody sets `words` afterwards.
        // (Said here so that the header's words are not looked for each time.)
        unsafe { std::hint::assert_unchecked(self.words >= Header::WORDS) };
        self.words
    }

    /// Never: a view holds at least a header.
    pub fn is_empty(&self) -> bool {
        self.words == 0
    }

    /// Is this a mapping (as opposed to a box of this process)?
    pub fn is_mapped(&self) -> bool {
        match self.backing {
            #[cfg(not(modelled))]
            Backing::Mapped(ref mapping) => !mapping.is_empty(),
            Backing::Boxed(ref boxed) => boxed.is_empty(),
        }
    }

    /// The word at `index`; the sink when there is none.
    #[inline(always)]
    pub fn word(&self, index: usize) -> &AtomicU64 {
        let index = if index < self.len() { index } else { Header::sink };
        // SAFETY: `index < self.words`, and `base` points at that many words which `backing` keeps
        // alive and aligned for as long as `self` is borrowed.
        unsafe { &*self.base.add(index) }
    }

    /// The `N` words from `index` on, looked up once. `None` where they are not all inside.
    #[inline(always)]
    pub fn array<const N: usize>(&self, index: usize) -> Option<&[AtomicU64; N]> {
        if N > self.len() || index > self.len() - N {
            cold_path();
            return None;
        }
        // SAFETY: `index + N <= self.words`; as in `word`, and an array of atomics is laid out like as many of them.
        Some(unsafe { &*self.base.add(index).cast::<[AtomicU64; N]>() })
    }

    /// Where words that were looked up begin.
    #[inline(always)]
    pub fn index_of(&self, words: &Words) -> usize {
        words.as_ptr().addr().wrapping_sub(self.base.addr()) / size_of::<AtomicU64>()
    }

    /// Up to `count` words from `index` on; fewer where the mapping ends.
    #[inline(always)]
    fn words(&self, index: usize, count: usize) -> &[AtomicU64] {
        let index = index.min(self.words);
        let count = count.min(self.words - index);
        // SAFETY: `index + count <= self.words`; as in `word`.
        unsafe { std::slice::from_raw_parts(self.base.add(index), count) }
    }

    /// Asks for the cache lines of what will be read.
    #[inline(always)]
    pub fn expect(words: &[AtomicU64]) {
        #[cfg(all(target_arch = "x86_64", not(modelled)))]
        for line in words.chunks_exact(8) {
            // SAFETY: a prefetch of a borrowed address; it reads nothing and cannot fault.
            unsafe { core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(line.as_ptr().cast()) };
        }
        #[cfg(not(all(target_arch = "x86_64", not(modelled))))]
        let _ = words;
    }

    /// Relaxed load.
    #[inline(always)]
    pub fn get(&self, index: usize) -> u64 {
        self.word(index).load(Ordering::Relaxed)
    }

    /// Relaxed store.
    #[inline(always)]
    pub fn set(&self, index: usize, value: u64) {
        self.word(index).store(value, Ordering::Relaxed);
    }

    /// Copies a small block's content. Relaxed: only into a block that the caller holds, and what is copied is validated
    /// afterwards, behind an acquire fence.
    #[inline(always)]
    pub fn copy(from: &Words, to: &Words) {
        let (Some(source), Some(target)) = (from.last_chunk::<COPIED>(), to.last_chunk::<COPIED>()) else {
            return;
        };
        #[cfg(all(target_arch = "x86_64", not(modelled)))]
        for (source, target) in source.as_chunks::<8>().0.iter().zip(target.as_chunks::<8>().0) {
            // SAFETY: both lines are borrowed, and atomics may be written through a shared borrow.
            unsafe { copy_line(source.as_ptr().cast(), target.as_ptr().cast_mut().cast()) };
        }
        #[cfg(not(all(target_arch = "x86_64", not(modelled))))]
        target.iter().zip(source).for_each(|(to, from)| to.store(from.load(Ordering::Relaxed), Ordering::Relaxed));
    }

    /// Appends `bytes` bytes that start at word `index` to `out`; fewer where the mapping ends.
    /// Relaxed: the caller validates afterwards, behind an acquire fence.
    #[inline]
    pub fn read(&self, index: usize, bytes: usize, out: &mut Vec<u8>) {
        let room = self.words.saturating_sub(index).saturating_mul(8);
        let bytes = bytes.min(room);
        #[cfg(all(target_arch = "x86_64", not(modelled)))]
        if bytes >= LONG && are_wide() {
            out.reserve(bytes);
            let length = out.len();
            // SAFETY: source: `bytes` bytes from word `index`, inside the mapping by `room` above.
            // Destination: the spare capacity just reserved. There are wide moves.
            unsafe {
                copy_long(self.base.add(index).cast(), out.as_mut_ptr().add(length), bytes);
                out.set_len(length + bytes);
            }
            return;
        }
        View::read_words(self.words(index, bytes.div_ceil(8)), bytes, out);
    }

    /// Appends the first `bytes` bytes of words to `out`; fewer where the words end. Relaxed, as in `read`.
    #[inline(always)]
    pub fn read_words(words: &[AtomicU64], bytes: usize, out: &mut Vec<u8>) {
        let bytes = bytes.min(words.len() * 8);
        let words = &words[..bytes.div_ceil(8)];
        out.reserve(words.len() * 8);
        let length = out.len();
        // SAFETY: source: the borrowed words. Target: `words.len() * 8` bytes of spare capacity that were reserved, written from
        // their beginning on, each below the new length before the length is set.
        unsafe {
            let mut target = out.as_mut_ptr().add(length).cast::<u64>();
            #[cfg(all(target_arch = "x86_64", not(modelled)))]
            let words = {
                let (lines, rest) = words.as_chunks::<8>();
                for line in lines {
                    copy_line(line.as_ptr().cast(), target.cast());
                    target = target.add(8);
                }
                rest
            };
            for word in words {
                target.write_unaligned(word.load(Ordering::Relaxed).to_le());
                target = target.add(1);
            }
            out.set_len(length + bytes);
        }
    }

    /// Writes `bytes` from word `index` on, cut where the mapping ends; the rest of the last word is anything.
    /// Only for blocks that the caller holds.
    #[inline]
    pub fn write(&self, index: usize, bytes: &[u8]) {
        let room = self.words.saturating_sub(index).saturating_mul(8);
        let bytes = &bytes[..bytes.len().min(room)];
        #[cfg(all(target_arch = "x86_64", not(modelled)))]
        if bytes.len() >= LONG && are_wide() {
            // SAFETY: the target range is inside the mapping by `room`; the caller holds the block,
            // so nobody else writes it, and readers of an earlier life validate after copying. There are wide moves.
            unsafe { copy_long(bytes.as_ptr(), self.base.add(index).cast_mut().cast(), bytes.len()) };
            return;
        }
        View::write_words(self.words(index, bytes.len().div_ceil(8)), bytes);
    }

    /// Writes bytes word by word, the last filled up with zeros; cut where the words end. Only into a block that the caller holds.
    #[inline(always)]
    pub fn write_words(words: &[AtomicU64], bytes: &[u8]) {
        #[cfg(all(target_arch = "x86_64", not(modelled)))]
        let (words, bytes) = {
            let (chunks, bytes) = bytes.as_chunks::<64>();
            for (line, chunk) in words.as_chunks::<8>().0.iter().zip(chunks) {
                // SAFETY: both are borrowed, and atomics may be written through a shared borrow.
                unsafe { copy_line(chunk.as_ptr(), line.as_ptr().cast_mut().cast()) };
            }
            if bytes.is_empty() {
                return;
            }
            (words.get(chunks.len() * 8..).unwrap_or_default(), bytes)
        };
        let (whole, rest) = bytes.as_chunks::<8>();
        for (word, chunk) in words.iter().zip(whole) {
            word.store(u64::from_le_bytes(*chunk), Ordering::Relaxed);
        }
        if let (Some(word), rest @ 1..) = (words.get(whole.len()), rest.len()) {
            word.store(last_word(bytes, rest), Ordering::Relaxed);
        }
    }
}

/// Copies a line, by instructions that the compiler does not look into: what others write meanwhile makes for stale bytes, which
/// are validated afterwards, not for undefined behaviour.
///
/// # Safety
/// 64 bytes can be read at `source`, and written at `target`, through these pointers. (Others may do so at the same time: the bytes
/// are stale then, in damage alone where they are written.)
#[cfg(all(target_arch = "x86_64", not(modelled)))]
#[inline(always)]
unsafe fn copy_line(source: *const u8, target: *mut u8) {
    // SAFETY: as the caller promises.
    unsafe {
        core::arch::asm!(
            "movups {a}, [{source}]", "movups {b}, [{source} + 16]", "movups {c}, [{source} + 32]", "movups {d}, [{source} + 48]",
            "movups [{target}], {a}", "movups [{target} + 16], {b}", "movups [{target} + 32], {c}", "movups [{target} + 48], {d}",
            source = in(reg) source, target = in(reg) target,
            a = out(xmm_reg) _, b = out(xmm_reg) _, c = out(xmm_reg) _, d = out(xmm_reg) _,
            options(nostack, preserves_flags)
        );
    }
}

/// Has this processor moves of 32 bytes? (Looked up once; said by a load.)
#[cfg(all(target_arch = "x86_64", not(modelled)))]
#[inline(always)]
fn are_wide() -> bool {
    std::arch::is_x86_feature_detected!("avx")
}

/// Copies as `copy_line` does, at least `LONG` bytes: 128 at a time to a target that is aligned, after the first 32 and before the
/// last 128, which overlap with those. (Not `rep movsb`: where the target lies some bytes behind the source, counted within a page,
/// AMD's takes twenty times as long; glibc bug 30994.)
///
/// # Safety
/// As `copy_line`, of `bytes` bytes, which are at least `LONG`; and `are_wide`.
#[cfg(all(target_arch = "x86_64", not(modelled)))]
#[inline(always)]
unsafe fn copy_long(source: *const u8, target: *mut u8, bytes: usize) {
    const { assert!(LONG >= 31 + 128) };
    // SAFETY: as the caller promises. Both go on by at most 31 bytes, from where at least 128 are left; the loop goes on while
    // more than 128 are, and the last 128 of all follow.
    unsafe {
        core::arch::asm!(
            "vmovdqu ymm0, [{source}]", "vmovdqu [{target}], ymm0",
            "add {source}, {uneven}", "add {target}, {uneven}",
            "2:",
            "vmovdqu ymm0, [{source}]", "vmovdqu ymm1, [{source} + 32]", "vmovdqu ymm2, [{source} + 64]", "vmovdqu ymm3, [{source} + 96]",
            "vmovdqa [{target}], ymm0", "vmovdqa [{target} + 32], ymm1", "vmovdqa [{target} + 64], ymm2", "vmovdqa [{target} + 96], ymm3",
            "sub {source}, -128", "sub {target}, -128",
            "cmp {source}, {last}",
            "jb 2b",
            "sub {target}, {source}",
            "vmovdqu ymm0, [{last}]", "vmovdqu ymm1, [{last} + 32]", "vmovdqu ymm2, [{last} + 64]", "vmovdqu ymm3, [{last} + 96]",
            "add {target}, {last}",
            "vmovdqu [{target}], ymm0", "vmovdqu [{target} + 32], ymm1", "vmovdqu [{target} + 64], ymm2", "vmovdqu [{target} + 96], ymm3",
            "vzeroupper",
            source = inout(reg) source => _, target = inout(reg) target => _,
            last = in(reg) source.add(bytes - 128), uneven = in(reg) target.addr().wrapping_neg() % 32,
            // All of them, as `vzeroupper` has to do with the upper half of each.
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _, out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
            options(nostack)
        );
    }
}

/// The last `rest` bytes of some, 1 to 7, as a word.
#[inline(always)]
pub(crate) fn last_word(bytes: &[u8], rest: usize) -> u64 {
    if let Some(last) = bytes.last_chunk::<8>() {
        return u64::from_le_bytes(*last) >> (64 - rest * 8);
    }
    // All there are; the halves overlap in equal bytes.
    if let (Some(first), Some(last)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        return u64::from(u32::from_le_bytes(*first)) | u64::from(u32::from_le_bytes(*last)) << ((rest - 4) * 8);
    }
    bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

#[cfg(all(test, not(modelled)))]
mod tests {
    use super::*;

    /// Bytes no stretch of which looks like another.
    fn bytes(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i * 7 + (i >> 8) * 31) as u8 ^ 0x5a).collect()
    }

    #[test]
    fn bytes_come_back_as_written_and_nothing_beside_them_is_touched() {
        let view = View::boxed(4096);
        for length in (0_usize..700).chain([4095, 4096, 16_320]) {
            for at in 100..104 {
                let (bytes, beside) = (bytes(length), at + length.div_ceil(8));
                for by_words in [false, true] {
                    (at - 1..=beside).for_each(|index| view.set(index, u64::MAX));
                    if by_words {
                        View::write_words(view.words(at, beside - at), &bytes)
                    } else {
                        view.write(at, &bytes)
                    }
                    assert_eq!((view.get(at - 1), view.get(beside)), (u64::MAX, u64::MAX), "{length} bytes at {at}");
                }
                for read_before in [0, at] {
                    let mut out = vec![9; read_before];
                    view.read(at, length, &mut out);
                    assert!(out[..read_before].iter().all(|&byte| byte == 9) && out[read_before..] == bytes, "{length} bytes at {at}");
                    out.clear();
                    View::read_words(view.words(at, beside - at), length, &mut out);
                    assert!(out == bytes, "{length} bytes at {at}");
                }
            }
        }
    }

    #[test]
    fn an_index_out_of_bounds_reaches_the_sink_only() {
        let view = View::boxed(1024);
        view.set(usize::MAX, 7);
        view.set(view.len(), 8);
        assert_eq!(view.get(Header::sink), 8);
        let mut out = Vec::new();
        view.read(view.len() - 1, 1 << 20, &mut out);
        assert_eq!(out.len(), 8);
        view.read(usize::MAX, 100, &mut out);
        assert_eq!(out.len(), 8);
        view.write(view.len() - 1, &[1; 300]);
        assert_eq!(view.get(view.len() - 1), 0x0101_0101_0101_0101);
    }
}
