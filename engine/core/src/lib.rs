//! The engine of hypern_realtime_shm: channels, presence, topic patterns, broadcast and heartbeats in
//! one shared-memory segment that any number of processes attach to. No broker, no locks, no Python.
//!
//! ```
//! use hypern_shm_core::{ChannelKind, ChannelSpec, Channels, Form, Options, Segment, World};
//! # fn main() -> hypern_shm_core::Result<()> {
//! let segment = Segment::private(&Options { size: 1 << 20, ..Options::default() })?;
//! let channels = Channels::new(&World::new(&segment, "")?, ChannelKind::Channel);
//! let spec = ChannelSpec { buffer_size: 256, metadata: vec![], fail_when_unheard: false, dedup_window: None };
//! channels.create("chat:general", &spec)?;
//! let alice = channels.subscribe("chat:general", "alice", None)?.expect("it was just made");
//! assert_eq!(channels.publish("chat:general", b"Hello!", Form::Text)?, Some(1));
//! let mut message = Vec::new();
//! let received = alice.try_recv(&mut message)?.expect("it was just published");
//! assert_eq!(received.form, Form::Text);
//! assert_eq!(message, b"Hello!");
//! # Ok(()) }
//! ```
//!
//! Under `--cfg modelled` (and `loom` or `shuttle`, see `sync`) only what needs no kernel is there.
//!
//! Layers, each of which only uses those above it: `sync`, `layout`, `geometry` · `os`, `view` ·
//! `space` · `lives`, `arena`, `content`, `record` · `ring`, `trie` · `cells`, `directory` · `process`, `reap` · `handles`, `relief` ·
//! `segment`, `world` · `channels`, `receiver`, `dedup`, `presence`, `topics`, `heartbeat` · `inspect`.

// What only those parts use that need the kernel.
#![cfg_attr(modelled, allow(dead_code))]

pub mod arena;
mod bound;
mod chain;
pub mod content;
pub mod error;
mod flag;
pub mod geometry;
pub mod layout;
mod lives;
mod mutants;
pub mod points;
pub mod record;
pub mod ring;
pub mod space;
pub mod sync;
pub mod trie;
pub mod view;

pub mod cells;
pub mod directory;
pub mod doorbell;
mod handles;
pub mod owned;
mod pressure;
pub mod reap;
#[cfg(not(modelled))]
mod relief;
#[cfg(modelled)]
pub mod relief;
mod whereabouts;

#[cfg(not(modelled))]
mod attach;
#[cfg(not(modelled))]
mod attachment;
#[cfg(not(modelled))]
mod channels;
#[cfg(not(modelled))]
pub mod check;
#[cfg(not(modelled))]
mod clients;
#[cfg(not(modelled))]
mod deaths;
#[cfg(not(modelled))]
mod dedup;
#[cfg(not(modelled))]
pub mod events;
#[cfg(not(modelled))]
mod examine;
#[cfg(not(modelled))]
mod heartbeat;
mod hint;
#[cfg(not(modelled))]
mod holds;
#[cfg(not(modelled))]
mod hub;
#[cfg(not(modelled))]
mod ids;
#[cfg(not(modelled))]
pub mod inspect;
#[cfg(not(modelled))]
mod keeper;
#[cfg(not(modelled))]
mod kernel;
#[cfg(not(modelled))]
mod lagging;
#[cfg(not(modelled))]
mod member;
#[cfg(not(modelled))]
mod names;
#[cfg(not(modelled))]
pub mod os;
#[cfg(not(modelled))]
mod park;
#[cfg(not(modelled))]
mod parts;
#[cfg(not(modelled))]
mod patterns;
#[cfg(not(modelled))]
mod presence;
#[cfg(not(modelled))]
mod process;
#[cfg(not(modelled))]
mod receiver;
#[cfg(not(modelled))]
mod replay;
#[cfg(not(modelled))]
mod seen;
#[cfg(not(modelled))]
mod segment;
#[cfg(not(modelled))]
mod source;
#[cfg(not(modelled))]
mod stale;
#[cfg(not(modelled))]
mod stats;
#[cfg(not(modelled))]
mod subscribing;
#[cfg(not(modelled))]
mod target;
#[cfg(not(modelled))]
mod topics;
#[cfg(not(modelled))]
mod turns;
#[cfg(not(modelled))]
mod usage;
#[cfg(not(modelled))]
mod waitlist;
#[cfg(not(modelled))]
mod watch;
#[cfg(not(modelled))]
mod world;

pub use error::{Error, Result};

#[cfg(not(modelled))]
pub use bound::{Form, Sent};
#[cfg(not(modelled))]
pub use channels::{ChannelKind, ChannelSpec, Channels};
#[cfg(not(modelled))]
pub use heartbeat::{Beat, BeatStats, ClientInfo, Heartbeats};
#[cfg(not(modelled))]
pub use hub::Hub;
#[cfg(not(modelled))]
pub use ids::EventId;
#[cfg(not(modelled))]
pub use lagging::warn_of_lag_above;
#[cfg(not(modelled))]
pub use member::{Member, Metadata};
#[cfg(not(modelled))]
pub use park::{Parked, park};
#[cfg(not(modelled))]
pub use patterns::PatternReceiver;
#[cfg(not(modelled))]
pub use presence::{Diff, Presence};
#[cfg(not(modelled))]
pub use receiver::{Ready, Received, Receiver};
#[cfg(not(modelled))]
pub use replay::Replayed;
#[cfg(not(modelled))]
pub use segment::{Options, Segment, detach_all};
#[cfg(not(modelled))]
pub use source::{Cells, Source};
#[cfg(not(modelled))]
pub use stats::ChannelStats;
#[cfg(not(modelled))]
pub use target::Target;
#[cfg(not(modelled))]
pub use topics::{Topics, TopicsKind, pattern_matches};
#[cfg(not(modelled))]
pub use usage::SegmentStats;
#[cfg(not(modelled))]
pub use waitlist::Waitlist;
#[cfg(not(modelled))]
pub use watch::{Changes, Watch};
#[cfg(not(modelled))]
pub use world::World;
