//! The machine on the other end of a node's uplink.

use anyhow::Result;

use super::{Machine, Netns};

/// A machine that shares the node's network, and is its way to everywhere else.
#[derive(Debug)]
pub struct Neighbour {
    netns: Netns,
}

impl Neighbour {
    pub(super) fn new() -> Result<Self> {
        Ok(Self { netns: Netns::new("neighbour")? })
    }
}

impl Machine for Neighbour {
    fn netns(&self) -> &Netns {
        &self.netns
    }
}
