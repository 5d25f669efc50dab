//! The origins of senders: endpoints of this node or of another one, and how their packets arrive.

use std::{collections::BTreeMap, net::IpAddr};

use ipnetwork::IpNetwork;

/// Where senders are, by their prefix.
pub type Origins = BTreeMap<IpNetwork, Origin>;

/// Where the senders of a prefix are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// On this node, or nowhere.
    Here,
    /// Nowhere: the address means all of a network of the node's, or all of its routers.
    AllOfNetwork,
    /// Endpoints of a node that sends directly, or by the overlay.
    Node(NearNode),
    /// Endpoints of a node that sends by the overlay alone.
    Overlay,
}

impl Origin {
    /// The node that sends directly.
    pub fn node(&self) -> Option<NearNode> {
        match self {
            Self::Node(node) => Some(*node),
            Self::Here | Self::AllOfNetwork | Self::Overlay => None,
        }
    }
}

/// A node of a link of this one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NearNode {
    /// Index of the uplink that leads there.
    pub ifindex: u32,
    /// The address that it is reached at.
    pub address: IpAddr,
}
