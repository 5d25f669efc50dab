//! Addresses of endpoints: the pools that they come from, which are free, whose each is, and which were left behind. Pure: nothing here
//! reads or writes anything.

pub mod attachment;
pub mod ipam;
pub mod leaks;
