//! Which pods hang: their nodes had to have ended them long ago, and are most likely dead.

use std::collections::BTreeSet;

/// Which of the pods that are being deleted hang, by when their nodes have to have ended them: in seconds since the epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hanging {
    /// Those that had to have ended by then.
    pub by: u32,
    /// Those that have to end at one of these times, which are later: they hung by a clock that was ahead. Those that are
    /// deleted since do not hang.
    pub at: BTreeSet<u32>,
}

impl Hanging {
    /// Whether pods hang that have to have ended then.
    pub fn has(&self, ends: u32) -> bool {
        ends <= self.by || self.at.contains(&ends)
    }

    /// Those that hang by this or by another.
    pub fn or(&self, other: &Self) -> Self {
        Self {
            by: self.by.max(other.by),
            at: &self.at | &other.at,
        }
    }
}
