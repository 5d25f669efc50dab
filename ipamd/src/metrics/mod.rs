//! The daemon's metrics for Prometheus.

mod cluster;
mod http;
mod node;
mod registry;

pub use self::{
    http::{Served, serve},
    registry::Metrics,
};
