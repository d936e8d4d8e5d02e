//! Directories: name → cell. One trie per kind of thing and namespace.

use crate::cells::Cell;
use crate::content::Content;
use crate::error::Result;
use crate::layout::{Channel, Header};
use crate::points::point;
use crate::record::Record;
use crate::space::Context;
use crate::sync::Ordering;
use crate::trie::{Change, Trie};

/// A directory entry, read.
pub struct Found {
    /// The cell it names.
    pub cell: Cell,
    /// The entry's record; its value is the cell's number and generation, then what the kind adds.
    pub record: Record,
}

impl Found {
    /// What the kind of thing keeps in its directory entry (a channel: its metadata).
    pub fn extra(&self) -> &[u8] {
        self.record.value().get(16..).unwrap_or(&[])
    }
}

/// The directory whose root word has this index.
#[derive(Clone, Copy)]
pub struct Directory<'a> {
    /// Its trie.
    pub trie: Trie<'a>,
}

/// The cell that a directory entry's record names.
pub fn cell_of(cx: Context<'_>, record: &Record) -> Option<Cell> {
    let word = |at: usize| Some(u64::from_le_bytes(record.value().get(at..at + 8)?.try_into().ok()?));
    Cell::of(cx, word(0)?, word(8)?)
}

impl Context<'_> {
    /// To be called before an entry leaves a directory, so that whoever sees that it is gone, or what has its
    /// name now, can tell that something was removed.
    pub fn entry_leaves(self) {
        // SYNC directory.removals (W): pairs with (R) in `PatternReceiver::refresh` and `Cell::put_in_order`.
        self.word(Header::removals).fetch_add(1, Ordering::AcqRel);
    }
}

impl<'a> Directory<'a> {
    /// The directory at a root.
    pub fn new(cx: Context<'a>, root: usize) -> Directory<'a> {
        Directory { trie: Trie::new(cx, root) }
    }

    /// The open thing of this name.
    pub fn find(&self, name: &str) -> Result<Option<Found>> {
        let cx = self.trie.cx;
        let place = cx.space.hash(name.as_bytes()).place();
        let Some((_, record)) = self.trie.get(place, name.as_bytes())? else {
            return Ok(None);
        };
        Ok(cell_of(cx, &record).filter(|cell| cell.is_open(cx)).map(|cell| Found { cell, record }))
    }

    /// Names a new cell that `make` claims, unless the name is taken by an open one. `None`: it was.
    pub fn insert(&self, name: &str, extra: &[u8], make: impl FnOnce(u64) -> Result<Cell>) -> Result<Option<Cell>> {
        if self.find(name)?.is_some() {
            return Ok(None);
        }
        let cx = self.trie.cx;
        let place = cx.space.hash(name.as_bytes()).place();
        let cell = make(place)?;
        point!("create.made");
        let mut value = Vec::with_capacity(16 + extra.len());
        value.extend_from_slice(&u64::from(cell.number()).to_le_bytes());
        value.extend_from_slice(&cell.generation.to_le_bytes());
        value.extend_from_slice(extra);
        let content = Content::new(&[], name.as_bytes(), &value);
        let inserted = self.trie.change_record(place, name.as_bytes(), |found| {
            // An entry whose cell is gone was left by a process that died, or is stopped, while removing it.
            if let Some((_, record)) = found {
                if cell_of(cx, record).is_some_and(|cell| cell.is_open(cx)) {
                    return Ok((Change::Keep, false));
                }
                cx.entry_leaves();
            }
            cell.put_in_order(cx);
            let held = cx.new_record(self.trie.root, place, &content)?;
            Ok((Change::Put(0, held), true))
        });
        match inserted {
            Ok(Some(true)) => {
                point!("create.named");
                cell.make_live(cx);
                Ok(Some(cell))
            }
            Ok(_) => {
                point!("create.beaten");
                cell.release(cx);
                Ok(None)
            }
            Err(error) => {
                cell.release(cx);
                Err(error)
            }
        }
    }

    /// Removes the name. Gives the cell it named, to exactly one caller.
    pub fn remove(&self, name: &str, only: Option<Cell>) -> Result<Option<Cell>> {
        let cx = self.trie.cx;
        let place = cx.space.hash(name.as_bytes()).place();
        let removed = self.trie.change_record(place, name.as_bytes(), |found| {
            let Some((_, record)) = found else {
                return Ok((Change::Keep, None));
            };
            let cell = cell_of(cx, record);
            if only.is_some() && cell != only {
                return Ok((Change::Keep, None));
            }
            cx.entry_leaves();
            Ok((Change::Remove, cell))
        })?;
        Ok(removed.flatten())
    }

    /// Removes the name of this very cell.
    pub fn remove_cell(&self, cell: Cell) -> Result<()> {
        let cx = self.trie.cx;
        let place = cx.view().get(cell.at() + Channel::ident);
        cx.entry_leaves();
        self.trie.remove(place, |value| Some(cell_of(cx, &cx.record(value)?) == Some(cell)))?;
        Ok(())
    }

    /// Calls `see` with every open thing.
    pub fn each(&self, mut see: impl FnMut(Found)) -> Result<()> {
        let cx = self.trie.cx;
        self.trie.records(|_, record| {
            if let Some(cell) = cell_of(cx, record)
                && cell.is_open(cx)
            {
                see(Found { cell, record: record.clone() });
            }
        })
    }

    /// The name of an open thing; `None`: this life of its cell has none.
    pub fn name_of(&self, cell: Cell) -> Result<Option<String>> {
        let cx = self.trie.cx;
        let place = cx.view().get(cell.at() + Channel::ident);
        let found = self.trie.get_if(place, |value| Some(cell_of(cx, &cx.record(value)?) == Some(cell)))?;
        Ok(found.map(|(_, record)| record.name()))
    }

    /// Does an entry name this very cell? `place` is the cell's `ident`.
    pub fn names_cell(&self, place: u64, cell: Cell) -> Result<bool> {
        let cx = self.trie.cx;
        let found = self.trie.find(place, |value| Some(cell_of(cx, &cx.record(value)?) == Some(cell)))?;
        Ok(found.is_some())
    }
}
