//! The balancer's state, behind its lock: the cluster's services, what is in the tables, and the answers of health checks.

use super::{
    health::{Claims, HealthPorts},
    inputs::Inputs,
    ledger::Ledger,
    site::Site,
    tables::Tables,
};

/// Everything behind the lock.
#[derive(Debug)]
pub(super) struct State {
    pub tables: Box<dyn Tables>,
    pub inputs: Inputs,
    pub ledger: Ledger,
    /// Whether the tables say that a backend is a process of the node.
    pub has_host_backends: bool,
    /// The answers of health check ports, and who gives them.
    pub health_checks: Claims,
    pub health: Option<HealthPorts>,
    /// A write failed, so the tables must be rebuilt.
    pub failed: bool,
    pub started: bool,
}

impl State {
    /// Balances nothing yet.
    pub fn new(tables: Box<dyn Tables>, site: Site) -> Self {
        Self {
            ledger: Ledger::new(tables.limits()),
            tables,
            inputs: Inputs { site, ..Inputs::default() },
            has_host_backends: false,
            health_checks: Claims::default(),
            health: None,
            failed: false,
            started: false,
        }
    }
}
