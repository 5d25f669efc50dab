//! Why a change was not written into the tables.

use std::fmt;

use crate::tables::TableError;

/// A table that is too small, and by how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Overflow {
    what: &'static str,
    needed: usize,
    /// The exact number is not computed.
    at_least: bool,
    limit: u32,
}

impl Overflow {
    /// Of a policy map that needs at least so many entries.
    pub fn of_entries(needed: usize, limit: u32) -> Self {
        Self { what: ENTRIES, needed, at_least: true, limit }
    }

    /// Of so many patterns of DNS names at least.
    pub fn of_domains(needed: usize, limit: u32) -> Self {
        Self { what: DOMAINS, needed, at_least: true, limit }
    }
}

/// Checks that this many fit.
pub(super) fn fits(what: &'static str, needed: usize, limit: u32) -> Result<(), Overflow> {
    if needed > limit as usize { Err(Overflow { what, needed, at_least: false, limit }) } else { Ok(()) }
}

/// What the node has too many of.
pub(super) const DOMAINS: &str = "patterns of DNS names";

/// What a policy map has too many of.
pub(super) const ENTRIES: &str = "entries in one policy map (--policy-entries)";

impl fmt::Display for Overflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at_least = if self.at_least { "at least " } else { "" };
        write!(f, "it needs {at_least}{} {}, and there is room for {}", self.needed, self.what, self.limit)
    }
}

/// Why a change was not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    /// Nothing was written.
    #[error("{0}")]
    Overflow(Overflow),
    /// A part of it was written.
    #[error(transparent)]
    Table(#[from] TableError),
}

impl From<Overflow> for WriteError {
    fn from(overflow: Overflow) -> Self {
        Self::Overflow(overflow)
    }
}
