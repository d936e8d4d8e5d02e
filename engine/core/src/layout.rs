//! What lies where in a segment: every structure as words of 64 bits, with its offsets.
//! LAYOUT.md is the byte map of the same; a test holds the two together.
//!
//! Promise: nothing here depends on the compiler, the pointer size or the process. There are no
//! pointers, `usize`, `bool` or enums in shared memory, only little-endian 64-bit words.

/// Grows with every change of anything below; part of the file's name and of the header.
pub const LAYOUT_VERSION: u32 = 4;
/// "HYPERNRT" read as a little-endian word.
pub const MAGIC: u64 = u64::from_le_bytes(*b"HYPERNRT");

macro_rules! structure {
    ($(#[$meta:meta])* $name:ident $size:literal { $($(#[$fmeta:meta])* $field:ident,)* }) => {
        $(#[$meta])*
        #[repr(C)]
        pub struct $name { $($(#[$fmeta])* $field: u64,)* }
        #[allow(non_upper_case_globals)]
        impl $name {
            $($(#[$fmeta])* pub const $field: usize = core::mem::offset_of!($name, $field) / 8;)*
            /// Words a structure of this kind takes.
            pub const WORDS: usize = $size / 8;
            /// (field, byte offset, bytes) of every field.
            pub const FIELDS: &'static [(&'static str, usize, usize)] =
                &[$((stringify!($field), core::mem::offset_of!($name, $field), 8),)*];
        }
        const _: () = assert!(core::mem::size_of::<$name>() <= $size);
    };
}

structure! {
    /// The first page of the segment. `version` is stored last: a header without it is not ready.
    Header 4096 {
        /// `MAGIC`.
        magic,
        /// `LAYOUT_VERSION`, stored last at creation.
        version,
        /// Hash of the structures' offsets: catches two builds that disagree under one version.
        fingerprint,
        /// Bytes in the whole segment.
        size,
        /// Process slots.
        slots,
        /// Cells (channels, broadcasts, presence groups, worlds).
        cells,
        /// Ring units of 16 descriptors.
        units,
        /// Blocks of 256 bytes.
        small,
        /// Blocks of 2 KiB.
        medium,
        /// Blocks of 16 KiB.
        large,
        /// Bells.
        bells,
        /// First half of the random hash key.
        key0,
        /// Second half of the random hash key.
        key1,
        /// Random identity of this segment: the epoch of its event ids.
        identity,
        /// Microseconds to add to the monotonic clock to get Unix time, fixed at creation.
        clock_offset,
        /// Bit 0: unlink when the last process is gone.
        flags,
        /// Never meaningful: where an index out of bounds is sent to do no harm.
        sink,
        /// Root of the trie of worlds.
        worlds,
        /// Source of tags for empty and sealed roots; only ever grows.
        tags,
        /// Slots ever taken: a process that sees it grow knows that it is not alone.
        attaches,
        /// Slots ever settled for a dead process.
        reaps,
        /// Monotonic microseconds of the keeper's last beat.
        keeper_beat,
        /// Messages whose history was given up because the arena was full.
        evictions,
        /// One above the highest bell ever claimed; only ever grows.
        bells_top,
        /// Grows before an entry leaves a directory: who has handles by pattern looks for what was removed unseen.
        removals,
        /// Slot and incarnation of the process whose keeper beat last.
        keeper,
        /// Messages that were published on channels and broadcasts which are gone.
        past_published,
        /// Messages that were missed on channels and broadcasts which are gone.
        past_dropped,
    }
}

structure! {
    /// A process's place. One line pair each, so that two processes never share a line.
    Slot 128 {
        /// incarnation:48 | 12 unused | state:4 (0 free, 1 taken, 2 leaving in order, 3 settled for a dead process whose byte is still held).
        owner,
        /// Process id.
        pid,
        /// Its start time, in clock ticks since boot.
        start_time,
        /// Inode of its pid namespace.
        pid_namespace,
        /// Monotonic microseconds when it attached.
        since,
    }
}

structure! {
    /// A channel or broadcast: its ring and the roots of what is keyed under it.
    Channel 192 {
        /// State word.
        state,
        /// kind:8 | word index of the directory's root << 8.
        back,
        /// Hash of the name.
        ident,
        /// First ring unit:32 << 16 | flags:8 << 8 | log2 of the ring's length:8.
        config,
        /// Root: open handles.
        handles,
        /// Root: registrations by client id.
        subscribers,
        /// Root: message ids seen (broadcasts with dedup).
        seen,
        /// Dedup window in ids; 0: none.
        window,
        /// Next sequence to publish; bit 63 seals it.
        head,
        /// The first sequence of this channel's life.
        start,
        /// Below it nothing is retained (a hint that only grows).
        tail,
        /// Below it every message id is in `seen`.
        indexed,
        /// Messages that handles missed, and broadcasts nobody heard.
        dropped,
        /// Sends that nobody heard and that the policy refused.
        refused,
        /// Messages skipped as duplicates.
        deduped,
        /// Ids ever indexed: the ordinal of the next.
        ordinal,
        /// `removals` when it was named: of two lives of one name, the later has more.
        order,
        /// What turns rounds of the ring into laps: a descriptor's lap is its sequence's round plus this.
        laps,
    }
}

structure! {
    /// A namespace: the roots of its directories.
    World 192 {
        /// State word.
        state,
        /// kind:8 | word index of the root of worlds << 8.
        back,
        /// Hash of the namespace.
        ident,
        /// Root: channel names.
        channels,
        /// Root: broadcast names.
        broadcasts,
        /// Root: channels that have members.
        presence,
        /// Root: (client, cell), hints to where a client is present whose lines are full.
        whereabouts,
        /// Root: heartbeat clients.
        heartbeats,
        /// Unused: a channel's counters lie here, and a sleeper may still move them.
        unused0,
        /// Unused, as above.
        unused1,
        /// Unused, as above.
        unused2,
        /// Unused, as above.
        unused3,
        /// Pings ever recorded.
        pings,
        /// Pongs ever recorded.
        pongs,
        /// Timeouts ever reported.
        timeouts,
        /// Unused, as above.
        unused4,
        /// Root: (pattern, client) of the managers' matcher.
        manager_topics,
        /// Root: (pattern, client) of free matchers.
        free_topics,
        /// Root: handles on patterns of channels.
        patterns,
    }
}

structure! {
    /// The members of one channel.
    Group 192 {
        /// State word.
        state,
        /// kind:8 | word index of the directory's root << 8.
        back,
        /// Hash of the channel's name.
        ident,
        /// Unused: a channel's `config` lies here, which is no root word.
        unused0,
        /// Root: members by client id.
        members,
    }
}

structure! {
    /// What wakes one waiting event loop or thread.
    Bell 640 {
        /// State word: FREE or HELD.
        state,
        /// Slot and incarnation of the process that waits here.
        owner,
        /// epoch:62 | 0 awake, 1 sleeping, 2 ringing, 3 rung. A futex is its lower half.
        bell,
        /// What the kernel waits on: 0 the futex, 1 a FIFO beside the segment, 2 a pipe of the owner's.
        kind,
        /// The owner's process id: where its pipe is found.
        pid,
        /// The pipe's descriptor in that process.
        descriptor,
        /// Which words of `dirty` may have a bit set.
        summary,
        /// 4096 bits: where there may be news, by the lower bits of the cell's number. 64 words from here on.
        dirty,
    }
}

structure! {
    /// The first line of every block.
    Block 64 {
        /// generation:48 | owner slot:12 | state:4.
        state,
        /// Message: cell. Page: root's word index << 8 | depth. Record: root << 8 | 255. CONT: ref of the head block.
        back,
        /// kind:8 | flags:8 | entries:8 | 8 unused | length in bytes:32.
        info,
        /// Ref of the next block of the chain, or 0.
        next,
        /// Message: sequence. Page: hash prefix. Record: hash.
        ident,
        /// Hot words of a record: low 16 bits of the generation << 48 | value:48. Never payload, whatever the block becomes.
        hot0,
        /// See hot0.
        hot1,
        /// See hot0.
        hot2,
    }
}

structure! {
    /// The state of a ring unit; the descriptors themselves lie apart.
    Unit 16 {
        /// State word.
        state,
        /// generation:32 (low bits of the state word's) | cell:32: whose it is in that life.
        back,
    }
}

/// Words in front of a block's payload.
pub const BLOCK_HEADER_WORDS: usize = Block::WORDS;
/// Block sizes in bytes, by class.
pub const CLASS_BYTES: [usize; 3] = [256, 2048, 16384];
/// Descriptors in a ring unit.
pub const UNIT_DESCRIPTORS: usize = 16;
/// Words in a cell of any kind.
pub const CELL_WORDS: usize = 24;
/// Words of dirty bits in a bell.
pub const DIRTY_WORDS: usize = 64;
/// The largest ring: 2^20 descriptors.
pub const MAX_RING_LOG2: u32 = 20;
/// Most processes: the owner field of a state word has 12 bits, and one value means nobody.
pub const MAX_PROCESSES: u32 = 4095;

/// Every field of every structure, for the byte map's test: (structure, field, offset, bytes).
pub fn fields() -> Vec<(&'static str, &'static str, usize, usize)> {
    let mut all = Vec::new();
    for (name, fields) in [
        ("Header", Header::FIELDS),
        ("Slot", Slot::FIELDS),
        ("Channel", Channel::FIELDS),
        ("World", World::FIELDS),
        ("Group", Group::FIELDS),
        ("Bell", Bell::FIELDS),
        ("Block", Block::FIELDS),
        ("Unit", Unit::FIELDS),
    ] {
        all.extend(fields.iter().map(|&(field, offset, size)| (name, field, offset, size)));
    }
    all
}

/// A hash of all offsets and sizes above (FNV-1a, 64 bits).
pub fn fingerprint() -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut eat = |bytes: &[u8]| {
        for &byte in bytes {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    };
    for (name, field, offset, size) in fields() {
        eat(name.as_bytes());
        eat(field.as_bytes());
        eat(&(offset as u64).to_le_bytes());
        eat(&(size as u64).to_le_bytes());
    }
    for bytes in CLASS_BYTES {
        eat(&(bytes as u64).to_le_bytes());
    }
    // What places entries.
    eat(b"siphash-1-3");
    // What is kept with handles that were made for a pattern, and with its registration.
    eat(b"made, pattern, name; messages, counting, before");
    // Hints to where clients are: in lines, and where those are full.
    eat(b"rest of place, cell + 1; client:40 | cell:20, client:20 | cell:24");
    // What a unit says of the cell it belongs to.
    eat(b"generation:32 | cell:32");
    hash
}

/// State words: `generation:48 | owner slot:12 | state:4`.
pub mod state {
    /// Anybody may claim it.
    pub const FREE: u64 = 0;
    /// Its owner alone writes it.
    pub const HELD: u64 = 1;
    /// Published: immutable until freed.
    pub const LIVE: u64 = 2;
    /// Second or later block of a chain.
    pub const CONT: u64 = 3;
    /// A channel that was removed and still has open handles.
    pub const RETIRED: u64 = 4;
    /// A cell whose content is being given back.
    pub const CLEARING: u64 = 5;

    /// Packs a state word.
    #[inline(always)]
    pub const fn pack(generation: u64, owner: u64, state: u64) -> u64 {
        generation << 16 | (owner & 0xfff) << 4 | state & 0xf
    }
    /// The generation: how often the thing was claimed.
    #[inline(always)]
    pub const fn generation(word: u64) -> u64 {
        word >> 16
    }
    /// The generation after a word's, without owner and state.
    #[inline(always)]
    pub const fn next(word: u64) -> u64 {
        pack(generation(word).wrapping_add(1), 0, 0)
    }
    /// Does a later look, `now`, show the same life, in any state but FREE?
    #[inline(always)]
    pub const fn is_life(word: u64, now: u64) -> bool {
        generation(now) == generation(word) && of(now) != FREE
    }
    /// The owner's slot.
    #[inline(always)]
    pub const fn owner(word: u64) -> u64 {
        word >> 4 & 0xfff
    }
    /// One of the states above.
    #[inline(always)]
    pub const fn of(word: u64) -> u64 {
        word & 0xf
    }
    /// The same life in another state.
    #[inline(always)]
    pub const fn with(word: u64, state: u64) -> u64 {
        word & !0xf | state
    }
}

/// Refs: `generation:36 | block:28`. A ref knows which life of the block it means; 0 is no ref.
pub mod reference {
    /// Bits of a block number.
    pub const BLOCK_BITS: u32 = 28;
    /// Mask of a block number.
    pub const BLOCK_MASK: u64 = (1 << BLOCK_BITS) - 1;
    /// Mask of the generation kept in a ref.
    pub const GENERATION_MASK: u64 = (1 << 36) - 1;
    /// From a state word's generation to a ref's.
    const WORD_SHIFT: u32 = BLOCK_BITS - 16;
    /// In a root word: no entry; the rest is a tag.
    pub const EMPTY: u64 = BLOCK_MASK;
    /// In a root word: the group is gone; the rest is a tag.
    pub const SEALED: u64 = BLOCK_MASK - 1;
    /// In a descriptor: the message's history was given up.
    pub const NO_BLOCK: u64 = BLOCK_MASK;

    /// The ref to the life of a block that its state word shows.
    #[inline(always)]
    pub const fn to(word: u64, block: u32) -> u64 {
        word << WORD_SHIFT & !BLOCK_MASK | block as u64 & BLOCK_MASK
    }
    /// The block's number.
    #[inline(always)]
    pub const fn block(reference: u64) -> u32 {
        (reference & BLOCK_MASK) as u32
    }
    /// Low 36 bits of the generation meant.
    #[inline(always)]
    pub const fn generation(reference: u64) -> u64 {
        reference >> BLOCK_BITS
    }
    /// Does the state word `word` show the life that this ref means, in any state but FREE?
    #[inline(always)]
    pub const fn is_life(reference: u64, word: u64) -> bool {
        // The generations over each other; what lies below them is shifted out.
        (word << WORD_SHIFT ^ reference) >> BLOCK_BITS == 0 && super::state::of(word) != super::state::FREE
    }
}

/// What a block holds (the `kind` byte of its `info` word).
pub mod kind {
    /// A message published as text.
    pub const TEXT: u64 = 1;
    /// A message published as bytes.
    pub const BYTES: u64 = 2;
    /// A page of entries.
    pub const LEAF: u64 = 3;
    /// A page of refs.
    pub const INNER: u64 = 4;
    /// A record that a leaf's entry refers to.
    pub const RECORD: u64 = 5;
    /// A later block of a chain.
    pub const TAIL: u64 = 6;
}

/// What the owner of a bell waits on in the kernel.
pub mod means {
    /// The bell's own word.
    pub const FUTEX: u64 = 0;
    /// A FIFO beside the segment.
    pub const FIFO: u64 = 1;
    /// A pipe of the owner's, found through its process id.
    pub const PIPE: u64 = 2;
}

/// What a cell holds (the `kind` byte of its `back` word).
pub mod cell_kind {
    /// A named channel.
    pub const CHANNEL: u64 = 1;
    /// A broadcast channel.
    pub const BROADCAST: u64 = 2;
    /// The members of a channel.
    pub const GROUP: u64 = 3;
    /// A namespace.
    pub const WORLD: u64 = 4;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_pack_and_unpack() {
        let word = state::pack(0x1234_5678_9abc, 0xabc, state::LIVE);
        assert_eq!(state::generation(word), 0x1234_5678_9abc);
        assert_eq!(state::owner(word), 0xabc);
        assert_eq!(state::of(word), state::LIVE);
        let reference = reference::to(word, 77);
        assert_eq!(reference::block(reference), 77);
        assert!(reference::is_life(reference, word));
        assert!(!reference::is_life(reference, state::with(word, state::FREE)));
        assert!(!reference::is_life(reference, word + (1 << 16)));
        // A ref keeps the lower bits of a generation, and nothing of what lies below them; both begin anew.
        let last = state::pack((1 << 48) - 1, 0xfff, state::LIVE);
        assert_eq!(reference::to(last, 77), reference::GENERATION_MASK << reference::BLOCK_BITS | 77);
        assert_eq!(state::next(last), 0);
        let (before, after) = (state::pack((1 << 36) - 1, 1, state::LIVE), state::pack(1 << 36, 1, state::LIVE));
        assert_eq!((reference::to(after, 77), state::next(before)), (77, state::pack(1 << 36, 0, 0)));
        assert!(reference::is_life(reference::to(before, 77), last) && reference::is_life(77, after));
        assert!(!reference::is_life(reference::to(before, 77), after));
    }

    #[test]
    fn fingerprint_is_stable_within_a_version() {
        assert_eq!(fingerprint(), fingerprint());
        assert_ne!(fingerprint(), 0);
    }
}
