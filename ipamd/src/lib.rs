//! Cambric's node daemon: what ties addresses, programs, policies and services together on one node. [`daemon`] starts the parts.

pub mod alone;
mod backlog;
pub mod daemon;
pub mod following;
pub mod host;
mod mending;
pub mod metrics;
pub mod monitor;
pub mod node;
mod notices;
pub mod peers;
pub mod pool_conflicts;
mod prefixes;
pub mod probes;
pub mod reconcile;
pub mod released;
pub mod requests;
pub mod server;
pub mod startup_gate;
pub mod startup_reason;
