//! A step of the plan, and what it is done with.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use ipamd_api::{AttachmentKey, MacAddr};

use crate::{records::Committed, settings::accept_ra};
use ipamd_kernel::netlink::{Forwarding, Neighbour, Route, RouteKind, Vxlan};
use ipamd_model::endpoint::EndpointEntry;

/// A change to the kernel or to the records. Shown as what it does to what.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Sets a kernel setting.
    Sysctl {
        /// Its path below `/proc/sys`.
        path: String,
        /// Its new value.
        value: &'static str,
    },
    /// Sets an interface up.
    SetUp {
        /// Its name.
        ifname: String,
        /// Its index.
        ifindex: u32,
    },
    /// Sets an interface's MTU.
    SetMtu {
        /// Its name.
        ifname: String,
        /// Its index.
        ifindex: u32,
        /// Bytes.
        mtu: u32,
    },
    /// Gives `lo` the gateway address of a pool.
    GiveGateway {
        /// Index of `lo`.
        lo: u32,
        /// The address.
        address: IpAddr,
    },
    /// Takes a gateway address away whose pool is no longer configured.
    TakeGateway {
        /// Index of `lo`.
        lo: u32,
        /// The address.
        address: IpAddr,
    },
    /// Adds or corrects a route.
    PutRoute(Route),
    /// Removes a route whose pool is no longer configured.
    RemoveRoute(Route),
    /// Adds or corrects a permanent neighbour.
    PutNeighbour(Neighbour),
    /// The same of another node in the overlay.
    PutPeer(Neighbour),
    /// Removes a permanent neighbour: a node that is no more, or is reached otherwise.
    RemoveNeighbour(Neighbour),
    /// Makes the overlay's interface.
    MakeOverlay {
        /// Its name.
        ifname: String,
        /// Its Ethernet address.
        mac: MacAddr,
        /// Bytes.
        mtu: u32,
        /// What it is.
        vxlan: Vxlan,
    },
    /// Has the overlay's interface follow the node's address.
    MoveOverlay {
        /// Its name.
        ifname: String,
        /// Its index.
        ifindex: u32,
        /// Its new Ethernet address.
        mac: MacAddr,
        /// What it is to be.
        vxlan: Vxlan,
    },
    /// Removes the overlay's interface, which is out of use or was made otherwise.
    RemoveOverlay {
        /// Its name.
        ifname: String,
        /// Its index.
        ifindex: u32,
    },
    /// Sends the overlay's frames of a node to it.
    PutForwarding(Forwarding),
    /// Sends them there no more.
    RemoveForwarding(Forwarding),
    /// Tells the programs of an endpoint.
    Restore(Box<Restoration>),
    /// Makes a record of an endpoint that has none.
    Adopt(Adoption),
    /// Removes an address from the programs' map that has neither a record nor an interface.
    Forget(IpAddr),
    /// Removes an interface that has no record.
    RemoveLink {
        /// Its name.
        ifname: String,
        /// Its index.
        ifindex: u32,
    },
    /// Removes the link pins of an interface that is gone.
    Unpin(String),
}

/// An endpoint without a record: which it is, and what the programs know of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Adoption {
    /// From its interface's alias.
    pub key: AttachmentKey,
    /// What the programs know of its addresses.
    pub entries: BTreeMap<IpAddr, EndpointEntry>,
}

/// What the programs should know of an endpoint's addresses, and why they do not.
#[derive(Clone, Debug, PartialEq)]
pub struct Restoration {
    /// Which.
    pub endpoint: Committed,
    /// What the programs should know.
    pub entry: EndpointEntry,
    /// Whether only the queueing on its host end has changed.
    pub shaping: Shaping,
}

/// What has become of the queueing on a host end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shaping {
    /// The programs know of it what is so.
    Unchanged,
    /// Packets have to pass through a queue from now on.
    Began,
    /// They need not any more.
    Ended,
}

impl Step {
    /// Whether it is a setting of one of these uplinks.
    pub fn is_of_uplink(&self, ifnames: &[String]) -> bool {
        matches!(self, Self::Sysctl { path, .. } if ifnames.iter().any(|ifname| *path == accept_ra(ifname)))
    }

    /// Whether it follows a change that somebody else made on purpose, rather than mending anything.
    pub fn follows(&self) -> bool {
        match self {
            Self::Restore(restoration) => restoration.shaping != Shaping::Unchanged,
            // Nodes come and go.
            Self::PutRoute(route) | Self::RemoveRoute(route) => route.is_to_peer(),
            Self::PutPeer(_)
            | Self::RemoveNeighbour(_)
            | Self::MakeOverlay { .. }
            | Self::MoveOverlay { .. }
            | Self::RemoveOverlay { .. }
            | Self::PutForwarding(_)
            | Self::RemoveForwarding(_) => true,
            _ => false,
        }
    }

    /// What sort of thing it mends: a label of the metrics.
    pub fn subject(&self) -> &'static str {
        match self {
            Self::Sysctl { .. } => "sysctl",
            Self::SetUp { .. } | Self::SetMtu { .. } => "link",
            Self::GiveGateway { .. } | Self::TakeGateway { .. } => "address",
            Self::PutRoute(_) | Self::RemoveRoute(_) => "route",
            Self::PutNeighbour(_) | Self::PutPeer(_) | Self::RemoveNeighbour(_) => "neighbour",
            Self::MakeOverlay { .. }
            | Self::MoveOverlay { .. }
            | Self::RemoveOverlay { .. }
            | Self::PutForwarding(_)
            | Self::RemoveForwarding(_) => "overlay",
            Self::Restore(_) | Self::Forget(_) => "endpoint",
            Self::Adopt(_) => "record",
            Self::RemoveLink { .. } => "orphan",
            Self::Unpin(_) => "pin",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sysctl { path, value } => write!(f, "set {} to {value}", path.replace('/', ".")),
            Self::SetUp { ifname, .. } => write!(f, "set interface {ifname} up"),
            Self::SetMtu { ifname, mtu, .. } => write!(f, "set the MTU of interface {ifname} to {mtu}"),
            Self::GiveGateway { address, .. } => write!(f, "give lo the gateway address {address}"),
            Self::TakeGateway { address, .. } => write!(f, "take the gateway address {address} from lo"),
            Self::PutRoute(Route { destination, kind: RouteKind::Unreachable, .. }) => {
                write!(f, "make the unused addresses of {destination} unreachable")
            }
            Self::PutRoute(route) => write!(f, "put the route to {} in place", route.destination),
            Self::RemoveRoute(route) => write!(f, "remove the route to {}", route.destination),
            Self::PutNeighbour(neighbour) | Self::PutPeer(neighbour) => {
                write!(f, "put the neighbour {} in place", neighbour.address)
            }
            Self::RemoveNeighbour(neighbour) => write!(f, "remove the neighbour {}", neighbour.address),
            Self::MakeOverlay { ifname, .. } => write!(f, "make the overlay's interface {ifname}"),
            Self::MoveOverlay { vxlan, .. } => {
                write!(f, "have the overlay's frames sent from {}", vxlan.local)
            }
            Self::RemoveOverlay { ifname, .. } => write!(f, "remove the overlay's interface {ifname}"),
            Self::PutForwarding(Forwarding { mac, machine, .. }) => {
                write!(f, "send the overlay's frames of {mac} to {machine}")
            }
            Self::RemoveForwarding(Forwarding { mac, machine, .. }) => {
                write!(f, "send no more of the overlay's frames of {mac} to {machine}")
            }
            Self::Restore(restoration) => match restoration.shaping {
                Shaping::Unchanged => {
                    write!(f, "tell the programs again of {}", restoration.endpoint.attachment.key)
                }
                Shaping::Began => write!(f, "send {} through its queue", restoration.endpoint.attachment.key),
                Shaping::Ended => write!(f, "send {} directly again", restoration.endpoint.attachment.key),
            },
            Self::Adopt(adoption) => write!(f, "take over {}, which has no record", adoption.key),
            Self::Forget(address) => write!(f, "remove {address} from the programs' map, which nobody has"),
            Self::RemoveLink { ifname, .. } => {
                write!(f, "remove the interface {ifname}, which has no record")
            }
            Self::Unpin(ifname) => write!(f, "remove the pins of {ifname}, which is gone"),
        }
    }
}
