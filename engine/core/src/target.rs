//! A channel that was found, for who publishes to it again and again: where it is, and how many handles it had under which root.
//!
//! Only memory: the cell's state word says whether this life of it is still open, the root word of its handles whether the
//! count still holds. So one that is stale publishes nothing, and counts anew.

use std::rc::Rc;

use crate::arena::{Held, Info};
use crate::bound::{Bound, FAIL_WHEN_UNHEARD, Form, Sent};
use crate::dedup;
use crate::error::Result;
use crate::hint::cold_path;
use crate::layout::Channel;
use crate::points::point;
use crate::ring::Tried;
use crate::space::Context;
use crate::sync::Ordering;
use crate::view::CellWords;

/// A channel that was found.
#[derive(Clone)]
pub struct Target {
    /// Whose it is.
    facade: u64,
    /// Where it is. Not copied: it would be passed on from hand to hand.
    pub(crate) bound: Rc<Bound>,
    /// The root word of its handles when they were counted, and the count.
    heard: (u64, u64),
}

impl Target {
    /// A facade's channel.
    pub(crate) const fn of(facade: u64, bound: Rc<Bound>) -> Target {
        Target { facade, bound, heard: (0, 0) }
    }

    /// Is it this facade's?
    #[inline(always)]
    pub(crate) const fn is_of(&self, facade: u64) -> bool {
        self.facade == facade
    }

    /// Publishes, and gives how many handles are open. `None`: the channel is gone, and nothing was published.
    #[inline(always)]
    pub(crate) fn publish(&mut self, cx: Context<'_>, payload: &[u8], form: Form) -> Result<Option<u64>> {
        match self.publish_at_once(cx, payload, form) {
            Ok(heard) => Ok(Some(heard)),
            Err(left) => self.publish_rest(cx, payload, form, left),
        }
    }

    /// The same, if there is nothing unusual about it. (A function of this and nothing else: a result that may come from elsewhere,
    /// too, is kept in memory.)
    #[inline(always)]
    pub(crate) fn publish_at_once<'a>(&self, cx: Context<'a>, payload: &[u8], form: Form) -> std::result::Result<u64, Left<'a>> {
        let cell = put_at_once(cx, &self.bound, payload, form).map_err(Left::Publish)?;
        self.remembered(cell).ok_or(Left::Count)
    }

    /// What `publish_at_once` left to be done.
    #[inline(never)]
    pub(crate) fn publish_rest(&mut self, cx: Context<'_>, payload: &[u8], form: Form, left: Left<'_>) -> Result<Option<u64>> {
        let put = match left {
            Left::Publish(rest) => put_rest(cx, &self.bound, payload, form, None, rest)?,
            Left::Count => Put::Done,
        };
        if put == Put::Done { self.heard(cx).map(Some) } else { Ok(None) }
    }

    /// Publishes under the channel's policy and, with an id, once within its dedup window.
    #[inline(always)]
    pub(crate) fn send(&mut self, cx: Context<'_>, payload: &[u8], form: Form, id: Option<&str>) -> Result<Option<Sent>> {
        let at = self.bound.cell.at();
        let counted = |field| {
            cx.word(at + field).fetch_add(1, Ordering::Relaxed);
        };
        if self.bound.flags & FAIL_WHEN_UNHEARD != 0 && self.bound.cell.is_open(cx) && self.heard(cx)? == 0 {
            counted(Channel::refused);
            return Ok(Some(Sent::Unheard));
        }
        let put = match put_at_once(cx, &self.bound, payload, form) {
            Ok(_) => Put::Done,
            Err(rest) => put_rest(cx, &self.bound, payload, form, id, rest)?,
        };
        Ok(match put {
            Put::Done => {
                let heard = self.heard(cx)?;
                if heard == 0 {
                    counted(Channel::dropped);
                }
                Some(Sent::Delivered(heard))
            }
            Put::Duplicate => {
                counted(Channel::deduped);
                Some(Sent::Duplicate)
            }
            Put::Gone => None,
        })
    }

    /// How many handles are open, as remembered, if that still holds.
    #[inline(always)]
    fn remembered(&self, cell: &CellWords) -> Option<u64> {
        let root = cell[Channel::handles].load(Ordering::Acquire);
        (root == self.heard.0).then_some(self.heard.1)
    }

    /// How many handles are open.
    #[inline(always)]
    fn heard(&mut self, cx: Context<'_>) -> Result<u64> {
        match self.bound.words(cx).and_then(|cell| self.remembered(cell)) {
            Some(heard) => Ok(heard),
            None => self.count(cx),
        }
    }

    /// Counts them, which is remembered with their root word.
    #[cold]
    #[inline(never)]
    fn count(&mut self, cx: Context<'_>) -> Result<u64> {
        let handles = self.bound.cell.trie(cx, Channel::handles);
        let root = cx.word(handles.root).load(Ordering::Acquire);
        let count = handles.live()?;
        // A count of a later root under this one's word is found out the next time.
        if cx.word(handles.root).load(Ordering::Acquire) == root {
            self.heard = (root, count);
        }
        Ok(count)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
enum Put {
    Done,
    Duplicate,
    Gone,
}

/// What `put_at_once` leaves: a message that is stored, or one that is not.
type Rest<'a> = Option<Held<'a>>;

/// What is left of publishing.
#[derive(Clone, Copy)]
pub(crate) enum Left<'a> {
    Publish(Rest<'a>),
    /// It is published; to count who hears it.
    Count,
}

/// Stores a short message and publishes it, to a channel that keeps no ids and that nobody else publishes to just now.
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
        // Room is made for what is long, which nobody would have.
        None if !bound.cell.is_open(cx) => return Ok(Put::Gone),
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
