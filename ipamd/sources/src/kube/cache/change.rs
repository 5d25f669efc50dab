//! What is to be written.

use std::time::Duration;

use crate::kube::resources::RESOURCES;
use ipamd_model::objects::Kind;

/// How long changes of frequent objects may wait to be written together. Policies are written at once.
const BATCH_DELAY: Duration = Duration::from_secs(2);

/// What is to be written. Resources are numbered by their place in [`RESOURCES`].
#[derive(Clone, Debug)]
pub(super) enum Change {
    Put {
        resource: usize,
        key: Box<str>,
        body: Box<[u8]>,
    },
    Remove {
        resource: usize,
        key: Box<str>,
    },
    /// All of it is here.
    Complete {
        resource: usize,
    },
    /// When the server was last heard, in seconds since 1970.
    LastContact(u64),
}

impl Change {
    pub fn resource(&self) -> Option<usize> {
        match self {
            Self::Put { resource, .. } | Self::Remove { resource, .. } | Self::Complete { resource } => {
                Some(*resource)
            }
            Self::LastContact(_) => None,
        }
    }

    pub fn size(&self) -> usize {
        let own = size_of::<Self>();
        match self {
            Self::Put { key, body, .. } => own + key.len() + body.len(),
            Self::Remove { key, .. } => own + key.len(),
            _ => own,
        }
    }

    /// How long it may wait.
    pub fn max_delay(&self) -> Duration {
        let waits = |resource: &usize| {
            matches!(RESOURCES[*resource].kind, Kind::Pod | Kind::EndpointSlice | Kind::Node)
        };
        match self {
            Self::Put { resource, .. } | Self::Remove { resource, .. } if !waits(resource) => Duration::ZERO,
            _ => BATCH_DELAY,
        }
    }
}
