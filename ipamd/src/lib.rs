//! Cambric's node daemon: what ties addresses, programs, policies and services together on one node. [`daemon`] starts the parts.

mod backlog;
pub mod cluster_sync;
pub mod daemon;
mod deny_sets;
pub mod host;
mod host_endpoints;
mod hubble;
mod kubernetes_events;
pub mod metrics;
pub mod monitor;
pub mod node;
mod pending_changes;
pub mod pending_deletes;
mod pod_cidrs;
pub mod pool_conflicts;
pub mod probe_server;
pub mod reconcile;
pub mod remote_nodes;
pub mod requests;
mod resolvers;
pub mod server;
pub mod single_instance;
pub mod startup_gate;
pub mod startup_reason;
mod store_recovery;
mod trials;
