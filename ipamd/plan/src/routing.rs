//! The configuration of the ways to other nodes.

use ipamd_config::RoutingMode;

/// How to reach the other nodes.
#[derive(Clone, Debug)]
pub struct Routing {
    /// By which way.
    pub mode: RoutingMode,
    /// This node's name.
    pub own: String,
    /// Number of the overlay's network.
    pub vxlan_id: u32,
    /// UDP port of the overlay.
    pub vxlan_port: u16,
    /// Whether endpoints reach what is not their nodes' with their own addresses: the network leads to these, then.
    pub keeps_sources: bool,
}
