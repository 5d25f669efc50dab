//! Counts for status and metrics.

use super::state::State;

/// How much is in force and what is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Policies in force.
    pub policies: usize,
    /// Staged policies, which are tried out.
    pub staged: usize,
    /// Objects that could not be understood.
    pub refused: usize,
    /// Objects that do not fit, and policies of unknown tiers.
    pub unfit: usize,
    /// Classes of addresses told apart.
    pub classes: usize,
    /// Policy maps in force.
    pub maps: usize,
    /// Entries in all of them.
    pub entries: usize,
    /// Addresses and prefixes whose class is known.
    pub peers: usize,
    /// Rules that are counted apart.
    pub rules: usize,
    /// Bytes of all of it in the kernel.
    pub memory: u64,
}

impl State {
    /// The counts as they are now.
    pub(super) fn counts(&self) -> Counts {
        let maps = &self.written.maps;
        Counts {
            policies: self.cluster.ranks.len(),
            staged: self.cluster.inputs.staged.values().filter(|it| it.is_tried()).count(),
            refused: self.left_out.refusals.len(),
            unfit: self.left_out.unfit.len() + self.cluster.unenforced().count(),
            classes: self.cluster.classes.count(),
            maps: maps.len(),
            entries: maps.values().map(|compiled| compiled.entries).sum(),
            peers: self.written.peers.len(),
            rules: self.cluster.names.in_use(),
            memory: self.tables.memory(),
        }
    }
}
