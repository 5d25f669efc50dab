//! Services: which backend a connection to a service goes to.
//!
//! ```text
//! Service, EndpointSlices -> plan (pure) -> balancer -> tables (kernel maps)
//! ```
//!
//! In the tables a service consists of frontends, which say where it is reached, and sets of backends to choose from. A
//! change of endpoints writes a new set beside the old one, and then one word that puts it in force.

mod addresses;
mod allowance;
mod backend_sets;
mod balancer;
mod claim;
mod claimed_frontends;
mod draining;
mod expire_drained;
mod fill;
mod frontends;
pub mod health;
#[cfg(test)]
mod hostile_tests;
mod inherit;
mod inherited_tables;
mod inputs;
mod ledger;
mod listing;
pub mod maglev;
pub mod memory;
mod node_addresses;
mod owner;
pub mod plan;
mod port;
mod port_marks;
mod problems;
mod program;
mod range_allocator;
#[cfg(test)]
mod restart_tests;
mod service_index;
mod shadowed;
mod site;
mod staged_writes;
mod state;
mod sync;
pub mod tables;
#[cfg(test)]
mod tests;
mod topology;
mod wanted_ports;
mod write_failure;

pub use self::{
    balancer::{Applied, Balancer},
    draining::RemovedBackend,
    listing::Listing,
    node_addresses::NodeAddresses,
    site::Site,
};
