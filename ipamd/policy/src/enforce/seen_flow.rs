//! A flow as it was seen or is asked about.

use std::net::IpAddr;

use ipamd_api::policy::IcmpMessage;
use ipamd_model::policy::{
    Direction,
    protocol::{has_ports, is_icmp},
};

/// A flow, as its opener sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeenFlow {
    /// IP protocol number.
    pub protocol: u8,
    /// Who opens it.
    pub source: IpAddr,
    /// Its port.
    pub source_port: u16,
    /// Whom it is opened to.
    pub destination: IpAddr,
    /// Its port; for ICMP `type << 8 | code`.
    pub destination_port: u16,
}

/// A flow, and what its opener calls the other side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NamedFlow {
    /// The flow.
    pub flow: SeenFlow,
    /// The DNS names that the opener was told for the destination.
    pub names: Vec<String>,
}

/// The numbers of a flow as people name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// The opener's port, or the identifier of an ICMP echo; 0 where there is none.
    pub source: u16,
    /// The other side's port; 0 where there is none.
    pub destination: u16,
    /// The ICMP message.
    pub icmp: Option<IcmpMessage>,
}

impl SeenFlow {
    /// Its numbers apart: an ICMP type is no port.
    pub fn numbers(&self) -> Numbers {
        if is_icmp(self.protocol) {
            let [kind, code] = self.destination_port.to_be_bytes();
            Numbers { source: self.source_port, destination: 0, icmp: Some(IcmpMessage { kind, code }) }
        } else {
            let (source, destination) =
                if has_ports(self.protocol) { (self.source_port, self.destination_port) } else { (0, 0) };
            Numbers { source, destination, icmp: None }
        }
    }

    /// The other side, as the endpoint sees it.
    pub(super) fn peer(&self, direction: Direction) -> IpAddr {
        match direction {
            Direction::Ingress => self.source,
            Direction::Egress => self.destination,
        }
    }
}
