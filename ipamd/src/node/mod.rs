//! The node: its attachments, from reservation to release, and everything that is asked about them.
//!
//! One lock guards the records and the addresses. It is held for map lookups and for single system calls on the
//! programs' maps, never while waiting; so a record and what the programs know of it change together.

mod adopt;
mod chained;
mod check;
mod commit;
mod findings;
mod internal_error;
mod kernel;
mod namespaces;
mod ports;
mod records;
mod release;
mod repair;
mod report;
mod reserve;
mod resume;
mod start;
#[cfg(test)]
mod tests;
mod this_node;
mod wall_clock;
mod watch;

pub use self::{findings::Findings, kernel::Kernel, repair::Leak, start::AttachmentMode, this_node::Node};
