//! Network policy. [`compile`] turns policies into the tables that the programs look up; [`enforce`] keeps the
//! programs' maps in step with the cluster.
//!
//! Dependencies: `ipamd_model::policy`, [`tables`] <- [`compile`] <- [`enforce`]. [`tables`] is the trait of what the
//! programs look up; the kernel (`ipamd_datapath`) and memory implement it.

pub mod compile;
pub mod describe;
pub mod enforce;
pub mod tables;
