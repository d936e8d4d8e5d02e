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
//! Layers, each of which only uses those above it: `sync`, `layout`, `geometry` · `os`, `view` ·
//! `space` · `arena`, `record` · `ring`, `trie` · `cells`, `directory` · `process`, `reap` ·
//! `segment`, `world` · `channels`, `receiver`, `dedup`, `presence`, `topics`, `heartbeat`.

pub mod arena;
pub mod error;
pub mod geometry;
pub mod layout;
mod mutants;
pub mod points;
pub mod record;
pub mod ring;
pub mod space;
pub mod sync;
pub mod trie;
pub mod view;

pub mod cells;
pub mod doorbell;
mod pressure;

#[cfg(not(loom))]
mod attach;
#[cfg(not(loom))]
mod bound;
#[cfg(not(loom))]
mod channels;
#[cfg(not(loom))]
pub mod check;
#[cfg(not(loom))]
mod clients;
#[cfg(not(loom))]
mod dedup;
#[cfg(not(loom))]
pub mod directory;
#[cfg(not(loom))]
mod examine;
#[cfg(not(loom))]
mod handles;
#[cfg(not(loom))]
mod heartbeat;
#[cfg(not(loom))]
mod ids;
#[cfg(not(loom))]
mod keeper;
#[cfg(not(loom))]
mod kernel;
#[cfg(not(loom))]
mod member;
#[cfg(not(loom))]
mod names;
#[cfg(not(loom))]
pub mod os;
#[cfg(not(loom))]
pub mod owned;
#[cfg(not(loom))]
mod park;
#[cfg(not(loom))]
mod patterns;
#[cfg(not(loom))]
mod presence;
#[cfg(not(loom))]
mod process;
#[cfg(not(loom))]
pub mod reap;
#[cfg(not(loom))]
mod receiver;
#[cfg(not(loom))]
mod replay;
#[cfg(not(loom))]
mod segment;
#[cfg(not(loom))]
mod source;
#[cfg(not(loom))]
mod stats;
#[cfg(not(loom))]
mod topics;
#[cfg(not(loom))]
mod usage;
#[cfg(not(loom))]
mod waitlist;
#[cfg(not(loom))]
mod watch;
#[cfg(not(loom))]
mod whereabouts;
#[cfg(not(loom))]
mod world;

pub use error::{Error, Result};

#[cfg(not(loom))]
pub use bound::Form;
#[cfg(not(loom))]
pub use channels::{ChannelKind, ChannelSpec, Channels, Sent};
#[cfg(not(loom))]
pub use heartbeat::{Beat, BeatStats, ClientInfo, Heartbeats};
#[cfg(not(loom))]
pub use ids::EventId;
#[cfg(not(loom))]
pub use member::{Member, Metadata};
#[cfg(not(loom))]
pub use park::{Parked, park};
#[cfg(not(loom))]
pub use patterns::PatternReceiver;
#[cfg(not(loom))]
pub use presence::{Diff, Presence};
#[cfg(not(loom))]
pub use receiver::{Received, Receiver};
#[cfg(not(loom))]
pub use replay::Replayed;
#[cfg(not(loom))]
pub use segment::{Options, Segment, detach_all};
#[cfg(not(loom))]
pub use source::{Cells, Source};
#[cfg(not(loom))]
pub use stats::ChannelStats;
#[cfg(not(loom))]
pub use topics::{Topics, TopicsKind, pattern_matches};
#[cfg(not(loom))]
pub use usage::SegmentStats;
#[cfg(not(loom))]
pub use waitlist::Waitlist;
#[cfg(not(loom))]
pub use watch::{Changes, Watch};
#[cfg(not(loom))]
pub use world::World;
