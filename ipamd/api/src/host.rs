//! Host endpoints in the status.

use serde::{Deserialize, Serialize};

/// A host endpoint of the node whose policies are in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostEndpoint {
    /// Its name.
    pub name: String,
    /// The interfaces that it stands for now, by name.
    pub interfaces: Vec<String>,
    /// Whether it also polices what pods of the node send to the node.
    #[serde(default)]
    pub polices_pods: bool,
}
