//! What the specifications say of a cluster, without a line of the product's: documents as people write them go in,
//! verdicts come out, one at a time and slowly. Where the specifications leave something open, it is as Calico has it.
//!
//! - `inventory`: namespaces, pods, sets, nodes and EndpointSlices, and whom an address belongs to. `cluster`: the same with tiers and policies.
//! - `kubernetes`, `calico`, `cluster_policy`: what a policy of each kind says of a packet.
//! - `verdict`: the order of tiers and policies.
//! - `services`: where connections to services may go, and random ones.
//! - `generate`: random clusters. `product`: the product, fed with the same documents, and its tables looked up.

pub mod calico;
pub mod cluster;
pub mod cluster_policy;
pub mod decision;
pub mod document;
mod domain;
pub mod endpoint_slice;
pub mod generate;
pub mod inventory;
pub mod kubernetes;
pub mod lookup;
pub mod net;
pub mod packet;
pub mod policy;
pub mod product;
pub mod selector;
pub mod services;
#[cfg(test)]
mod tests;
mod text;
pub mod tier;
pub mod verdict;

pub use self::{
    cluster::Cluster,
    inventory::Local,
    net::Net,
    packet::{Direction, Flow, protocol},
    selector::{Labels, Selector},
};
