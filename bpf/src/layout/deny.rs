//! What the maps of the deny sets hold (`progs/deny.bpf.c`).

use super::plain::plain;
pub use crate::deny_skeleton::types::{denied4 as Denied4, denied6 as Denied6, deny_count as DenyCount};

/// How many deny sets are counted. Number 0 stands for prefixes that no set may deny.
pub const DENY_SETS: u32 = 1024;

plain!(Denied4, Denied6, DenyCount);
