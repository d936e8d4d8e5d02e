//! Watching a channel's members: the whole list first, then every change, for each watcher by itself.
//!
//! A watcher keeps a mirror of the members and compares; nothing is kept for it in the segment, and
//! `flush_diff` takes nothing from it. Promise: whoever is there is in exactly one of what was told: joined
//! and not left since. What happens between two looks is told as the net change.

use std::sync::Arc;

use hashbrown::HashMap;

use crate::error::{Error, Result};
use crate::member::Member;
use crate::os::lock::{Guard, Lock};
use crate::presence::{Presence, member_of};
use crate::segment::Segment;
use crate::source::{Cells, Source};
use crate::space::Context;
use crate::sync::Ordering;
use crate::trie::{Delta, Mirror, Root, Trie};

/// The net change since the last look.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// Who joined, in order of joining.
    pub joins: Vec<Member>,
    /// Who left.
    pub leaves: Vec<String>,
    /// Who was there and is there, with other metadata or after leaving and joining again.
    pub updates: Vec<Member>,
}

struct State {
    mirror: Mirror<Member>,
    told: bool,
    closed: bool,
}

/// What a forked child finds where another thread of its parent was just looking.
impl Default for State {
    fn default() -> State {
        State { mirror: Mirror::default(), told: false, closed: true }
    }
}

/// A watcher of one channel's members.
pub struct Watch {
    presence: Presence,
    channel: Arc<str>,
    state: Lock<State>,
}

impl Watch {
    /// Watches from now on; the first change is the whole list.
    pub fn new(presence: &Presence, channel: &str) -> Result<Watch> {
        presence.world().segment().owns_something()?;
        let state = State { mirror: Mirror::default(), told: false, closed: false };
        Ok(Watch { presence: presence.clone(), channel: channel.into(), state: Lock::new(state) })
    }

    fn state(&self) -> Guard<'_, State> {
        self.state.lock()
    }

    /// The channel's members, while there are or were any.
    fn members<'a>(&self, cx: Context<'a>) -> Result<Option<(u32, Trie<'a>)>> {
        let found = self.presence.members(cx, &self.channel)?;
        Ok(found.filter(|(_, members)| members.root() != Root::Sealed).map(|(cell, members)| (cell.number(), members)))
    }

    /// The next change; `None`: there is none now.
    pub fn try_next(&self) -> Result<Option<Changes>> {
        let mut state = self.state();
        if state.closed {
            return Err(Error::HandleClosed);
        }
        let cx = self.presence.world().cx()?;
        let deltas = match self.members(cx)? {
            Some((_, members)) => {
                state.mirror.update(&members, &mut |entry, record| entry.is_live().then(|| member_of(cx, &self.channel, record)))?
            }
            None => state.mirror.clear(),
        };
        let changes = net(deltas);
        let first = !std::mem::replace(&mut state.told, true);
        Ok((first || changes != Changes::default()).then_some(changes))
    }

    /// The channel's name.
    pub fn channel(&self) -> &str {
        &self.channel
    }

    /// Was it closed?
    pub fn is_closed(&self) -> bool {
        self.state.look().closed
    }

    /// Ends watching; again is harmless.
    pub fn close(&self) {
        self.state().closed = true;
        if let Ok(cx) = self.presence.world().cx() {
            // Whoever waits here in another thread or task is to learn of it.
            self.cells().iter().for_each(|&cell| cx.tell(cell));
        }
    }
}

/// Each client's state before and after.
fn net(deltas: Vec<Delta<Member>>) -> Changes {
    let mut clients: HashMap<String, (Option<Member>, Option<Member>)> = HashMap::new();
    for delta in deltas {
        match delta {
            Delta::Removed(member) => {
                let entry = clients.entry(member.client().into_owned()).or_insert_with(|| (Some(member), None));
                entry.1 = None;
            }
            Delta::Added(member) => {
                let entry = clients.entry(member.client().into_owned()).or_default();
                entry.1 = Some(member);
            }
        }
    }
    let mut changes = Changes::default();
    for (client, change) in clients {
        match change {
            (None, Some(now)) => changes.joins.push(now),
            (Some(_), None) => changes.leaves.push(client),
            (Some(before), Some(now)) if before.encoded_metadata() != now.encoded_metadata() || before.joined_at != now.joined_at => {
                changes.updates.push(now)
            }
            _ => {}
        }
    }
    changes.joins.sort_by(|a, b| a.joined_at.total_cmp(&b.joined_at).then_with(|| a.client().cmp(&b.client())));
    changes.leaves.sort();
    changes.updates.sort_by(|a, b| a.client().cmp(&b.client()));
    changes
}

impl Source for Watch {
    fn segment(&self) -> &Segment {
        self.presence.world().segment()
    }

    fn cells(&self) -> Cells {
        // The world's news tells of groups that are made, or made again.
        let world = self.presence.world();
        let mut cells = Cells::from_slice(&[world.cell_number()]);
        if let Ok(cx) = world.cx() {
            cells.extend(self.members(cx).ok().flatten().map(|(cell, _)| cell));
        }
        cells
    }

    fn has_news(&self) -> Result<bool> {
        // Held: somebody is just looking.
        let Some(state) = self.state.try_look() else {
            return Ok(true);
        };
        if state.closed || !state.told {
            return Ok(true);
        }
        let cx = self.presence.world().cx()?;
        Ok(match self.members(cx)? {
            Some((_, members)) => cx.word(members.root).load(Ordering::Acquire) != state.mirror.word(),
            None => state.mirror.word() != 0,
        })
    }
}
