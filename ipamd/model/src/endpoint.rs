//! An endpoint as the programs know it.

use ipamd_api::MacAddr;

/// The MTU of containers while no uplink is known and none is configured.
pub const FALLBACK_MTU: u32 = 1500;

/// An endpoint's place in the programs' tables, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

/// What the programs know of an endpoint's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointEntry {
    /// Index of its host end.
    pub ifindex: u32,
    /// Ethernet address of its container end.
    pub container_mac: MacAddr,
    /// Ethernet address of its host end.
    pub host_mac: MacAddr,
    /// Bytes, of the container end.
    pub mtu: u16,
    /// A queueing discipline sits on the host end (the `bandwidth` plugin): packets must pass through it rather than
    /// be handed straight into the container's namespace.
    pub shaped: bool,
    /// Another plugin made the interface, and leads what is not translated here.
    pub chained: bool,
    /// Its place in the policy tables.
    pub slot: Slot,
}
