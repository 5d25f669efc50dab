//! What a health check asks for.

use std::sync::Arc;

/// The service whose health a port reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The service's namespace.
    pub namespace: Arc<str>,
    /// The service's name.
    pub name: Arc<str>,
    /// The number of its endpoints on this node that take connections.
    pub local_endpoints: usize,
}
