//! The check of keyed groups: every page and record of a trie, who owns the entries, and that members and the
//! hints to them agree.

use hashbrown::{HashMap, HashSet};

use super::Look;
use crate::arena::Info;
use crate::cells::Cell;
use crate::directory::cell_of;
use crate::layout::{Block, Group, World, cell_kind, kind, reference};
use crate::record::Record;
use crate::trie::{Counts, Entry, Page, Root, VALUE_INLINE, is_lone};
use crate::whereabouts::{self, Hint};

/// What stands in the keys of a group, and whose its entries are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Keyed {
    /// A name, and the place is its hash; the entries say which cell has it.
    Name,
    /// A client's id, and the place is its hash. With `true`: an entry leaves with its owners, however they go.
    Client(bool),
    /// Two names or ids. With `true`: as above.
    Pair(bool),
    /// No record: marks of message ids, hints.
    Mark,
}

/// The groups of a cell, in the order of `roots_of`.
pub(super) fn keys_of(kind: u64) -> &'static [Keyed] {
    match kind {
        cell_kind::CHANNEL | cell_kind::BROADCAST => &[Keyed::Pair(true), Keyed::Client(true), Keyed::Mark],
        cell_kind::GROUP => &[Keyed::Client(false)],
        cell_kind::WORLD => &[
            Keyed::Name,
            Keyed::Name,
            Keyed::Name,
            Keyed::Mark,
            Keyed::Client(false),
            Keyed::Pair(true),
            Keyed::Pair(true),
            Keyed::Pair(true),
        ],
        _ => &[],
    }
}

impl Look<'_> {
    /// All of the group at a root word.
    pub(super) fn group(&mut self, root: usize, life: Option<Cell>, keyed: Keyed, what: &str) {
        if let Root::Page(reference) = self.trie(root, life).root() {
            self.page(root, keyed, (reference, 0, 0), what);
        }
    }

    /// A page at a depth under a prefix, and everything below it. Gives its counts.
    fn page(&mut self, root: usize, keyed: Keyed, (page_ref, depth, prefix): (u64, u32, u64), what: &str) -> Counts {
        let cx = self.cx;
        let what_page = || format!("{what}, page {depth}/{prefix:016x}");
        let block = reference::block(page_ref);
        let (Some((_, at)), Some(page)) = (cx.life(page_ref), self.trie(root, None).page(page_ref)) else {
            self.say(format!("{}: block {block} is no page, or of another life", what_page()));
            return Counts::default();
        };
        // The root names the record of its only entry, which is looked at as one.
        if let (Page::Leaf(entries), 0) = (&page, depth)
            && is_lone(page_ref, entries)
        {
            entries.iter().for_each(|entry| self.entry(root, keyed, entry, (depth, prefix), what));
            return page.counts();
        }
        let (back, ident) = (cx.view().get(at + Block::back), cx.view().get(at + Block::ident));
        if (back, ident) != ((root as u64) << 8 | u64::from(depth), prefix) {
            self.say(format!("{}: block {block} says it is {}/{ident:016x} of root {}", what_page(), back & 0xff, back >> 8));
        }
        // One page is in one place only, so this ends.
        if !self.chain(block, &what_page()) {
            return page.counts();
        }
        match &page {
            Page::Leaf(entries) => {
                if entries.is_empty() {
                    self.say(format!("{}: an empty leaf", what_page()));
                }
                if entries.windows(2).any(|pair| pair[0].place() > pair[1].place()) {
                    self.say(format!("{}: its entries are out of order", what_page()));
                }
                for entry in entries {
                    self.entry(root, keyed, entry, (depth, prefix), what);
                }
            }
            Page::Inner(inner) => {
                let mut sum = Counts::default();
                for (nibble, &child) in inner.children.iter().enumerate().filter(|&(_, &child)| child != 0) {
                    if depth >= 15 {
                        self.say(format!("{}: too deep", what_page()));
                        break;
                    }
                    let below = prefix | (nibble as u64) << (60 - 4 * depth);
                    let counts = self.page(root, keyed, (child, depth + 1, below), what);
                    sum.live += counts.live;
                    sum.pending += counts.pending;
                    sum.gone += counts.gone;
                }
                if sum != inner.counts {
                    self.say(format!("{}: it counts {:?}, below it are {sum:?}", what_page(), inner.counts));
                }
            }
        }
        page.counts()
    }

    fn entry(&mut self, root: usize, keyed: Keyed, entry: &Entry, (depth, prefix): (u32, u64), what: &str) {
        let cx = self.cx;
        let what = format!("{what}, entry {:016x}", entry.place());
        if depth > 0 && entry.place() >> (64 - 4 * depth) != prefix >> (64 - 4 * depth) {
            self.say(format!("{what}: it stands in another page's place"));
        }
        if entry.value & VALUE_INLINE != 0 {
            if keyed != Keyed::Mark {
                self.say(format!("{what}: it has no record"));
            }
            return;
        }
        let Some((_, at)) = cx.life(entry.value) else {
            self.say(format!("{what}: its record is of another life"));
            return;
        };
        let view = cx.view();
        if Info(view.get(at + Block::info)).kind() != kind::RECORD
            || view.get(at + Block::back) != (root as u64) << 8 | 0xff
            || view.get(at + Block::ident) & !0xf != entry.place()
        {
            self.say(format!("{what}: block {} is no record of it", reference::block(entry.value)));
        }
        self.chain(reference::block(entry.value), &what);
        let Some(record) = cx.record(entry.value) else {
            self.say(format!("{what}: its record cannot be read"));
            return;
        };
        self.record(keyed, entry, &record, &what);
    }

    fn record(&mut self, keyed: Keyed, entry: &Entry, record: &Record, what: &str) {
        let cx = self.cx;
        if matches!(keyed, Keyed::Name | Keyed::Client(_)) && cx.space.hash(record.key()).place() != entry.place() {
            self.say(format!("{what}: {:?} belongs elsewhere", record.name()));
        }
        if keyed == Keyed::Name {
            let cell = cell_of(cx, record);
            if !cell.is_some_and(|cell| cell.is_open(cx)) {
                self.say(format!("{what}: {:?} names a cell that is not open", record.name()));
            }
        }
        if matches!(keyed, Keyed::Client(true) | Keyed::Pair(true))
            && let Some(owner) = record.owners.iter().find(|&&owner| !self.is_attached(owner))
        {
            self.say(format!("{what}: {:?} belongs to {owner:x}, which is not attached", record.name()));
        }
    }

    /// Each member has a hint to it, and each hint a member.
    pub(super) fn presence(&mut self, cells: &[(Cell, u64)]) {
        let cx = self.cx;
        let mut members = HashMap::new();
        let mut entries = HashSet::new();
        for &(world, _) in cells.iter().filter(|&&(_, kind)| kind == cell_kind::WORLD) {
            let mut groups = Vec::new();
            let directory = crate::directory::Directory::new(cx, world.at() + World::presence);
            let listed = directory.each(|found| groups.push((found.record.name(), found.cell)));
            self.unless(listed, "channels with members");
            for (channel, cell) in groups {
                let listed = cell.trie(cx, Group::members).records(|entry, record| {
                    if entry.is_live() {
                        let hint = Hint::new(cx, world.at(), entry.place(), cell.number());
                        members.insert(hint.key(), (world, record.name(), channel.clone()));
                    }
                });
                self.unless(listed, "members");
            }
            let listed = whereabouts::entries(cx, world.at()).map(|found| {
                entries.extend(found.into_iter().map(|hint| (world, hint)));
            });
            self.unless(listed, "whereabouts");
        }
        let mut lines = HashSet::new();
        let listed = whereabouts::each_in_lines(cx, |client, cell, _| {
            lines.insert((client, cell));
            Ok(())
        });
        self.unless(listed, "lines of hints");
        for (hint, (world, client, channel)) in &members {
            if !lines.contains(hint) && !entries.contains(&(*world, *hint)) {
                self.say(format!("cell {}: no hint leads to the member {client:?} of {channel:?}", world.number()));
            }
        }
        for (client, cell) in lines.into_iter().filter(|hint| !members.contains_key(hint)) {
            self.say(format!("a hint to the member {client:016x} in cell {cell}, who is not there"));
        }
        for (world, (client, cell)) in entries {
            if members.get(&(client, cell)).is_none_or(|(of, ..)| *of != world) {
                self.say(format!("cell {}: a hint to the member {client:016x} in cell {cell}, who is not there", world.number()));
            }
        }
    }
}
