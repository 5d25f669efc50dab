//! Requests to the node, and their answers.

mod add_locks;
mod conntrack;
mod dispatch;
mod dns;
mod monitor;
mod node_service;
mod pages;
mod policy;
mod services;
mod session;

pub use self::{node_service::NodeService, session::Session};
