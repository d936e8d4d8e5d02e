//! What a handle on a pattern consists of: receivers on the channels that match, those that wait for one, and how much of
//! the directory it has seen.

use std::sync::Arc;

use hashbrown::HashMap;

use crate::cells::Cell;
use crate::handles::HandleId;
use crate::receiver::Receiver;
use crate::trie::Mirror;
use crate::turns::Turns;

/// The handle on one of the channels.
pub(crate) struct Part {
    pub receiver: Arc<Receiver>,
    /// The channel that had the name before, while it is still being drained: its messages come first.
    pub behind: Option<Cell>,
    /// Has it taken a turn?
    pub turn: bool,
}

/// All of a handle.
pub(crate) struct Parts {
    /// Channel names and cells of the directory as last seen.
    pub mirror: Mirror<(Arc<str>, Cell)>,
    /// `Header::removals` as last seen.
    pub removals: u64,
    /// The ref and first word of the registration's record, once it was looked for.
    pub registration: Option<(u64, usize)>,
    pub receivers: Vec<Part>,
    /// What was found and is not received from yet: removed channels whose turn has not come, what comes after one of them,
    /// and what there is no room for.
    pub waiting: Turns,
    /// How many of the receivers have taken a turn.
    pub turns: usize,
    /// The last life of each cell that was received to its end, or given up: its creator may make a late handle on it.
    pub finished: HashMap<u32, u64>,
    /// Which receiver is asked first.
    pub next: usize,
    /// Under which it is registered, and others make handles for it.
    pub id: HandleId,
    pub attachment: u64,
    pub closed: bool,
}

/// What a forked child finds where another thread of its parent was just receiving.
impl Default for Parts {
    fn default() -> Parts {
        Parts { closed: true, ..Parts::new(HandleId::default(), 0, 0) }
    }
}

impl Parts {
    /// Of a new handle, which has seen nothing of the directory yet.
    pub fn new(id: HandleId, attachment: u64, removals: u64) -> Parts {
        Parts {
            mirror: Mirror::default(),
            removals,
            registration: None,
            receivers: Vec::new(),
            waiting: Turns::default(),
            turns: 0,
            finished: HashMap::new(),
            next: 0,
            id,
            attachment,
            closed: false,
        }
    }

    /// Is there a receiver on this channel?
    pub fn has(&self, cell: Cell) -> bool {
        self.receivers.iter().any(|part| part.receiver.cell() == cell)
    }
}
