//! What kube-proxy has left in a network namespace, in whichever of its modes: iptables of both variants, nftables, IPVS.
//!
//! Looking asks the kernel alone, so it needs no program and takes milliseconds. Removing has `iptables-restore` remove
//! chains, for only that knows how rules are encoded in the variant; all else is asked of the kernel.

mod cleanup;
mod ipvs;
mod look;
mod names;
mod removal;
mod running;
mod saved;
mod tools;

pub use cleanup::{Cleanup, Removed, clean_up};
pub use look::{Leftovers, look};
pub use running::process;
