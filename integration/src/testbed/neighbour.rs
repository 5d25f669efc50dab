//! The machine on the other end of a node's uplink.

use std::sync::Arc;

use anyhow::Result;

use super::{machine::Machine, netns::Netns};

/// A machine that shares the node's network, and is its way to everywhere else.
#[derive(Clone, Debug)]
pub struct Neighbour {
    netns: Arc<Netns>,
}

impl Neighbour {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { netns: Arc::new(Netns::new("neighbour")?) })
    }
}

impl Machine for Neighbour {
    fn netns(&self) -> &Netns {
        &self.netns
    }
}
