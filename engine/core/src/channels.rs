//! Channels and broadcasts by name: create, remove, publish, and what is known of them.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64 as PrivateU64, Ordering as PrivateOrdering};

use hashbrown::HashMap;

use crate::arena::{Held, Info};
use crate::bound::{Bound, Form, bound_of};
use crate::cells::Cell;
use crate::dedup;
use crate::directory::Directory;
use crate::error::{Error, Result};
use crate::geometry::Geometry;
use crate::handles::Made;
use crate::hint::cold_path;
use crate::layout::{Channel, MAX_RING_LOG2, World as WorldCell, cell_kind};
use crate::names;
use crate::os::lock::Lock;
use crate::patterns::anchor_all;
use crate::points::point;
use crate::record::encode_pairs;
use crate::relief;
use crate::ring::Tried;
use crate::space::Context;
use crate::sync::Ordering;
use crate::topics::{Topics, TopicsKind, pattern_matches};
use crate::trie::Stop;
use crate::view::CellWords;
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

/// What became of a `send`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// There is no such channel.
    Unknown,
    /// The id was seen within the window: not sent.
    Duplicate,
    /// Nobody listens and the policy is to fail: not sent.
    Unheard,
    /// Sent to this many open handles.
    Delivered(u64),
}

/// Flag in a channel's config: `send` refuses when nobody listens.
pub(crate) const FAIL_WHEN_UNHEARD: u64 = 1;
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
    fn known(&self, cx: Context<'_>, name: &str) -> Option<Rc<Bound>> {
        // Stale memory is harmless: the cell's state word says whether this life is still open.
        names::recall(self.0.facade, name, |known| known.bound.clone()).filter(|bound| bound.cell.is_open(cx))
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
            cold_path();
            return self.publish_rest(cx, name, payload, form, Left::Publish(None));
        }
        // In place: most publishing is to channels that the thread knows.
        let mut left = Left::Count;
        let heard = names::recall(self.0.facade, name, |known| match put_at_once(cx, &known.bound, payload, form) {
            Ok(cell) => known.heard_in(cell),
            Err(rest) => {
                cold_path();
                left = Left::Publish(rest);
                None
            }
        });
        if let Some(Some(heard)) = heard {
            return Ok(Some(heard));
        }
        cold_path();
        match heard {
            None => self.publish_unknown(cx, name, payload, form),
            Some(_) => self.publish_rest(cx, name, payload, form, left),
        }
    }

    /// What is left to be done. (Nothing in between makes the thread forget a name.)
    #[inline(never)]
    fn publish_rest(&self, cx: Context<'_>, name: &str, payload: &[u8], form: Form, left: Left<'_>) -> Result<Option<u64>> {
        // Allocating, relieving and reaping look for no names.
        let done = names::recall(self.0.facade, name, |known| -> Result<_> {
            let put = match left {
                Left::Publish(rest) => put_rest(cx, &known.bound, payload, form, None, rest)?,
                Left::Count => Put::Done,
            };
            Ok((put == Put::Done).then(|| known.heard_now(cx).ok_or_else(|| known.bound.clone())))
        });
        match done.transpose()?.flatten() {
            Some(Ok(heard)) => Ok(Some(heard)),
            Some(Err(bound)) => self.count_handles(cx, name, &bound).map(Some),
            None => self.publish_unknown(cx, name, payload, form),
        }
    }

    /// To a channel that this thread does not remember, or remembers wrongly.
    #[cold]
    #[inline(never)]
    fn publish_unknown(&self, cx: Context<'_>, name: &str, payload: &[u8], form: Form) -> Result<Option<u64>> {
        for _ in 0..PATIENCE {
            let Some(bound) = self.bind(cx, name)? else {
                return Ok(None);
            };
            if put(cx, &bound, payload, form, None)? == Put::Done {
                return self.count_handles(cx, name, &bound).map(Some);
            }
            must_be_over(cx, bound.cell)?;
        }
        Err(GOING)
    }

    /// How many handles are open, which is remembered with their root word.
    #[inline(never)]
    fn count_handles(&self, cx: Context<'_>, name: &str, bound: &Bound) -> Result<u64> {
        let handles = bound.cell.trie(cx, Channel::handles);
        let root = cx.word(handles.root).load(Ordering::Acquire);
        let count = handles.live()?;
        // A count of a later root under this one's word is found out at the next publish.
        if cx.word(handles.root).load(Ordering::Acquire) == root {
            let remember = |known: &mut names::Known| {
                if known.bound.cell == bound.cell {
                    known.heard = (root, count);
                }
            };
            names::recall(self.0.facade, name, remember);
        }
        Ok(count)
    }

    /// Publishes under the channel's policy and, with an id, once within its dedup window.
    pub fn send(&self, name: &str, payload: &[u8], form: Form, id: Option<&str>) -> Result<Sent> {
        let cx = self.0.world.cx()?;
        let tried = names::recall(self.0.facade, name, |known| -> Result<_> {
            Ok(try_send(cx, &known.bound, payload, form, id)?.map(|put| {
                // Where somebody hears it, how many is all there is to say.
                (put == Put::Done).then(|| known.heard_now(cx).filter(|&heard| heard > 0).ok_or_else(|| known.bound.clone()))
            }))
        });
        match tried.transpose()? {
            Some(Ok(Some(Ok(heard)))) => return Ok(Sent::Delivered(heard)),
            Some(Ok(Some(Err(bound)))) => return self.delivered(cx, name, &bound),
            Some(Err(sent)) => return Ok(sent),
            Some(Ok(None)) | None => {}
        }
        for _ in 0..PATIENCE {
            let Some(bound) = self.bind(cx, name)? else {
                return Ok(Sent::Unknown);
            };
            match try_send(cx, &bound, payload, form, id)? {
                Ok(Put::Done) => return self.delivered(cx, name, &bound),
                Ok(_) => {}
                Err(sent) => return Ok(sent),
            }
        }
        Err(GOING)
    }

    /// What was sent and is not known to be heard.
    #[inline(never)]
    fn delivered(&self, cx: Context<'_>, name: &str, bound: &Bound) -> Result<Sent> {
        let heard = self.count_handles(cx, name, bound)?;
        if heard == 0 {
            cx.word(bound.cell.at() + Channel::dropped).fetch_add(1, Ordering::Relaxed);
        }
        Ok(Sent::Delivered(heard))
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

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
enum Put {
    Done,
    Duplicate,
    Gone,
}

/// Sends under the channel's policy. `Err`: what became of it instead.
#[inline(always)]
fn try_send(cx: Context<'_>, bound: &Bound, payload: &[u8], form: Form, id: Option<&str>) -> Result<std::result::Result<Put, Sent>> {
    let counted = |field| {
        cx.word(bound.cell.at() + field).fetch_add(1, Ordering::Relaxed);
    };
    if bound.flags & FAIL_WHEN_UNHEARD != 0 && bound.cell.is_open(cx) && bound.cell.trie(cx, Channel::handles).live()? == 0 {
        counted(Channel::refused);
        return Ok(Err(Sent::Unheard));
    }
    Ok(match put(cx, bound, payload, form, id)? {
        Put::Duplicate => {
            counted(Channel::deduped);
            Err(Sent::Duplicate)
        }
        put => Ok(put),
    })
}

/// Something of a channel is sealed: its life is over, which is said before anything is sealed. Whoever found it
/// looks again, and will not find it open unless the segment is damaged.
pub(crate) fn must_be_over(cx: Context<'_>, cell: Cell) -> Result<()> {
    if cell.is_open(cx) { Err(Error::Corrupt { what: "a channel is sealed, and open" }) } else { Ok(()) }
}

/// Stores a message and publishes it.
#[inline(always)]
fn put(cx: Context<'_>, bound: &Bound, payload: &[u8], form: Form, id: Option<&str>) -> Result<Put> {
    match put_at_once(cx, bound, payload, form) {
        Ok(_) => Ok(Put::Done),
        Err(rest) => put_rest(cx, bound, payload, form, id, rest),
    }
}

/// What `put_at_once` leaves: a message that is stored, or one that is not.
type Rest<'a> = Option<Held<'a>>;

/// What is left to be done.
#[derive(Clone, Copy)]
enum Left<'a> {
    Publish(Rest<'a>),
    /// It is published; to count who hears it.
    Count,
}

/// Stores a short message and publishes it, to a channel that keeps no ids and that nobody else publishes to just now. (A
/// function of what is usual, and nothing else: a result that may come from elsewhere, too, is kept in memory.)
#[inline(always)]
fn put_at_once<'a>(cx: Context<'a>, bound: &Bound, payload: &[u8], form: Form) -> std::result::Result<&'a CellWords, Rest<'a>> {
    if bound.window > 0 {
        cold_path();
        return Err(None);
    }
    let cell = bound.words(cx).ok_or(None)?;
    let message = cx.store_short(Info::new(form.kind(), 0, 0, 0), u64::from(bound.cell.number()), 0, payload).ok_or(None)?;
    point!("publish.stored");
    let Tried::Done(_) = bound.ring.try_to_publish(cx, cell, message, |word| bound.is_open_as(word), |_| true) else {
        return Err(Some(message));
    };
    point!("publish.done");
    cx.news(bound.cell.number());
    Ok(cell)
}

/// The rest: what is long, what has an id, what others were in the way of.
#[inline(never)]
fn put_rest(cx: Context<'_>, bound: &Bound, payload: &[u8], form: Form, id: Option<&str>, rest: Rest<'_>) -> Result<Put> {
    if bound.window > 0 {
        return put_once(cx, bound, payload, form, id);
    }
    let message = match rest {
        Some(message) => message,
        None => cx.store(Info::new(form.kind(), 0, 0, 0), u64::from(bound.cell.number()), 0, &[], payload)?,
    };
    point!("publish.stored");
    let published = bound.ring.publish(cx, message, |word| bound.is_open_as(word), |_| true);
    told(cx, bound, message, published, Ok(Put::Gone))
}

/// To a channel that keeps ids: once within its window.
fn put_once(cx: Context<'_>, bound: &Bound, payload: &[u8], form: Form, id: Option<&str>) -> Result<Put> {
    let mark = id.map(|id| dedup::Mark::of(cx, id));
    let (prefix, words): ([u64; 2], usize) = mark.map_or(([0; 2], 0), |mark| (mark.words(0), 2));
    let info = Info::new(form.kind(), words as u64, 0, 0);
    let message = cx.store(info, u64::from(bound.cell.number()), 0, &prefix[..words], payload)?;
    let mut refused = Ok(Put::Gone);
    point!("publish.stored");
    let admit = |sequence| {
        let admitted = dedup::admit(cx, bound, &message, mark, sequence);
        let is_admitted = admitted == Ok(true);
        if !is_admitted {
            refused = admitted.map(|_| Put::Duplicate);
        }
        is_admitted
    };
    let published = bound.ring.publish(cx, message, |word| bound.is_open_as(word), admit);
    told(cx, bound, message, published, refused)
}

/// Tells of what was published, and gives back what was not: what became of it then is known.
#[inline(always)]
fn told(cx: Context<'_>, bound: &Bound, message: Held<'_>, published: Result<Option<u64>>, refused: Result<Put>) -> Result<Put> {
    if let Ok(Some(_)) = published {
        point!("publish.done");
        cx.news(bound.cell.number());
        return Ok(Put::Done);
    }
    cx.free(message.reference);
    published.and(refused)
}

impl From<Stop> for Error {
    fn from(stop: Stop) -> Error {
        match stop {
            Stop::Failed(error) => error,
            Stop::Moved => Error::Corrupt { what: "an entry moved while nothing changed" },
        }
    }
}
