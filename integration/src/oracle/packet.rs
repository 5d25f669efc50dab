//! A packet that opens a flow, seen from one of its ends.

use std::{fmt, net::IpAddr};

use super::inventory::{Inventory, Item};

/// Protocols by number.
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// GRE, which has no ports.
    pub const GRE: u8 = 47;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// UDPLite.
    pub const UDPLITE: u8 = 136;

    /// Whether its packets have ports.
    pub fn has_ports(protocol: u8) -> bool {
        matches!(protocol, TCP | UDP | SCTP | UDPLITE)
    }
}

/// Which way the packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// To the endpoint.
    Ingress,
    /// From the endpoint.
    Egress,
}

impl Direction {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];
}

/// What opens a flow, but for its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// IP protocol number.
    pub protocol: u8,
    /// The opener's port.
    pub source_port: u16,
    /// The other side's port; for ICMP the type in the upper byte and the code in the lower; 0 for the rest.
    pub destination_port: u16,
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { protocol, source_port, destination_port } = self;
        write!(f, "protocol {protocol} from {source_port} to {destination_port}")
    }
}

/// An address, and everything that it belongs to.
#[derive(Debug)]
pub struct End<'a> {
    address: IpAddr,
    items: Vec<&'a Item>,
    names: Vec<String>,
}

/// One side of the packet.
#[derive(Debug)]
pub struct Side<'a> {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Everything that the address belongs to.
    pub items: &'a [&'a Item],
    /// The DNS names that the other side was told to have the address; of the destination of what an endpoint sends only.
    pub names: &'a [String],
}

/// The packet.
#[derive(Debug)]
pub struct Packet<'a> {
    /// Whom addresses belong to.
    pub inventory: &'a Inventory,
    /// Who opens the flow.
    pub source: Side<'a>,
    /// Whom to.
    pub destination: Side<'a>,
    /// IP protocol number.
    pub protocol: u8,
}

impl Inventory {
    /// An address of a packet.
    pub fn end(&self, address: IpAddr) -> End<'_> {
        End { address, items: self.owners(address), names: Vec::new() }
    }
}

impl End<'_> {
    /// The same, with the DNS names that the other side was told to have the address.
    #[must_use]
    pub fn told(self, names: &[String]) -> Self {
        Self { names: names.to_vec(), ..self }
    }
}

impl<'a> Packet<'a> {
    /// The packet of a flow from one address to another.
    pub fn between(
        inventory: &'a Inventory,
        source: &'a End<'_>,
        destination: &'a End<'_>,
        flow: Flow,
    ) -> Self {
        let side = |end: &'a End<'_>, port| Side {
            address: end.address,
            port,
            items: &end.items,
            names: &end.names,
        };
        Self {
            inventory,
            source: side(source, flow.source_port),
            destination: side(destination, flow.destination_port),
            protocol: flow.protocol,
        }
    }

    /// Whether a side's port is the one that its pod has under that name for the protocol.
    pub fn is_named(&self, side: &Side<'_>, name: &str) -> bool {
        side.items
            .iter()
            .flat_map(|item| &item.ports)
            .any(|port| port.name == name && port.protocol == self.protocol && port.number == side.port)
    }
}
