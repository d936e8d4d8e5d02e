//! Who listens to channels: registering clients, and opening handles.
//!
//! Promise: who cannot come is registered no more than before.

use std::sync::Arc;

use crate::bound::Bound;
use crate::channels::{Channels, GOING, PATIENCE, must_be_over};
use crate::error::Result;
use crate::handles::{HandleId, end_handles, first_of, register};
use crate::ids::{self, Start};
use crate::layout::Channel;
use crate::owned::release_owner;
use crate::patterns::PatternReceiver;
use crate::points::point;
use crate::receiver::Receiver;
use crate::segment::Attached;
use crate::space::{Client, Context, Hash};
use crate::world::check_length;

/// What subscribing has done.
pub(crate) struct Opened {
    pub receiver: Arc<Receiver>,
    /// Has this process a part in the client's registration that it had not before?
    pub added: bool,
}

impl Channels {
    /// Registers a client and opens a handle that receives what is published from now on, or what was
    /// published after an event id.
    pub fn subscribe(&self, name: &str, client: &str, last_event_id: Option<&str>) -> Result<Option<Arc<Receiver>>> {
        let attached = self.world().segment().attached()?;
        let hash = attached.0.space.hash(client.as_bytes());
        Ok(self.subscribe_client(attached, name, (client, hash), last_event_id)?.map(|opened| opened.receiver))
    }

    /// As `subscribe`, where the client's hash is known.
    pub(crate) fn subscribe_client(
        &self,
        attached: Attached<'_>,
        name: &str,
        client: Client<'_>,
        last_event_id: Option<&str>,
    ) -> Result<Option<Opened>> {
        check_length("client_id", client.0)?;
        self.open(attached, name, client, true, last_event_id)
    }

    /// Opens a handle without registering anybody.
    pub fn open_handle(&self, name: &str, last_event_id: Option<&str>) -> Result<Option<Arc<Receiver>>> {
        let attached = self.world().segment().attached()?;
        let hash = attached.0.space.hash(&[]);
        Ok(self.open(attached, name, ("", hash), false, last_event_id)?.map(|opened| opened.receiver))
    }

    fn open(
        &self,
        attached: Attached<'_>,
        name: &str,
        client: Client<'_>,
        registered: bool,
        last_event_id: Option<&str>,
    ) -> Result<Option<Opened>> {
        let cx = attached.0;
        for _ in 0..PATIENCE {
            let Some(bound) = self.bind(cx, name)? else {
                return Ok(None);
            };
            let added = if registered { register(cx, bound.cell, client, true)? } else { Some(false) };
            if let Some(added) = added {
                point!("subscribe.registered");
                match self.open_at(attached, &bound, name, client, registered, last_event_id) {
                    Ok(Some(receiver)) => return Ok(Some(Opened { receiver, added })),
                    Ok(None) => {}
                    Err(error) => {
                        // Who cannot come is registered no more than before.
                        if added {
                            release_owner(&bound.cell.trie(cx, Channel::subscribers), client.0)?;
                        }
                        return Err(error);
                    }
                }
            }
            must_be_over(cx, bound.cell)?;
        }
        Err(GOING)
    }

    /// The handle itself. `None`: the channel is gone.
    fn open_at(
        &self,
        attached: Attached<'_>,
        bound: &Bound,
        name: &str,
        (client, hash): Client<'_>,
        registered: bool,
        last_event_id: Option<&str>,
    ) -> Result<Option<Arc<Receiver>>> {
        let segment = self.world().segment();
        segment.owns_something()?;
        let start = match last_event_id {
            Some(id) => ids::after(attached.0, bound, id),
            None => Start { cursor: bound.ring.head(attached.0), missed: 0, unknown: false },
        };
        Receiver::open((segment, attached), bound, (name, client), HandleId::hashed(attached.0, hash), registered, start)
    }

    /// Opens a handle that receives from every channel that matches a pattern, those created later included.
    pub fn subscribe_pattern(&self, pattern: &str, client: &str) -> Result<PatternReceiver> {
        let directory = self.directory(self.world().cx()?).trie.root;
        PatternReceiver::open(self.world(), directory, self.patterns(), pattern, client)
    }

    /// Ends this process's part in a client's registration, which ends with its last. The handles stay.
    pub fn release(&self, name: &str, client: &str) -> Result<()> {
        let cx = self.world().cx()?;
        let Some(bound) = self.bind(cx, name)? else {
            return Ok(());
        };
        release_owner(&bound.cell.trie(cx, Channel::subscribers), client).map(drop)
    }

    /// Ends a client's registration and the delivery to all its handles. False: it had none.
    pub fn unsubscribe(&self, name: &str, client: &str) -> Result<bool> {
        let cx = self.world().cx()?;
        self.unsubscribe_client(cx, name, (client, cx.space.hash(client.as_bytes())))
    }

    /// Asks for what is kept in a channel of a client who is about to go, where the channel is known.
    pub(crate) fn expect(&self, cx: Context<'_>, name: &str, client: Hash) {
        if let Some(bound) = self.known(cx, name) {
            bound.cell.trie(cx, Channel::subscribers).expect(client.place());
            bound.cell.trie(cx, Channel::handles).expect(first_of(client));
        }
    }

    /// As `unsubscribe`, where the client's hash is known.
    pub(crate) fn unsubscribe_client(&self, cx: Context<'_>, name: &str, (client, hash): Client<'_>) -> Result<bool> {
        let Some(bound) = self.bind(cx, name)? else {
            return Ok(false);
        };
        let subscribers = bound.cell.trie(cx, Channel::subscribers);
        let removed = subscribers.remove(hash.place(), |value| cx.has_key(value, client.as_bytes()))?;
        if removed {
            point!("unsubscribe.removed");
            end_handles(cx, &bound, (client, hash))?;
        }
        Ok(removed)
    }

    /// The registered clients; `None`: no such channel.
    pub fn subscribers(&self, name: &str) -> Result<Option<Vec<String>>> {
        let cx = self.world().cx()?;
        let Some(bound) = self.bind(cx, name)? else {
            return Ok(None);
        };
        let mut clients = Vec::new();
        bound.cell.trie(cx, Channel::subscribers).records(|_, record| clients.push(record.name()))?;
        Ok(Some(clients))
    }
}
