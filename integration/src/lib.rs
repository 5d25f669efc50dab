//! The namespace testbed, the bench of the programs alone, and the oracle that policy is checked with. The tests that use
//! them are in `tests/`.

pub mod oracle;
pub mod programs;
pub mod testbed;
