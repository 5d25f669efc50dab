//! Cambric's node daemon: addresses, programs and the records that tie them together.

pub mod attachment;
pub mod chain;
pub mod cluster;
pub mod config;
pub mod ctl;
pub mod daemon;
pub mod datapath;
pub mod expedite;
pub mod footprint;
pub mod host;
pub mod ipam;
pub mod leaks;
pub mod memory;
pub mod metrics;
pub mod netlink;
pub mod node;
pub mod plan;
pub mod preflight;
pub mod reaper;
pub mod reconcile;
pub mod released;
pub mod server;
pub mod service;
pub mod store;
pub mod sysctl;
pub mod uninstall;
