//! Looks at a live segment for what is wrong with it: `check`, until the findings last.
//!
//! What is just being changed may look wrong for a moment, so each finding is looked at again; what a *stopped*
//! process was changing stays listed.

use std::time::Duration;

use hashbrown::HashSet;

use crate::check::look_over;
use crate::error::Result;
use crate::layout::state;
use crate::segment::Segment;

/// Looks at a live segment before a finding counts.
const LOOKS: u32 = 3;
/// Time between two looks.
const BETWEEN: Duration = Duration::from_millis(5);

/// What every one of several looks finds.
pub(crate) fn lasting(look: impl Fn() -> Result<Vec<String>>) -> Result<Vec<String>> {
    let mut lasting = look()?;
    for _ in 1..LOOKS {
        if lasting.is_empty() {
            break;
        }
        std::thread::sleep(BETWEEN);
        let again: HashSet<String> = look()?.into_iter().collect();
        lasting.retain(|finding| again.contains(finding));
    }
    Ok(lasting)
}

impl Segment {
    /// What is wrong with the segment; empty: nothing.
    pub fn check(&self) -> Result<Vec<String>> {
        lasting(|| Ok(look_over(self.cx()?, &|slot| self.is_dead(slot))))
    }

    /// Blocks that living processes hold and have not published: 0 when all are at rest.
    pub fn held(&self) -> Result<u64> {
        let cx = self.cx()?;
        let ats = (0..cx.space.geometry.total_blocks()).filter_map(|block| cx.space.geometry.block(block));
        Ok(ats.filter(|&(_, at)| state::of(cx.view().get(at)) == state::HELD).count() as u64)
    }
}
