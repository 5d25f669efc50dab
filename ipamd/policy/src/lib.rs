//! Who may talk to whom. [`compile`] makes of policies what the programs look up; [`enforce`] keeps the programs' maps in step with the
//! cluster.
//!
//! The arrows: `ipamd_model::policy`, [`tables`] <- [`compile`] <- [`enforce`]. [`tables`] is what the programs look up, whoever holds
//! it: the kernel (`ipamd_datapath`), or memory.

pub mod compile;
pub mod enforce;
pub mod tables;
pub mod words;
