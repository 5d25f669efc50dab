//! Draining: backends that their service no longer has keep their connections for a moment.

use std::time::{Duration, Instant};

use super::{
    owner::Owner,
    port::PortKey,
    tables::{Backend, ServiceNumber},
};

/// How long a removed backend drains: it may be moving from one EndpointSlice to another.
const DRAIN_TIME: Duration = Duration::from_secs(1);

/// A backend whose draining is over. Its sockets are to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RemovedBackend {
    /// The service's port.
    pub service: ServiceNumber,
    /// The endpoint.
    pub backend: Backend,
}

/// A backend that drains.
#[derive(Debug)]
pub(super) struct DrainingBackend {
    pub until: Instant,
    /// The owner; `None`: that of an earlier daemon.
    pub of: Option<(Owner, PortKey)>,
    pub service: ServiceNumber,
    pub backend: Backend,
}

impl DrainingBackend {
    pub fn new(of: Option<(Owner, PortKey)>, service: ServiceNumber, backend: Backend) -> Self {
        Self { until: Instant::now() + DRAIN_TIME, of, service, backend }
    }
}
