//! What addresses belong to: pods, network sets, nodes, and the EndpointSlices whose Service a rule names.

use std::sync::Arc;

use ipnetwork::IpNetwork;

use ipamd_model::{
    labels::Labels,
    objects::{Kind, NamedPort, ObjectId},
};

/// What selectors can ask of an item. For items of equal facts the same predicates hold, except for those about prefixes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Facts {
    /// Pod, network set, node or EndpointSlice.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: Option<Arc<str>>,
    /// Its labels.
    pub labels: Labels,
    /// A pod's service account.
    pub service_account: Option<Arc<str>>,
    /// A pod's named ports, ordered; those of an EndpointSlice have the name of its Service.
    pub ports: Arc<[NamedPort]>,
}

impl Facts {
    /// Those of what has nothing but labels.
    pub fn plain(id: &ObjectId, labels: &Labels) -> Self {
        Self {
            kind: id.kind,
            namespace: id.namespace.clone(),
            labels: labels.clone(),
            service_account: None,
            ports: Arc::new([]),
        }
    }
}

/// Something that addresses belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What selectors can ask of it.
    pub facts: Facts,
    /// Its addresses and prefixes, ordered, each once.
    pub nets: Vec<IpNetwork>,
}
