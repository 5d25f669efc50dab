//! Services: where connections to them go.
//!
//! ```text
//! Service, EndpointSlices -> plan (pure) -> balancer -> tables (kernel maps)
//! ```
//!
//! What a service is to the programs is a few entries that say where it is reached (frontends), and sets of backends
//! that they choose from. A change of endpoints writes a new place for the set and then one word.

mod addresses;
mod allowance;
mod balancer;
mod claimed;
mod condition;
pub mod consistent;
mod fill;
pub mod health;
#[cfg(test)]
mod hostile_tests;
mod inherit;
mod leaving;
mod listing;
mod marks;
pub mod memory;
mod places;
pub mod plan;
mod program;
#[cfg(test)]
mod restart_tests;
mod shadowed;
mod staged;
mod state;
pub mod tables;
#[cfg(test)]
mod tests;
mod wants;
mod world;

pub use self::{
    balancer::{Applied, Balancer, NodeAddresses},
    leaving::Gone,
    listing::Listing,
    plan::Site,
};
