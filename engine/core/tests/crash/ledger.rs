//! What the processes of a crash test tell each other: numbers in a file, each written by one process.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// A number of the ledger.
#[derive(Clone, Copy)]
pub enum Entry {
    /// Odd: come to rest.
    Pause,
    /// The pause that a peer is in.
    Paused(usize),
    /// How often a peer has done everything.
    Rounds(usize),
    /// Messages that a publisher began to publish.
    Tried(usize),
    /// Messages that a publisher knows to be published.
    Done(usize),
    /// The same, of channels on which somebody has a handle by pattern and does not look.
    TriedApart(usize),
    DoneApart(usize),
    /// What that somebody has received and missed, as of the last pause.
    Apart,
}

/// Most publishers.
const PUBLISHERS: usize = 8;

impl Entry {
    fn at(self) -> u64 {
        let number = match self {
            Entry::Pause => 0,
            Entry::Paused(index) => 1 + index,
            Entry::Rounds(index) => 1 + PUBLISHERS + index,
            Entry::Tried(index) => 1 + 2 * PUBLISHERS + index,
            Entry::Done(index) => 1 + 3 * PUBLISHERS + index,
            Entry::TriedApart(index) => 1 + 4 * PUBLISHERS + index,
            Entry::DoneApart(index) => 1 + 5 * PUBLISHERS + index,
            Entry::Apart => 1 + 6 * PUBLISHERS,
        };
        number as u64 * 8
    }
}

/// The file.
pub struct Ledger {
    file: File,
    path: PathBuf,
    mine: bool,
}

impl Ledger {
    /// A new one, all zeros.
    pub fn create(name: &str) -> Ledger {
        let path = std::env::temp_dir().join(format!("{name}.ledger"));
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).expect("a file");
        file.set_len(Entry::Apart.at() + 8).expect("room");
        Ledger { file, path, mine: true }
    }

    /// Another process's.
    pub fn open(path: PathBuf) -> Ledger {
        let file = OpenOptions::new().read(true).write(true).open(&path).expect("a file");
        Ledger { file, path, mine: false }
    }

    pub fn path(&self) -> &PathBuf {
        &self.path
    }

    pub fn get(&self, entry: Entry) -> u64 {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, entry.at()).expect("it is that long");
        u64::from_le_bytes(bytes)
    }

    pub fn set(&self, entry: Entry, value: u64) {
        self.file.write_all_at(&value.to_le_bytes(), entry.at()).expect("room");
    }

    pub fn add(&self, entry: Entry) {
        self.set(entry, self.get(entry) + 1);
    }

    /// Over all publishers.
    pub fn sum(&self, entry: impl Fn(usize) -> Entry) -> u64 {
        (0..PUBLISHERS).map(|index| self.get(entry(index))).sum()
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        if self.mine {
            let _: std::io::Result<()> = std::fs::remove_file(&self.path);
        }
    }
}
