//! Who may talk to whom. [`model`] is what every kind of policy is read into; [`compile`] makes of it what the programs
//! look up; [`enforce`] keeps the programs' maps in step with the cluster.
//!
//! The arrows: `model` <- `kubernetes`, `calico`, `cluster_policy` (reading); `model`, `tables` <- `compile` <- `enforce`.
//! [`tables`] is what the programs look up, whoever holds it: the kernel (`datapath::policy`), or memory.

pub mod calico;
pub mod cluster_policy;
pub mod compile;
pub mod enforce;
pub mod kubernetes;
pub mod labels;
pub mod model;
pub mod selector;
pub mod tables;
pub mod words;
