//! Channels, presence and heartbeats together: what changes when a client comes and goes.
//!
//! Promise: a client that cannot come leaves nothing behind in any of the three, and takes nothing from one that was there.

use std::sync::Arc;

use crate::channels::Channels;
use crate::error::Result;
use crate::heartbeat::Heartbeats;
use crate::member::Metadata;
use crate::presence::{Part, Presence};
use crate::receiver::Receiver;
use crate::space::Context;
use crate::subscribing::Opened;
use crate::whereabouts;

/// The channels, the presence and the heartbeats of one world.
#[derive(Clone)]
pub struct Hub {
    channels: Channels,
    presence: Presence,
    heartbeats: Heartbeats,
}

impl Hub {
    /// Of these, which are of one world.
    pub const fn new(channels: Channels, presence: Presence, heartbeats: Heartbeats) -> Hub {
        Hub { channels, presence, heartbeats }
    }

    /// Its channels.
    pub const fn channels(&self) -> &Channels {
        &self.channels
    }

    fn cx(&self) -> Result<Context<'_>> {
        self.channels.world().cx()
    }

    /// Subscribes, tracks presence and registers the heartbeat of a client. `None`: there is no such channel. (Threads of one
    /// process that join one client to one channel at once share what they add, and if one fails, it may take out what another
    /// relies on. In Python the interpreter's lock is held all the while.)
    pub fn join(&self, channel: &str, client: &str, metadata: &Metadata, last_event_id: Option<&str>) -> Result<Option<Arc<Receiver>>> {
        let attached = self.channels.world().segment().attached()?;
        let cx = attached.0;
        let known = (client, cx.space.hash(client.as_bytes()));
        let Some(Opened { receiver, added }) = self.channels.subscribe_client(attached, channel, known, last_event_id)? else {
            return Ok(None);
        };
        let mut tracked = None;
        let arrived = self.presence.track_client(cx, channel, known, metadata).and_then(|member| {
            tracked = Some(member);
            // What came from a client is kept only where it is an id.
            let id = last_event_id.map(|_| receiver.last_id().to_string());
            self.heartbeats.register_client(cx, known, id.as_deref())
        });
        if let Err(error) = arrived {
            // What was done, and no more: a client may have been there in part, here or elsewhere.
            if tracked.is_some_and(|tracked| tracked.added.is_set()) {
                self.presence.remove_from(cx, channel, known, Part::Ours)?;
            }
            receiver.close()?;
            if added {
                self.channels.release(channel, client)?;
            }
            return Err(error);
        }
        Ok(Some(receiver))
    }

    /// Takes a client out of a channel; its heartbeat ends with its last channel.
    pub fn leave(&self, channel: &str, client: &str) -> Result<()> {
        let cx = self.cx()?;
        let client = (client, cx.space.hash(client.as_bytes()));
        self.heartbeats.expect(cx, client.1);
        self.presence.expect(cx, channel, client.1);
        self.channels.expect(cx, channel, client.1);
        self.channels.unsubscribe_client(cx, channel, client)?;
        self.presence.remove_from(cx, channel, client, Part::Everybodys)?;
        if !self.presence.is_client_anywhere(cx, client)? {
            self.heartbeats.unregister_client(cx, client)?;
        }
        Ok(())
    }

    /// Takes a client out of all channels; gives those it was in.
    pub fn disconnect(&self, client: &str) -> Result<Vec<Arc<str>>> {
        let cx = self.cx()?;
        let client = (client, cx.space.hash(client.as_bytes()));
        whereabouts::expect(cx, client.1.place());
        self.heartbeats.expect(cx, client.1);
        let left = self.presence.untrack_client(cx, client, |channel| self.channels.expect(cx, channel, client.1))?;
        for channel in &left {
            self.channels.unsubscribe_client(cx, channel, client)?;
        }
        self.heartbeats.unregister_client(cx, client)?;
        Ok(left)
    }
}

#[cfg(all(test, not(modelled)))]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::{Options, Segment, World};

    /// Who undoes a join that failed takes out what it added: only one of two may have added it.
    #[test]
    fn of_two_threads_that_join_at_once_one_adds_the_client() {
        let segment = Segment::private(&Options { size: 1 << 20, ..Options::default() }).expect("shared memory");
        let presence = Presence::new(&World::new(&segment, "").expect("room"));
        let cx = presence.world().cx().expect("attached");
        let client = ("alice", cx.space.hash(b"alice"));
        let (start, added, wrong) = (Barrier::new(2), AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for last in [false, true] {
                let (presence, start, added, wrong) = (&presence, &start, &added, &wrong);
                scope.spawn(move || {
                    for _ in 0..20_000 {
                        start.wait();
                        let tracked = presence.track_client(cx, "room", client, &Metadata::default()).expect("room");
                        added.fetch_add(u64::from(tracked.added.is_set()), Ordering::AcqRel);
                        start.wait();
                        if last {
                            let once = added.swap(0, Ordering::AcqRel) == 1;
                            let once = presence.untrack("room", "alice").expect("attached") && once;
                            wrong.fetch_add(u64::from(!once), Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(wrong.into_inner(), 0);
    }
}
