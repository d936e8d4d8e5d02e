//! Attaching to a segment with damaged words, and using it. What is damaged, and how it is used, is in the bytes of
//! an input: for the coverage-guided fuzzing (`engine/fuzz`) and for the tests that repeat what it found.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use hypern_shm_core::geometry::Geometry;
use hypern_shm_core::inspect::Inspector;
use hypern_shm_core::layout::Slot;
use hypern_shm_core::{Options, Segment};

use crate::exercise::{Choices, Worker};
use crate::looks::look_at_everything;

const SIZE: u64 = 256 << 10;
/// Operations that one input may ask for.
const MOST: u32 = 64;

fn options() -> Options {
    Options { size: SIZE, max_processes: 4, ..Options::default() }
}

/// A segment in use, as words: attached is this process.
pub struct Image {
    name: String,
    path: PathBuf,
    words: Vec<u64>,
    /// Words that are in use.
    used: Vec<usize>,
    /// The word that says that its process is attached.
    slot: usize,
}

impl Image {
    pub fn new() -> Image {
        let name = format!("ruins-{}", std::process::id());
        let segment = Segment::open(&name, &options()).expect("room");
        let ignore = |_: [u64; 2]| {};
        // The same every time.
        let mut worker = Worker::new(Choices::Seeded(1), &ignore);
        worker.fill(&segment);
        let directory = std::fs::read_dir("/dev/shm").expect("a directory");
        let mut paths = directory.filter_map(Result::ok).map(|entry| entry.path());
        let path = paths.find(|path| path.to_string_lossy().ends_with(&format!(".{name}"))).expect("the segment's file");
        let bytes = std::fs::read(&path).expect("ours");
        let words: Vec<u64> = bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().expect("8 bytes"))).collect();
        let used = (0..words.len()).filter(|&at| words[at] != 0).collect();
        let geometry = Geometry::divide(&options()).expect("sound");
        Segment::unlink_name(&name).expect("ours");
        Image { name, path, words, used, slot: geometry.slots_at + Slot::owner }
    }

    fn damaged(&self, choices: &mut Choices) -> Vec<u64> {
        let mut words = self.words.clone();
        // Nobody alive: attaching puts in order and looks at everything first.
        if choices.below(2) == 0 {
            words[self.slot] &= !0xf;
        }
        for _ in 0..=choices.below(8) {
            let place = |choices: &mut Choices| match choices.below(4) {
                0 => choices.below(words.len() as u64) as usize,
                _ => self.used[choices.below(self.used.len() as u64) as usize],
            };
            let at = place(choices);
            let old = words[at];
            words[at] = match choices.below(10) {
                0 => 0,
                1 => u64::MAX,
                2 => choices.next(),
                3 => choices.below(1 << 12),
                4 => old ^ 1 << choices.below(64),
                5 => old.wrapping_add(1 + choices.below(4)),
                6 => old.wrapping_sub(1 + choices.below(4)),
                7 => words[place(choices)],
                8 => old & u64::MAX << 32 | choices.below(1 << 16),
                _ => old ^ choices.below(1 << 16) << choices.below(48),
            };
        }
        words
    }

    /// False: it was refused at attach.
    pub fn attach_and_use(&self, input: &[u8]) -> bool {
        let mut choices = Choices::Given(Vec::from(input).into_iter());
        let words = self.damaged(&mut choices);
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut open = std::fs::OpenOptions::new();
        let mut file = open.write(true).create_new(true).mode(0o600).open(&self.path).expect("nobody else has it");
        file.write_all(&bytes).expect("room");
        // What cannot be looked at says why; everything else is looked at, before anybody puts it in order.
        if let Ok(inspector) = Inspector::open(&self.name) {
            look_at_everything(&inspector);
            let _: Result<Vec<String>, hypern_shm_core::Error> = inspector.check();
        }
        let attached = Segment::attach(&self.name);
        if let Ok(segment) = &attached {
            let ignore = |_: [u64; 2]| {};
            Worker::new(choices, &ignore).use_up(segment, MOST);
            let _: Result<Vec<String>, hypern_shm_core::Error> = segment.check();
            let _: Result<(), hypern_shm_core::Error> = segment.close();
        }
        Segment::unlink_name(&self.name).expect("ours");
        attached.is_ok()
    }
}
