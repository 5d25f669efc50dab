//! Compiles policies into tables. Pure: nothing here touches the kernel.
//!
//! - [`policy_inputs`] holds the objects of the cluster.
//! - [`item`] is what addresses belong to.
//! - [`service_endpoints`] holds the EndpointSlices, of which only those count whose Service a rule names.
//! - [`rank`] is the order of the policies.
//! - [`resolve`] turns the policies that select an endpoint into its [`rules`].
//! - [`decide`] is how rules that match decide. [`domains`] numbers the patterns of DNS names.
//! - [`atoms`] numbers the predicates about addresses. [`classes`] finds which of them hold for an address.
//! - [`function`] computes, for one class of peers, which rule decides which ports. It walks along the ports once (`sweep`).

pub mod atoms;
pub mod classes;
pub mod decide;
pub mod domains;
pub mod function;
pub mod item;
pub mod names;
pub mod net_map;
pub mod nets;
pub mod policy_inputs;
pub mod rank;
pub mod resolve;
pub mod rules;
pub mod service_endpoints;
mod sweep;
