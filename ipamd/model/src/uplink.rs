//! Uplinks, as the programs know them.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Name of the overlay's interface.
pub const OVERLAY: &str = "cambric-overlay";

/// What the programs know of an uplink: the addresses that masqueraded packets leave with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uplink {
    /// Its index.
    pub ifindex: u32,
    /// Its name.
    pub ifname: String,
    /// IPv4 source of masqueraded packets.
    pub ipv4: Option<Ipv4Addr>,
    /// IPv6 source of masqueraded packets.
    pub ipv6: Option<Ipv6Addr>,
    /// Whether it is the overlay's interface, and then which of its frames are taken.
    pub overlay: Option<Frames>,
}

/// Which frames of the overlay are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frames {
    /// Those that an uplink's program has let through.
    Seen,
    /// All: nodes are reached by an interface that has no such program.
    All,
}
