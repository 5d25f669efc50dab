//! Leftovers of kube-proxy in a network namespace, of all its modes: iptables of both variants, nftables, IPVS.
//!
//! Looking needs the kernel alone, no program, and takes milliseconds. Chains are removed by `iptables-restore`, because only that
//! knows how the variant encodes rules; everything else is removed by the kernel directly.

mod cleanup;
mod iptables_save;
mod ipvs;
mod leftovers;
mod names;
mod process;
mod removal;
mod tools;

pub use cleanup::{Cleanup, Removed, clean_up};
pub use leftovers::{Leftovers, look};
pub use process::process;
