//! The namespace testbed, and the bench of the programs alone. The tests that use them are in `tests/`.

pub mod programs;
pub mod testbed;
