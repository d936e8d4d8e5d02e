//! A yes or no as wide as a word.
//!
//! A struct with a narrow field is passed on in pieces that overlap: the processor then waits for what it has just written.

/// A yes or no.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flag(u64);

impl Flag {
    pub const NO: Flag = Flag(0);
    pub const YES: Flag = Flag(1);

    #[inline(always)]
    pub const fn is_set(self) -> bool {
        self.0 != 0
    }
}

impl From<bool> for Flag {
    #[inline(always)]
    fn from(is_set: bool) -> Flag {
        Flag(u64::from(is_set))
    }
}
