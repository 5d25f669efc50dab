//! How much a change has written.

use std::ops::AddAssign;

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Writes {
    /// Addresses and prefixes.
    pub peers: usize,
    /// Policy maps made.
    pub maps: usize,
    /// Entries in them, and added to others.
    pub entries: usize,
    /// Endpoints whose policy is another.
    pub postures: usize,
}

impl AddAssign for Writes {
    fn add_assign(&mut self, more: Self) {
        self.peers += more.peers;
        self.maps += more.maps;
        self.entries += more.entries;
        self.postures += more.postures;
    }
}
