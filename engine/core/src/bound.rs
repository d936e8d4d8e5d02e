//! What publishing and receiving share: a channel found once, and what a message is.

use crate::cells::Cell;
use crate::error::Result;
use crate::layout::{Channel, kind};
use crate::ring::Ring;
use crate::space::Context;
use crate::sync::Ordering;
use crate::view::CellWords;

/// What a message was published as; it comes out as the same. A whole word, as what it is passed on with is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Form {
    /// UTF-8.
    Text,
    /// Any bytes.
    Bytes,
}

impl Form {
    pub(crate) const fn kind(self) -> u64 {
        match self {
            Form::Text => kind::TEXT,
            Form::Bytes => kind::BYTES,
        }
    }
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

/// A channel's cell and ring, found once and valid while the cell's life is open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    pub cell: Cell,
    pub ring: Ring,
    pub flags: u64,
    pub window: u64,
    /// The state word of its cell if it was open, else one that no cell has.
    open: u64,
}

impl Bound {
    /// The words of its cell.
    #[inline(always)]
    pub fn words<'a>(&self, cx: Context<'a>) -> Option<&'a CellWords> {
        cx.view().array(self.cell.at())
    }

    /// Is it in use under its name, by the state word of its cell?
    #[inline(always)]
    pub fn is_open_as(&self, word: u64) -> bool {
        // Most often it is as it was.
        word == self.open || self.cell.is_open_as(word)
    }
}

/// Where a channel is, and how it was made. `None`: this life of it is over.
pub(crate) fn bound_of(cx: Context<'_>, cell: Cell) -> Result<Option<Bound>> {
    let flags = cx.view().get(cell.at() + Channel::config) >> 8 & 0xff;
    let window = cx.view().get(cell.at() + Channel::window);
    // It tells whether what was read before is of this life; the state word after it tells its own.
    Ok(cell.ring(cx)?.map(|ring| {
        let word = cx.word(cell.at()).load(Ordering::Acquire);
        let open = if cell.is_open_as(word) { word } else { u64::MAX };
        Bound { cell, ring, flags, window, open }
    }))
}
