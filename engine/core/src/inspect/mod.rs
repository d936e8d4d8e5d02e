//! Looking at a segment from outside: what is in it, who is attached, who lags.
//!
//! Promise: an inspector disturbs nobody. The segment is mapped read-only, so that a store would end the inspector
//! and never change a byte; it takes no slot, holds no lock, waits for nobody, and nobody waits for it. It is told
//! nothing by the processes that are attached: everything is read from the segment, from the kernel's locks and from
//! /proc. So it works while the segment is used at full speed, after everybody has died, and on a damaged segment,
//! where it shows what can be read and says, in `problems`, what cannot.
//!
//! What is shown was there when it was read, one thing after the other: counts of different things may be of
//! slightly different moments. Only the reading functions of the other modules are used here, on an actor that has no
//! slot; `tests/inspect.rs` keeps all of them under fire on a read-only mapping.

mod channels;
mod groups;
mod list;
mod overview;
mod processes;
mod tail;

use hashbrown::HashMap;
use serde::{Serialize, Serializer};

pub use channels::{ChannelDetail, ChannelRow, ChannelRows, HandleRow, SubscriberRow};
pub use groups::{ClientRow, ClientRows, GroupRow, MemberRow, MemberRows, TopicRow, TopicRows};
pub use list::{SegmentRow, list};
pub use overview::{BlockRow, Capacity, Keeper, Memory, NamespaceRow, Overview, Totals};
pub use processes::{ProcessRow, ProcessRows, WaiterRow};
pub use tail::{Tail, TailFrom};

use crate::attach::look_space;
use crate::cells::Cell;
use crate::channels::ChannelKind;
use crate::check::look_over;
use crate::directory::Directory;
use crate::error::{Error, Result};
use crate::examine::lasting;
pub use crate::holds::Holds;
use crate::layout::{Header, LAYOUT_VERSION, World as WorldCell, state};
use crate::os::fork::{Borrowed, Guarded};
use crate::os::{clock, shm};
use crate::process::{LEAVING, SETTLED, TAKEN};
use crate::space::{Actor, Context, Space, owner_slot};

/// A segment that is looked at.
pub struct Inspector {
    name: String,
    space: Space,
    file: Guarded,
    actor: Actor,
}

/// A process that owns something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Owner {
    /// Its slot.
    pub slot: u32,
    /// Its process id, in its own pid namespace; `None`: it is not attached any more.
    pub pid: Option<u64>,
}

/// What could not be read, in words.
#[derive(Default)]
struct Problems(Vec<String>);

impl Problems {
    /// The value, or its default and a note.
    fn keep<T: Default>(&mut self, what: &str, read: Result<T>) -> T {
        read.unwrap_or_else(|error| {
            self.0.push(format!("{what}: {error}"));
            T::default()
        })
    }
}

impl Inspector {
    /// As `keep`, of what was read of a cell: what is wrong with one that is just being made, or becoming another,
    /// is not wrong.
    fn keep_of_cell<T: Default>(&self, problems: &mut Problems, cell: Cell, what: &str, read: Result<T>) -> T {
        if read.is_err() && !matches!(cell.state(self.cx()), Some(state::LIVE | state::RETIRED)) {
            return T::default();
        }
        problems.keep(what, read)
    }
}

/// A channel, a broadcast or a channel's members, as a directory names it.
struct Named {
    namespace: String,
    name: String,
    cell: Cell,
    /// What the kind keeps in its directory entry.
    extra: Vec<u8>,
}

/// Who has which slot at the moment of a look.
struct Attached(HashMap<u64, u64>);

impl Attached {
    fn owner(&self, owner: u64) -> Owner {
        Owner { slot: owner_slot(owner), pid: self.0.get(&owner).copied() }
    }

    fn owners(&self, owners: &[u64]) -> Vec<Owner> {
        owners.iter().map(|&owner| self.owner(owner)).collect()
    }
}

/// Text pairs as a map.
fn as_map<S: Serializer>(pairs: &[(String, String)], serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(key, value)| (key, value)))
}

impl ChannelKind {
    /// As it is called where it is shown.
    pub const fn name(self) -> &'static str {
        match self {
            ChannelKind::Channel => "channel",
            ChannelKind::Broadcast => "broadcast",
        }
    }
}

impl Inspector {
    /// Looks at the segment of this name.
    ///
    /// Errors: there is none; it is another's; another version made it; its header is damaged, so that nothing in it
    /// can be found.
    pub fn open(name: &str) -> Result<Inspector> {
        shm::validate_name(name)?;
        let file = shm::open_to_look(name, LAYOUT_VERSION)?;
        let space = look_space(name, &file)?;
        Ok(Inspector { name: name.to_owned(), space, file: Guarded::new(file), actor: Actor::without_slot() })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Does the name still lead to this segment? Not after it was unlinked, or made anew.
    pub fn is_current(&self) -> Result<bool> {
        shm::same_file(&self.name, LAYOUT_VERSION, &*self.file()?)
    }

    /// What is wrong with the segment, as `Segment::check` tells it; empty: nothing.
    pub fn check(&self) -> Result<Vec<String>> {
        lasting(|| Ok(look_over(self.cx(), &|slot| self.is_dead(slot))))
    }

    fn cx(&self) -> Context<'_> {
        Context { space: &self.space, actor: &self.actor }
    }

    /// The file, through which the kernel is asked for locks.
    fn file(&self) -> Result<Borrowed<'_>> {
        self.file.file().ok_or(Error::Os {
            operation: "using",
            subject: "the inspector's descriptor of the segment, which something in this process closed".to_owned(),
            errno: libc::EBADF,
        })
    }

    /// Does the kernel say that a slot's process is gone? Where it cannot be asked, no.
    fn is_dead(&self, slot: u32) -> bool {
        self.file().is_ok_and(|file| self.space.is_dead(&file, self.space.slot(slot)).unwrap_or(false))
    }

    fn attached(&self) -> Attached {
        let slots = (0..self.space.geometry.slots).map(|slot| self.space.slot(slot));
        let taken = slots.filter(|slot| matches!(slot.state(), TAKEN | LEAVING | SETTLED));
        Attached(taken.map(|slot| (slot.owner(), u64::from(self.space.identity(slot.slot).pid))).collect())
    }

    /// Now, in seconds since 1970, by the segment's clock.
    fn now(&self) -> f64 {
        crate::member::unix_seconds(self.cx(), clock::monotonic_micros())
    }

    /// The namespaces and their cells.
    fn worlds(&self, problems: &mut Problems) -> Vec<(String, Cell)> {
        let mut worlds = Vec::new();
        let listed = Directory::new(self.cx(), Header::worlds).each(|found| worlds.push((found.record.name(), found.cell)));
        problems.keep("the names of the namespaces", listed);
        worlds.sort_by(|a, b| a.0.cmp(&b.0));
        worlds
    }

    /// What one of the directories of a namespace names.
    fn named(&self, world: &(String, Cell), field: usize, problems: &mut Problems) -> Vec<Named> {
        let (namespace, cell) = world;
        let mut named = Vec::new();
        let listed = Directory::new(self.cx(), cell.at() + field).each(|found| {
            let (name, extra) = (found.record.name(), found.extra().to_vec());
            named.push(Named { namespace: namespace.clone(), name, cell: found.cell, extra });
        });
        problems.keep(&format!("namespace {namespace:?}, the names of its {}", of_field(field)), listed);
        named.sort_by(|a, b| a.name.cmp(&b.name));
        named
    }

    /// The names of the open channels or broadcasts of a namespace, in order.
    pub fn names(&self, namespace: &str, kind: ChannelKind) -> Result<Vec<String>> {
        let cx = self.cx();
        let Some(world) = Directory::new(cx, Header::worlds).find(namespace)? else {
            return Ok(Vec::new());
        };
        let mut names = Vec::new();
        Directory::new(cx, world.cell.at() + directory_of(kind)).each(|found| names.push(found.record.name()))?;
        names.sort();
        Ok(names)
    }

    /// The open channel or broadcast of this name. `None`: there is none.
    fn find(&self, namespace: &str, kind: ChannelKind, name: &str) -> Result<Option<Named>> {
        let cx = self.cx();
        let Some(world) = Directory::new(cx, Header::worlds).find(namespace)? else {
            return Ok(None);
        };
        let found = Directory::new(cx, world.cell.at() + directory_of(kind)).find(name)?;
        Ok(found.map(|found| Named {
            namespace: namespace.to_owned(),
            name: found.record.name(),
            cell: found.cell,
            extra: found.extra().to_vec(),
        }))
    }
}

/// Where a namespace keeps the names of this kind.
const fn directory_of(kind: ChannelKind) -> usize {
    match kind {
        ChannelKind::Channel => WorldCell::channels,
        ChannelKind::Broadcast => WorldCell::broadcasts,
    }
}

const fn of_field(field: usize) -> &'static str {
    match field {
        WorldCell::channels => "channels",
        WorldCell::broadcasts => "broadcasts",
        _ => "channels with members",
    }
}
