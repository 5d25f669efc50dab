//! The daemon's metrics for Prometheus.

mod cluster;
mod http;
mod node;
mod registry;
mod text_format;

pub use self::{
    http::{Served, serve},
    registry::Metrics,
};
