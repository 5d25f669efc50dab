//! What the reconciliation has found.

use ipamd_api::{host::HostEndpoint, wire};

/// The results of the last pass of the reconciliation, for `status`.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// The uplinks.
    pub uplinks: Vec<wire::Uplink>,
    /// The host endpoints whose policies the programs ask.
    pub host_endpoints: Vec<HostEndpoint>,
    /// Problems that need an operator, a sentence each.
    pub problems: Vec<String>,
}
