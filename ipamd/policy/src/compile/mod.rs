//! Compiles policies into tables. Pure: nothing here touches the kernel.
//!
//! [`policy_inputs`] has the objects of the cluster; [`resolve`] makes an endpoint's [`rules`] of the policies that select it; [`atoms`] and
//! [`classes`] tell what holds for which address; [`function`] settles, for one class of peers, which rule decides which
//! ports, by one walk along them (`sweep`).

pub mod atoms;
pub mod classes;
pub mod function;
pub mod names;
pub mod net_map;
pub mod nets;
pub mod policy_inputs;
pub mod rank;
pub mod resolve;
pub mod rules;
mod sweep;
