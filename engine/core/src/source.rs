//! What one can wait for: something with news, and the cells whose bells tell of it.

use smallvec::SmallVec;

use crate::error::Result;
use crate::segment::Segment;

/// Cells, almost always one.
pub type Cells = SmallVec<[u32; 2]>;

/// A thing to wait for. Promise: between two looks at `has_news` that say no, nothing that the caller could
/// have taken was there; whatever makes it say yes is published before news of one of `cells` is told.
pub trait Source: Send + Sync {
    /// The segment it is in.
    fn segment(&self) -> &Segment;
    /// The cells whose news may be this thing's.
    fn cells(&self) -> Cells;
    /// Is there something to take, or an end or error to learn of?
    fn has_news(&self) -> Result<bool>;
}
