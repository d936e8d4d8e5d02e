//! Random and adversarial bytes all over a live segment while processes use the whole API: errors and lost
//! messages are allowed; a crash, a panic, a hang or a read outside the segment is not.
//!
//! `RAIN` says for how many seconds (4), `SEED` replays the choices.
#![cfg(not(any(modelled, crash_points)))]

mod exercise;
mod looks;
mod ruins;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use exercise::Choices;
use hypern_shm_core::inspect::Inspector;
use hypern_shm_core::layout::{CELL_WORDS, Header};
use hypern_shm_core::{Options, Segment};
use looks::look_at_everything;

/// An operation that takes longer counts as stuck: all loops over words that others write are bounded.
const STUCK: Duration = Duration::from_secs(30);
/// How long one segment is damaged.
const ROUND: Duration = Duration::from_millis(400);
const WORKERS: usize = 2;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// What the processes do that use the segment: not a test by itself.
#[test]
#[ignore = "the other processes' part"]
fn role() {
    if let Ok(name) = std::env::var("SEGMENT") {
        let counter = OpenOptions::new().write(true).open(std::env::var("COUNTER").expect("the harness says")).expect("a file");
        exercise::for_ever(&name, variable("SEED").expect("the harness says"), &counter);
    }
}

/// Writes what hurts most, where it hurts most.
struct Mutator {
    file: File,
    words: u64,
    random: Choices,
    writes: u64,
}

impl Mutator {
    fn place(&mut self) -> u64 {
        match self.random.below(4) {
            // Slots, bells, cells and roots: small, and everything hangs from them.
            0 => self.random.below(self.words / 8),
            // Cells.
            1 => {
                let cells = self.words / 512;
                let first = self.words / 40;
                (first + self.random.below(cells) * CELL_WORDS as u64 + self.random.below(20)).min(self.words - 1)
            }
            // The header now and then; anywhere.
            2 if self.random.below(40) == 0 => self.random.below(Header::WORDS as u64),
            _ => self.random.below(self.words),
        }
    }

    fn word(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, at * 8).expect("it is that long");
        u64::from_le_bytes(bytes)
    }

    fn mutate(&mut self) {
        let at = self.place();
        let old = self.word(at);
        let value = match self.random.below(9) {
            0 => 0,
            1 => u64::MAX,
            2 => self.random.next(),
            3 => self.random.below(1 << 12),
            4 => old ^ 1 << self.random.below(64),
            5 => old.wrapping_add(1),
            6 => old.wrapping_sub(1),
            // Sound words in wrong places: refs, roots, states of others.
            7 => {
                let other = self.place();
                self.word(other)
            }
            _ => self.word(at.wrapping_add(1) % self.words),
        };
        self.write(at, value);
    }

    fn write(&mut self, at: u64, value: u64) {
        self.file.write_all_at(&value.to_le_bytes(), at * 8).expect("room");
        self.writes += 1;
    }
}

struct Workers {
    children: Vec<(Child, tempfile::TempPath)>,
}

mod tempfile {
    //! A file that goes with its path.
    use std::path::PathBuf;

    pub struct TempPath(pub PathBuf);

    impl TempPath {
        pub fn new(name: &str) -> TempPath {
            let path = std::env::temp_dir().join(name);
            std::fs::write(&path, [0; 16]).expect("a file");
            TempPath(path)
        }

        /// Operations begun, and of these how many ended in an error.
        pub fn counts(&self) -> [u64; 2] {
            let bytes = std::fs::read(&self.0).expect("a file");
            [0, 8].map(|at| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes")))
        }
    }

    impl Drop for TempPath {
        fn drop(&mut self) {
            let _: std::io::Result<()> = std::fs::remove_file(&self.0);
        }
    }
}

impl Workers {
    fn spawn(name: &str, seed: u64) -> Workers {
        let spawn = |index: usize| {
            let counter = tempfile::TempPath::new(&format!("{name}.{index}"));
            let mut command = Command::new(std::env::current_exe().expect("this program"));
            command.args(["--exact", "role", "--ignored", "--nocapture", "-q"]).stdin(Stdio::null()).stdout(Stdio::null());
            command.env("SEGMENT", name).env("COUNTER", &counter.0).env("SEED", (seed + index as u64).to_string());
            (command.spawn().expect("a process"), counter)
        };
        Workers { children: (0..WORKERS).map(spawn).collect() }
    }

    fn look(&mut self, what: &str) {
        for (child, _) in &mut self.children {
            if let Some(status) = child.try_wait().expect("our child") {
                panic!("{what}: a process ended by itself: {status}, signal {:?}", status.signal());
            }
        }
    }

    /// Each goes on, whatever has been done to the segment.
    fn go_on(&mut self, what: &str) {
        let before: Vec<u64> = self.children.iter().map(|(_, counter)| counter.counts()[0]).collect();
        let start = Instant::now();
        while self.children.iter().zip(&before).any(|((_, counter), &before)| counter.counts()[0] == before) {
            self.look(what);
            assert!(start.elapsed() < STUCK, "{what}: a process is stuck");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn counts(&self) -> [u64; 2] {
        self.children.iter().fold([0, 0], |sum, (_, counter)| {
            let [begun, failed] = counter.counts();
            [sum[0] + begun, sum[1] + failed]
        })
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for (child, _) in &mut self.children {
            let _: std::io::Result<()> = child.kill();
            let _: std::io::Result<std::process::ExitStatus> = child.wait();
        }
    }
}

/// A name in /dev/shm that goes, whatever the test found.
struct Named(String);

impl Drop for Named {
    fn drop(&mut self) {
        // Its own error must not hide what the test has to say.
        let _: hypern_shm_core::Result<bool> = Segment::unlink_name(&self.0);
    }
}

/// The segment's file.
fn path_of(name: &str) -> std::path::PathBuf {
    let mut files = std::fs::read_dir("/dev/shm").expect("a directory").filter_map(Result::ok).map(|entry| entry.path());
    let is_it = |path: &std::path::PathBuf| path.to_string_lossy().contains(name) && !path.to_string_lossy().contains('@');
    files.find(is_it).expect("the segment's file")
}

#[test]
fn a_live_segment_under_a_rain_of_bytes() {
    let seconds = variable("RAIN").unwrap_or(4);
    let seed = variable("SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("SEED={seed}");
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut rounds, mut writes, mut looks, mut sums) = (0, 0, 0, [0; 2]);
    while Instant::now() < end {
        rounds += 1;
        let name = format!("rain-{}-{rounds}", std::process::id());
        let what = format!("SEED={seed}, round {rounds}");
        let options = Options { size: 1 << 20, max_processes: 8, ..Options::default() };
        let segment = Segment::open(&name, &options).expect("a segment");
        let _named = Named(name.clone());
        let file = OpenOptions::new().read(true).write(true).open(path_of(&name)).expect("its file");
        let mut mutator = Mutator { file, words: (1 << 20) / 8, random: Choices::Seeded(seed + rounds), writes: 0 };
        let mut workers = Workers::spawn(&name, seed + rounds * 100);
        workers.go_on(&format!("{what}, unharmed"));
        let inspector = Inspector::open(&name).expect("it is sound");
        let over = Instant::now() + ROUND;
        // From a drizzle to a downpour.
        let burst = 1 << mutator.random.below(8);
        while Instant::now() < over {
            for _ in 0..burst {
                mutator.mutate();
            }
            workers.look(&what);
            let start = Instant::now();
            looks += look_at_everything(&inspector).0;
            assert!(start.elapsed() < STUCK, "{what}: an onlooker is stuck");
        }
        workers.go_on(&what);
        // The walk over everything ends, too, and has something to say at least of what nobody can have mended.
        mutator.write(Header::bells_top as u64, u64::MAX);
        let found = segment.check().expect("attached");
        assert!(!found.is_empty(), "{what}: {} words were damaged and nothing is wrong", mutator.writes);
        let counts = workers.counts();
        drop(workers);
        for (sum, count) in sums.iter_mut().zip(counts) {
            *sum += count;
        }
        writes += mutator.writes;
    }
    println!(
        "{rounds} segments, {writes} words damaged, {} operations on them, {} ended in an error; onlookers saw {looks} things",
        sums[0], sums[1]
    );
}

/// What the coverage-guided fuzzing has found worth keeping, then more of the same at random.
#[test]
fn attaching_to_ruins() {
    let seconds = variable("RAIN").unwrap_or(4);
    let seed = variable("SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("SEED={seed}");
    let image = ruins::Image::new();
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/attach");
    let mut inputs: Vec<Vec<u8>> = std::fs::read_dir(corpus)
        .expect("it is part of the sources")
        .map(|entry| std::fs::read(entry.expect("a file").path()).expect("a file"))
        .collect();
    assert!(!inputs.is_empty());
    let kept = inputs.len();
    let mut random = Choices::Seeded(seed);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut refused = 0;
    let mut tried = 0;
    while !inputs.is_empty() || Instant::now() < end {
        let input = inputs.pop().unwrap_or_else(|| (0..random.below(200)).map(|_| random.next() as u8).collect());
        refused += u32::from(!image.attach_and_use(&input));
        tried += 1;
    }
    println!("{tried} damaged segments, {kept} of them from the corpus: {refused} refused at attach, the others used");
}
