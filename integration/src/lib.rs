//! The namespace testbed, the bench of the programs alone, what the bench of
//! services is made of, and the oracle that policy is checked with. The tests that use
//! them are in `tests/`.

pub mod apiserver;
pub mod bench;
pub mod dns_message;
pub mod fleet;
pub mod manifests;
mod needs_root;
pub mod oracle;
pub mod programs;
pub mod testbed;
