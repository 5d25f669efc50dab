//! What of the cluster is told: the names of services, and where the other nodes are.

use std::sync::Arc;

use ipamd_model::objects::Change;

use crate::{peers::Peers, service_names::ServiceNames};

/// Both.
#[derive(Debug, Default)]
pub struct ClusterView {
    /// Services by address.
    pub services: ServiceNames,
    /// The nodes.
    pub peers: Arc<Peers>,
}

impl ClusterView {
    /// Applies changes of the cluster.
    pub fn apply(&self, changes: &[Change]) {
        self.services.apply(changes);
        self.peers.apply(changes);
    }
}
