//! This node, as services see it.

use std::sync::Arc;

use ipamd_model::services::SliceEndpoint;
use ipnetwork::IpNetwork;

/// This node, as far as services depend on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Site {
    /// Its name.
    pub node: Arc<str>,
    /// Its zone: the label `topology.kubernetes.io/zone` of its Node.
    pub zone: Option<Arc<str>>,
    /// The pools of its endpoints. An endpoint of a service that names no node is on this node if its address is in one
    /// of them.
    pub pools: Vec<IpNetwork>,
}

impl Site {
    /// Whether an endpoint is on this node.
    pub fn is_local(&self, endpoint: &SliceEndpoint) -> bool {
        match &endpoint.node {
            Some(node) => **node == *self.node,
            None => self.pools.iter().any(|pool| pool.contains(endpoint.address)),
        }
    }
}
