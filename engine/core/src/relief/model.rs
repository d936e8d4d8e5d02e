//! An owner of handles on a pattern as the model checkers' threads play it: the steps of `PatternReceiver` and `anchor_all`
//! with a channel that was found already, without the lists of channels and without a kernel.

use super::{finish, given_up};
use crate::cells::Cell;
use crate::content::Content;
use crate::error::Result;
use crate::handles::{HandleId, HandleKey, Made, Note, UNSEEN, anchor, handle_of, take_up, unanchor};
use crate::layout::{Channel, World, cell_kind};
use crate::record::pair_of;
use crate::space::Context;
use crate::trie::Change;

const PATTERN: &str = "#";

/// A new channel's cell and ring of two, where need be after making room for it.
pub fn new_channel(cx: Context<'_>, directory: usize, ident: u64) -> Result<Cell> {
    super::new_channel(cx, cell_kind::CHANNEL, directory, ident, 1, 0, 0)
}

/// A handle on a pattern that every name matches.
#[derive(Clone, Debug)]
pub struct Listener {
    world: Cell,
    client: String,
    id: HandleId,
}

impl Listener {
    /// Registers one in a world.
    pub fn register(cx: Context<'_>, world: Cell, client: &str) -> Result<Listener> {
        let listener = Listener { world, client: client.to_owned(), id: HandleId::of(cx, client, cx.actor.owner, 0) };
        let (place, pair) = pair_of(cx, PATTERN, &listener.key().text());
        let registrations = world.trie(cx, World::patterns);
        registrations.change_record(place, &pair, |_| {
            let owners = [cx.actor.owner];
            let content = Content::new(&owners, &pair, &[]);
            Ok((Change::Put(0, cx.new_record(registrations.root, place, &content)?), ()))
        })?;
        Ok(listener)
    }

    fn key(&self) -> HandleKey<'_> {
        self.id.key(self.client.as_bytes())
    }

    /// What the creator of a channel does for it. False: the channel is gone.
    pub fn anchor(&self, cx: Context<'_>, cell: Cell, in_time: bool) -> Result<bool> {
        let made = if in_time { Made::InTime } else { Made::Late };
        let note = Note { made, pattern: PATTERN.into(), name: String::new() };
        Ok(anchor(cx, cell, self.key(), &note.encode(), UNSEEN)?.is_some())
    }

    /// What its owner does with a removed channel: receives all that is left, or leaves it to who has given it up. Gives how
    /// many messages it received.
    pub fn look(&self, cx: Context<'_>, cell: Cell) -> Result<u64> {
        if !cell.is_over(cx) || handle_of(cx, cell, self.key())?.is_none() {
            return Ok(0);
        }
        let Some(handle) = anchor(cx, cell, self.key(), &[], UNSEEN)? else {
            return Ok(0);
        };
        let start = cx.view().get(cell.at() + Channel::start);
        if take_up(cx, cell, (handle.reference, handle.at), start, start) {
            cell.seal(cx)?;
            let ring = cell.ring(cx)?;
            let left = ring.map_or(0, |ring| ring.head(cx).wrapping_sub(start));
            unanchor(cx, cell, self.key())?;
            return Ok(left);
        }
        if let Some(record) = handle_of(cx, cell, self.key())? {
            finish(cx, cell, self.key(), &record)?;
            unanchor(cx, cell, self.key())?;
        }
        Ok(0)
    }

    /// Messages given up in its name.
    pub fn given_up(&self, cx: Context<'_>) -> Result<u64> {
        let (place, pair) = pair_of(cx, PATTERN, &self.key().text());
        let found = self.world.trie(cx, World::patterns).get(place, &pair)?;
        Ok(found.and_then(|(_, record)| given_up(cx, (record.reference, record.at))).unwrap_or(0))
    }
}
