//! Whose a port in the tables is.

use std::{fmt, sync::Arc};

use ipamd_api::AttachmentKey;

use super::service_index::ServiceId;

/// The owner of programmed ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Owner {
    Service(ServiceId),
    HostPorts(AttachmentKey),
}

impl Owner {
    /// The namespace whose allowance it uses; host ports are on the node's own account.
    pub fn namespace(&self) -> Option<&Arc<str>> {
        match self {
            Self::Service(id) => Some(&id.namespace),
            Self::HostPorts(_) => None,
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(id) => write!(f, "{}/{}", id.namespace, id.name),
            Self::HostPorts(key) => write!(f, "{key}"),
        }
    }
}
