//! Who is not seen any more.
//!
//! Promise: each member that is evicted is given to one caller, and was not seen since that caller looked at the clock (see `seen`).

use crate::error::{Error, Result};
use crate::layout::{Block, Group};
use crate::os::clock;
use crate::owned::{TAKEN, seen_of, sweep_members};
use crate::points::point;
use crate::presence::Presence;
use crate::record::{Owners, Record};
use crate::space::Context;

/// Takes a member for stale if it is: before it is removed, so that whoever sees it in between is known here, or keeps it.
fn is_taken(cx: Context<'_>, record: &Record, now: u64, is_stale: impl Fn(u64) -> bool) -> bool {
    let taken = |value| is_stale(seen_of(value)).then_some(value | TAKEN);
    let value = cx.set_hot(record.reference, record.at, Block::hot0, taken);
    is_stale(value.map_or(now, seen_of))
}

impl Presence {
    /// Removes members not seen for `timeout_secs`; each is given to one caller.
    pub fn evict_stale(&self, timeout_secs: f64) -> Result<Vec<(String, String)>> {
        if timeout_secs.is_nan() || timeout_secs < 0.0 {
            return Err(Error::invalid("timeout_secs", timeout_secs, "0 or more seconds"));
        }
        let cx = self.world().cx()?;
        let mut groups = Vec::new();
        self.directory(cx).each(|found| groups.push((found.record.name(), found.cell)))?;
        let now = clock::tick_micros();
        let mut evicted = Vec::new();
        for (channel, cell) in groups {
            let members = cell.trie(cx, Group::members);
            let is_stale = |seen: u64| now.saturating_sub(seen) as f64 >= timeout_secs * 1e6;
            let left = sweep_members(&members, |record| is_taken(cx, record, now, is_stale).then(Owners::new))?;
            if !left.is_empty() {
                cx.news(cell.number());
            }
            for client in left {
                point!("stale.left");
                self.hint(cx, cx.space.hash(client.as_bytes()), cell).forget()?;
                evicted.push((channel.clone(), client));
            }
        }
        Ok(evicted)
    }
}

#[cfg(all(test, not(modelled)))]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use super::*;
    use crate::content::Content;
    use crate::owned::{replaced_member, take_over};
    use crate::seen::{keep_after_all, seen_since};
    use crate::space::owner;
    use crate::trie::{Change, Stop, Trie};
    use crate::{Metadata, Options, Segment, World};

    const AWAY: Duration = Duration::from_millis(60);

    fn presence() -> Presence {
        let segment = Segment::private(&Options { size: 1 << 20, ..Options::default() }).expect("room");
        Presence::new(&World::new(&segment, "").expect("room"))
    }

    fn alice() -> Metadata {
        [("name", "Alice")].into_iter().collect()
    }

    /// Who is seen after it was looked at, and before it is out. `who` says that it is there.
    fn seen_beside_an_eviction(before: bool, who: impl Fn(&Presence) -> bool) {
        let presence = presence();
        presence.track("room", "alice", &alice()).expect("room");
        std::thread::sleep(AWAY);
        let cx = presence.world().cx().expect("attached");
        let (_, members) = presence.members(cx, "room").expect("attached").expect("it is there");
        let (first, now) = (Cell::new(true), clock::tick_micros());
        let is_stale = |seen: u64| now.saturating_sub(seen) >= 50_000;
        let left = sweep_members(&members, |record| {
            let is_first = first.replace(false);
            if is_first && before {
                assert!(who(&presence));
            }
            let taken = is_taken(cx, record, now, is_stale);
            assert_eq!(taken, is_first && !before);
            if is_first && !before {
                assert!(who(&presence));
            }
            taken.then(Owners::new)
        });
        assert_eq!(left.expect("attached"), Vec::<String>::new());
        assert!(presence.get("room", "alice").expect("attached").is_some(), "seen just now, and gone");
        assert_eq!(presence.evict_stale(0.05).expect("attached"), []);
        // What was set for it does not stay for ever.
        std::thread::sleep(AWAY);
        assert_eq!(presence.evict_stale(0.05).expect("attached").len(), 1);
        assert_eq!(presence.world().segment().check().expect("attached"), Vec::<String>::new());
    }

    #[test]
    fn whoever_is_seen_while_it_is_taken_for_stale_stays() {
        for before in [true, false] {
            seen_beside_an_eviction(before, |presence| presence.track("room", "alice", &alice()).is_ok());
            seen_beside_an_eviction(before, |presence| presence.update("room", "alice", &alice()).expect("attached"));
            seen_beside_an_eviction(before, |presence| presence.touch("room", "alice").expect("attached"));
        }
    }

    fn members_of(presence: &Presence) -> Trie<'_> {
        let cx = presence.world().cx().expect("attached");
        presence.members(cx, "room").expect("attached").expect("it is there").1
    }

    /// Who tells other things of it has looked at the clock before, and swaps afterwards.
    #[test]
    fn when_it_was_seen_only_grows() {
        let presence = presence();
        presence.track("room", "alice", &alice()).expect("room");
        let members = members_of(&presence);
        let (cx, place) = (members.cx, members.cx.space.hash(b"alice").place());
        let touch = || assert!(presence.touch("room", "alice").expect("attached"));
        let told = members.change_record(place, b"alice", |found| {
            let (entry, record) = found.ok_or(Stop::Moved)?;
            let (before, content) = (seen_since(0), Content::new(&record.owners, record.key(), b"12345678"));
            std::thread::sleep(AWAY);
            touch();
            Ok((take_over(cx, &entry, record.at, cx.new_record(members.root, place, &content)?, before), ()))
        });
        assert_eq!(told.expect("room"), Some(()));
        assert_eq!(presence.evict_stale(0.05).expect("attached"), []);
        // As of a clock that was read long before.
        assert!(keep_after_all(&members, (place, "alice"), 2).expect("room"));
        assert_eq!(presence.evict_stale(0.05).expect("attached"), []);
        for _ in 0..100 {
            presence.untrack("room", "bob").expect("attached");
            presence.track("room", "bob", &alice()).expect("room");
            let place = cx.space.hash(b"bob").place();
            let taken = members.change_record(place, b"bob", |found| {
                let (_, record) = found.ok_or(Stop::Moved)?;
                cx.set_hot(record.reference, record.at, Block::hot0, |value| Some(value | TAKEN));
                Ok((Change::Keep, ()))
            });
            assert_eq!(taken.expect("attached"), Some(()));
            assert!(presence.touch("room", "bob").expect("attached"));
            let bob = presence.get("room", "bob").expect("attached").expect("it is there");
            assert!(bob.last_seen >= bob.joined_at, "seen {} s before it joined", bob.joined_at - bob.last_seen);
        }
    }

    /// Somebody has died who was about to remove it, and no block is left, nor one of the reserve.
    #[test]
    fn whoever_is_seen_in_a_full_segment_stays() {
        let long: Metadata = [("name", "x".repeat(400))].into_iter().collect();
        for (metadata, calls) in [(alice(), 3), (long, 1)] {
            for call in 0..calls {
                let presence = presence();
                presence.track("room", "alice", &metadata).expect("room");
                let members = members_of(&presence);
                let (cx, place) = (members.cx, members.cx.space.hash(b"alice").place());
                let (_, record) = members.get(place, b"alice").expect("attached").expect("it is there");
                cx.set_hot(record.reference, record.at, Block::hot0, |value| Some(value | TAKEN));
                while let Ok(held) = cx.allocate_for_less(crate::arena::SMALL) {
                    cx.make_live(&held);
                }
                std::thread::sleep(AWAY);
                match call {
                    0 => assert!(presence.touch("room", "alice").expect("no room is needed")),
                    1 => drop(presence.track("room", "alice", &metadata).expect("no room is needed")),
                    _ => assert!(presence.update("room", "alice", &metadata).expect("no room is needed")),
                }
                assert_eq!(presence.evict_stale(0.05).expect("attached"), []);
            }
        }
    }

    /// While a dead owner is taken off its record.
    #[test]
    fn whoever_is_seen_while_its_record_is_replaced_was_seen() {
        let presence = presence();
        presence.track("room", "alice", &alice()).expect("room");
        std::thread::sleep(AWAY);
        let cx = presence.world().cx().expect("attached");
        let (_, members) = presence.members(cx, "room").expect("attached").expect("it is there");
        let (rounds, owners) = (Cell::new(0), [cx.actor.owner, owner(1, 9)]);
        let place = cx.space.hash(b"alice").place();
        let replaced = members.change_record(place, b"alice", |found| {
            let (entry, record) = found.ok_or(Stop::Moved)?;
            let change = replaced_member(&members, &entry, record, &owners)?;
            if rounds.replace(rounds.get() + 1) == 0 {
                assert!(presence.touch("room", "alice").expect("attached"));
            }
            Ok((change, ()))
        });
        assert_eq!((replaced.expect("room"), rounds.get()), (Some(()), 2));
        let member = presence.get("room", "alice").expect("attached").expect("it is there");
        assert!(member.last_seen - member.joined_at > 0.05, "what was seen is lost");
        assert_eq!(presence.evict_stale(0.05).expect("attached"), []);
    }
}
