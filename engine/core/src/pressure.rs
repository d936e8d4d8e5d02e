//! When the arena is full, history shrinks: oldest first, channel by channel, counted as missed.

use crate::arena::Info;
use crate::layout::{Block, Channel, kind, state};
use crate::ring::Ring;
use crate::space::Context;
use crate::sync::Ordering;

impl Context<'_> {
    /// Gives up one retained message of the next channel that has one in a block of this class. The
    /// sweep goes over blocks, so that who uses most gives most. False: no message is left there.
    pub fn relieve(self, class: usize) -> bool {
        let geometry = &self.space.geometry;
        let blocks = geometry.blocks[class];
        if blocks == 0 {
            return false;
        }
        let first = geometry.first_of(class);
        let start = self.actor.pressure_cursor.load(Ordering::Relaxed) as u32 % blocks;
        for step in 0..blocks {
            let number = (start + step) % blocks;
            let Some((_, at)) = geometry.block(first + number) else {
                continue;
            };
            if state::of(self.word(at).load(Ordering::Acquire)) != state::LIVE {
                continue;
            }
            let info = Info(self.view().get(at + Block::info));
            if !matches!(info.kind(), kind::TEXT | kind::BYTES) {
                continue;
            }
            // Stale or damaged, this names some cell whose oldest message goes: no worse than the
            // right one's. A cell that is no channel is refused.
            if self.evict_from(self.view().get(at + Block::back)) {
                self.actor.pressure_cursor.store(u64::from(number) + 1, Ordering::Relaxed);
                return true;
            }
        }
        false
    }

    fn evict_from(self, cell: u64) -> bool {
        let Some(at) = u32::try_from(cell).ok().and_then(|cell| self.space.geometry.cell(cell)) else {
            return false;
        };
        let alive = matches!(state::of(self.word(at).load(Ordering::Acquire)), state::LIVE | state::RETIRED);
        let is_channel = crate::cells::is_channel(self.view().get(at + Channel::back));
        if !alive || !is_channel {
            return false;
        }
        Ring::of(self, cell as u32, self.view().get(at + Channel::config)).is_ok_and(|ring| ring.evict_oldest(self))
    }
}
