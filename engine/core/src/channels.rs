//! Channels and broadcasts by name: create, remove, publish, and what is known of them.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64 as PrivateU64, Ordering as PrivateOrdering};

use hashbrown::HashMap;

use crate::bound::{Bound, FAIL_WHEN_UNHEARD, Form, Sent, bound_of};
use crate::cells::Cell;
use crate::directory::Directory;
use crate::error::{Error, Result};
use crate::geometry::Geometry;
use crate::handles::Made;
use crate::layout::{MAX_RING_LOG2, World as WorldCell, cell_kind};
use crate::names;
use crate::os::lock::Lock;
use crate::patterns::anchor_all;
use crate::points::point;
use crate::record::encode_pairs;
use crate::relief;
use crate::space::Context;
use crate::sync::Ordering;
use crate::target::{Left, Target};
use crate::topics::{Topics, TopicsKind, pattern_matches};
use crate::trie::Stop;
use crate::world::{World, check_length};

/// Which of the two directories of a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelKind {
    /// Named channels with registered clients.
    Channel,
    /// Broadcasts with policy and dedup.
    Broadcast,
}

/// How a channel is to be made.
#[derive(Clone, Debug)]
pub struct ChannelSpec {
    /// Messages retained: a power of two up to 2^20.
    pub buffer_size: u64,
    /// Text pairs kept with the channel.
    pub metadata: Vec<(String, String)>,
    /// `send` refuses when nobody listens.
    pub fail_when_unheard: bool,
    /// How many of the last message ids are remembered.
    pub dedup_window: Option<u32>,
}

/// Patterns remembered for one state of the directory.
const PATTERNS_REMEMBERED: usize = 256;

/// A channel found again and again is gone again and again only this often, unless the segment is damaged.
pub(crate) const PATIENCE: u32 = 1 << 10;
pub(crate) const GOING: Error = Error::Corrupt { what: "a channel is named as open, and closed" };

static FACADES: PrivateU64 = PrivateU64::new(1);

#[derive(Default)]
struct Matches {
    directory: u64,
    by_pattern: HashMap<String, Arc<Vec<String>>>,
}

struct Inner {
    world: World,
    kind: ChannelKind,
    /// Tells this facade's names from others' in a thread's memory.
    facade: u64,
    matches: Lock<Matches>,
    /// Handles on patterns of these channels.
    patterns: Topics,
}

/// The channels (or broadcasts) of one world.
#[derive(Clone)]
pub struct Channels(Arc<Inner>);

impl Channels {
    /// The channels or broadcasts of `world`.
    pub fn new(world: &World, kind: ChannelKind) -> Channels {
        Channels(Arc::new(Inner {
            world: world.clone(),
            kind,
            facade: FACADES.fetch_add(1, PrivateOrdering::Relaxed),
            matches: Lock::default(),
            patterns: Topics::new(world, TopicsKind::Handles),
        }))
    }

    /// The world they are in.
    pub fn world(&self) -> &World {
        &self.0.world
    }

    /// Handles on patterns of these channels.
    pub(crate) fn patterns(&self) -> &Topics {
        &self.0.patterns
    }

    pub(crate) fn directory<'a>(&self, cx: Context<'a>) -> Directory<'a> {
        let field = match self.0.kind {
            ChannelKind::Channel => WorldCell::channels,
            ChannelKind::Broadcast => WorldCell::broadcasts,
        };
        Directory::new(cx, self.0.world.root(field))
    }

    /// The open channel of this name, from private memory or from the directory.
    pub(crate) fn bind(&self, cx: Context<'_>, name: &str) -> Result<Option<Rc<Bound>>> {
        match self.known(cx, name) {
            Some(bound) => Ok(Some(bound)),
            None => self.bind_found(cx, name),
        }
    }

    /// The open channel of this name, if private memory has it.
    #[inline(always)]
    pub(crate) fn known(&self, cx: Context<'_>, name: &str) -> Option<Rc<Bound>> {
        // Stale memory is harmless: the cell's state word says whether this life is still open.
        names::recall(self.0.facade, name, |target| target.bound.clone()).filter(|bound| bound.cell.is_open(cx))
    }

    /// The open channel of this name, from the directory.
    #[cold]
    #[inline(never)]
    fn bind_found(&self, cx: Context<'_>, name: &str) -> Result<Option<Rc<Bound>>> {
        for _ in 0..PATIENCE {
            let Some(found) = self.directory(cx).find(name)? else {
                return Ok(None);
            };
            if let Some(bound) = bound_of(cx, found.cell)? {
                let bound = Rc::new(bound);
                names::remember(self.0.facade, name, &bound);
                return Ok(Some(bound));
            }
        }
        Err(GOING)
    }

    /// Creates a channel. False: there is one of this name, and it is kept as it is.
    pub fn create(&self, name: &str, spec: &ChannelSpec) -> Result<bool> {
        check_length("name", name)?;
        if !spec.buffer_size.is_power_of_two() || spec.buffer_size > 1 << MAX_RING_LOG2 {
            return Err(Error::invalid("buffer_size", spec.buffer_size, format!("a power of two up to {}", 1 << MAX_RING_LOG2)));
        }
        let cx = self.0.world.cx()?;
        let mut extra = Vec::new();
        encode_pairs(&spec.metadata, &mut extra);
        let kind = match self.0.kind {
            ChannelKind::Channel => cell_kind::CHANNEL,
            ChannelKind::Broadcast => cell_kind::BROADCAST,
        };
        let flags = if spec.fail_when_unheard { FAIL_WHEN_UNHEARD } else { 0 };
        let directory = self.directory(cx);
        let root = directory.trie.root;
        let window = u64::from(spec.dedup_window.unwrap_or(0));
        let log2 = spec.buffer_size.trailing_zeros();
        let has_patterns = self.0.kind == ChannelKind::Channel;
        let mut known = 0;
        let mut handles = Vec::new();
        // Should handles find no room, the owners of the patterns make them themselves, or meet that very error.
        let made = directory.insert(name, &extra, |ident| {
            let cell = relief::new_channel(cx, kind, root, ident, log2, flags, window)?;
            if has_patterns {
                known = self.0.patterns.word(cx);
                point!("create.patterns");
                let _ = anchor_all(cx, &self.0.patterns, name, cell, Made::InTime, &mut handles);
            }
            Ok(cell)
        })?;
        if let (Some(cell), true) = (made, has_patterns) {
            if self.0.patterns.word(cx) != known {
                let _ = anchor_all(cx, &self.0.patterns, name, cell, Made::Late, &mut handles);
            }
            cx.news(self.0.world.cell_number());
        }
        Ok(made.is_some())
    }

    /// Removes a channel. Open handles drain what is left. False: there is none.
    pub fn remove(&self, name: &str) -> Result<bool> {
        let cx = self.0.world.cx()?;
        match self.directory(cx).find(name)? {
            Some(found) => self.retire(cx, name, found.cell),
            None => Ok(false),
        }
    }

    fn retire(&self, cx: Context<'_>, name: &str, cell: Cell) -> Result<bool> {
        // The cell first: it decides who removed the channel. An entry left behind by a crash names
        // a cell that is not open, which everybody takes for no entry.
        let removed = cell.retire(cx)?;
        point!("remove.told");
        self.directory(cx).remove(name, Some(cell))?;
        point!("remove.unnamed");
        cell.clear_if_unused(cx)?;
        Ok(removed)
    }

    /// Is there a channel of this name?
    pub fn contains(&self, name: &str) -> Result<bool> {
        Ok(self.bind(self.0.world.cx()?, name)?.is_some())
    }

    /// All names.
    pub fn names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        self.directory(self.0.world.cx()?).each(|found| names.push(found.record.name()))?;
        Ok(names)
    }

    /// How many there are.
    pub fn count(&self) -> Result<u64> {
        self.directory(self.0.world.cx()?).trie.live()
    }

    /// Removes them all.
    pub fn clear(&self) -> Result<()> {
        let cx = self.0.world.cx()?;
        let mut all = Vec::new();
        self.directory(cx).each(|found| all.push((found.record.name(), found.cell)))?;
        for (name, cell) in all {
            self.retire(cx, &name, cell)?;
        }
        Ok(())
    }

    /// Publishes to every open handle, in every process. Gives how many there are; `None`: no such channel.
    pub fn publish(&self, name: &str, payload: &[u8], form: Form) -> Result<Option<u64>> {
        let cx = self.0.world.cx()?;
        // It would not be done at once, and the name would be looked for twice.
        if payload.len() > Geometry::payload(0) {
            return self.publish_rest(cx, name, payload, form, Left::Publish(None));
        }
        // In place: most publishing is to channels that the thread knows. (And publishing looks for no names.)
        match names::recall(self.0.facade, name, |target| target.publish_at_once(cx, payload, form)) {
            Some(Ok(heard)) => Ok(Some(heard)),
            Some(Err(left)) => self.publish_rest(cx, name, payload, form, left),
            None => self.publish_unknown(cx, name, payload, form),
        }
    }

    /// What is left to be done. (Nothing in between made the thread forget the name.)
    #[inline(never)]
    fn publish_rest(&self, cx: Context<'_>, name: &str, payload: &[u8], form: Form, left: Left<'_>) -> Result<Option<u64>> {
        match names::recall(self.0.facade, name, |target| target.publish_rest(cx, payload, form, left)) {
            Some(Ok(None)) | None => self.publish_unknown(cx, name, payload, form),
            Some(done) => done,
        }
    }

    /// To a channel that this thread does not remember, or remembers wrongly.
    #[cold]
    #[inline(never)]
    fn publish_unknown(&self, cx: Context<'_>, name: &str, payload: &[u8], form: Form) -> Result<Option<u64>> {
        self.until_done(cx, name, |target| target.publish(cx, payload, form))
    }

    /// A channel to be published to again and again. `None`: there is none of this name.
    pub fn target(&self, name: &str) -> Result<Option<Target>> {
        let Some(bound) = self.bind(self.0.world.cx()?, name)? else {
            return Ok(None);
        };
        Ok(Some(names::recall(self.0.facade, name, |target| target.clone()).unwrap_or_else(|| Target::of(self.0.facade, bound))))
    }

    /// Publishes as by its name. `None`: it is gone, or another's than these channels', and nothing was published.
    #[inline(never)]
    pub fn publish_to(&self, target: &mut Target, payload: &[u8], form: Form) -> Result<Option<u64>> {
        if !target.is_of(self.0.facade) {
            return Ok(None);
        }
        target.publish(self.0.world.cx()?, payload, form)
    }

    /// Publishes under the channel's policy and, with an id, once within its dedup window.
    pub fn send(&self, name: &str, payload: &[u8], form: Form, id: Option<&str>) -> Result<Sent> {
        let cx = self.0.world.cx()?;
        let sent = match names::recall(self.0.facade, name, |target| target.send(cx, payload, form, id)) {
            Some(Ok(None)) | None => self.until_done(cx, name, |target| target.send(cx, payload, form, id))?,
            Some(done) => done?,
        };
        Ok(sent.unwrap_or(Sent::Unknown))
    }

    /// Until it is done to an open channel of this name. `None`: there is none.
    fn until_done<R>(&self, cx: Context<'_>, name: &str, act: impl Fn(&mut Target) -> Result<Option<R>>) -> Result<Option<R>> {
        for _ in 0..PATIENCE {
            let Some(bound) = self.bind(cx, name)? else {
                return Ok(None);
            };
            let cell = bound.cell;
            // Found, it is remembered, where what is counted is remembered, too.
            let done = names::recall(self.0.facade, name, &act).unwrap_or_else(|| act(&mut Target::of(self.0.facade, bound)));
            if let Some(done) = done? {
                return Ok(Some(done));
            }
            must_be_over(cx, cell)?;
        }
        Err(GOING)
    }

    /// Publishes once to every channel whose name matches. Gives the sum of the open handles.
    pub fn publish_matching(&self, pattern: &str, payload: &[u8], form: Form) -> Result<u64> {
        let cx = self.0.world.cx()?;
        let mut heard = 0;
        for name in self.matching(cx, pattern)?.iter() {
            heard += self.publish(name, payload, form)?.unwrap_or(0);
        }
        Ok(heard)
    }

    /// Names that match, remembered while the directory's root word is the same.
    fn matching(&self, cx: Context<'_>, pattern: &str) -> Result<Arc<Vec<String>>> {
        let directory = self.directory(cx);
        let root = cx.word(directory.trie.root).load(Ordering::Acquire);
        if let Some(matches) = self.0.matches.try_lock()
            && matches.directory == root
            && let Some(names) = matches.by_pattern.get(pattern)
        {
            return Ok(names.clone());
        }
        let mut names = Vec::new();
        directory.each(|found| {
            let name = found.record.name();
            if pattern_matches(pattern, &name) {
                names.push(name);
            }
        })?;
        let names = Arc::new(names);
        // Only what was listed from an unchanged directory may be remembered for it.
        if cx.word(directory.trie.root).load(Ordering::Acquire) == root
            && let Some(mut matches) = self.0.matches.try_lock()
        {
            if matches.directory != root || matches.by_pattern.len() >= PATTERNS_REMEMBERED {
                matches.by_pattern.clear();
                matches.directory = root;
            }
            matches.by_pattern.insert(pattern.to_owned(), names.clone());
        }
        Ok(names)
    }
}

/// Something of a channel is sealed: its life is over, which is said before anything is sealed. Whoever found it
/// looks again, and will not find it open unless the segment is damaged.
pub(crate) fn must_be_over(cx: Context<'_>, cell: Cell) -> Result<()> {
    if cell.is_open(cx) { Err(Error::Corrupt { what: "a channel is sealed, and open" }) } else { Ok(()) }
}

impl From<Stop> for Error {
    fn from(stop: Stop) -> Error {
        match stop {
            Stop::Failed(error) => error,
            Stop::Moved => Error::Corrupt { what: "an entry moved while nothing changed" },
        }
    }
}
