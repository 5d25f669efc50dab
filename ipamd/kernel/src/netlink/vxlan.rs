//! VXLAN interfaces and their forwarding entries (RFC 7348).

use std::net::IpAddr;

use ipamd_api::MacAddr;
use ipamd_netlink::NetlinkError;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{InfoData, InfoKind, InfoVxlan, LinkInfo},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
};
use rtnetlink::{LinkMessageBuilder, LinkVxlan};

use super::socket::Socket;

/// What makes a VXLAN interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// The network's number, 24 bits.
    pub id: u32,
    /// The UDP port that it is reached at.
    pub port: u16,
    /// The address that it sends from.
    pub local: IpAddr,
}

impl Vxlan {
    pub(super) fn from_info(info: &LinkInfo) -> Option<Self> {
        let LinkInfo::Data(InfoData::Vxlan(attributes)) = info else { return None };
        let (mut id, mut port, mut local) = (None, None, None);
        for attribute in attributes {
            match attribute {
                InfoVxlan::Id(number) => id = Some(*number),
                InfoVxlan::Port(number) => port = Some(*number),
                InfoVxlan::Local(address) => local = Some((*address).into()),
                InfoVxlan::Local6(address) => local = Some((*address).into()),
                _ => {}
            }
        }
        Some(Self { id: id?, port: port?, local: local? })
    }
}

/// The UDP port of a VXLAN interface, and what of the interface decides who else may have the port.
///
/// Interfaces with the same port share a socket, so they must treat packets alike: a second one that does not cannot be set
/// up. Two interfaces cannot have one port and one VNI.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VxlanPort {
    /// The port.
    pub port: u16,
    /// The network's number. Without one it takes packets of any.
    pub id: Option<u32>,
    /// Whether machines reach it by IPv6.
    pub ipv6: bool,
    /// Ways to treat packets that a VXLAN interface does not have by itself, in the words of `ip link`.
    pub treatment: Vec<&'static str>,
}

impl VxlanPort {
    /// Packets over IPv6 may lack a checksum.
    pub const ZERO_SUMS: &'static str = "udp6zerocsumrx";

    pub(super) fn from_info(info: &LinkInfo) -> Option<Self> {
        let LinkInfo::Data(InfoData::Vxlan(attributes)) = info else { return None };
        let mut found = Self::default();
        for attribute in attributes {
            let treatment = match attribute {
                InfoVxlan::CollectMetadata(true) => "external",
                InfoVxlan::Vnifilter(true) => "vnifilter",
                InfoVxlan::UDPZeroCsumRX(true) => Self::ZERO_SUMS,
                InfoVxlan::RemCsumRX(true) => "remcsumrx",
                InfoVxlan::Gbp => "gbp",
                InfoVxlan::Gpe => "gpe",
                InfoVxlan::Id(number) => {
                    found.id = Some(*number);
                    continue;
                }
                InfoVxlan::Port(number) => {
                    found.port = *number;
                    continue;
                }
                InfoVxlan::Local6(_) | InfoVxlan::Group6(_) => {
                    found.ipv6 = true;
                    continue;
                }
                _ => continue,
            };
            found.treatment.push(treatment);
        }
        if found.treatment.contains(&"external") {
            found.id = None;
        }
        Some(found)
    }
}

/// Which machine an Ethernet address is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Forwarding {
    /// Index of the VXLAN interface.
    pub ifindex: u32,
    /// The Ethernet address.
    pub mac: MacAddr,
    /// The machine.
    pub machine: IpAddr,
}

impl Forwarding {
    pub(super) fn from_message(message: NeighbourMessage) -> Option<Self> {
        let (mut mac, mut machine) = (None, None);
        for attribute in message.attributes {
            match attribute {
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.try_into().ok().map(MacAddr),
                NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => machine = Some(ip.into()),
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => machine = Some(ip.into()),
                // Addresses of a family that the library does not look into are left as they are.
                NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => machine = address(&bytes),
                _ => {}
            }
        }
        Some(Self { ifindex: message.header.ifindex, mac: mac?, machine: machine? })
    }

    fn message(&self) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.header.ifindex = self.ifindex;
        message.header.state = NeighbourState::Permanent;
        message.header.flags = NeighbourFlags::Own;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(self.mac.0.to_vec()));
        message.attributes.push(NeighbourAttribute::Destination(self.machine.into()));
        message
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    v4.or_else(|| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from))
}

impl Socket {
    /// Makes a VXLAN interface and sets it up. It learns nothing: it sends where it is told to.
    pub fn add_vxlan(
        &mut self,
        name: &str,
        mac: MacAddr,
        mtu: u32,
        vxlan: &Vxlan,
    ) -> Result<(), NetlinkError> {
        let link = LinkVxlan::new(name, vxlan.id)
            .address(mac.0.to_vec())
            .mtu(mtu)
            .port(vxlan.port)
            .learning(false)
            .up();
        let link = match vxlan.local {
            IpAddr::V4(ip) => link.local(ip),
            // As over IPv4, the frame inside has its own checksums.
            IpAddr::V6(ip) => link.local6(ip).udp_zero_csum6_tx(true).udp_zero_csum6_rx(true),
        };
        let action = format!("make the interface {name}");
        self.request(&RouteNetlinkMessage::NewLink(link.build()), NLM_F_CREATE | NLM_F_EXCL, action)
    }

    /// Has a VXLAN interface send from another address of the same family, and have another Ethernet address. What else it
    /// is stays.
    pub fn move_vxlan(&mut self, ifindex: u32, mac: MacAddr, vxlan: &Vxlan) -> Result<(), NetlinkError> {
        let link = LinkMessageBuilder::<LinkVxlan>::new_with_info_kind(InfoKind::Vxlan)
            .index(ifindex)
            .address(mac.0.to_vec())
            .id(vxlan.id);
        let link = match vxlan.local {
            IpAddr::V4(ip) => link.local(ip),
            IpAddr::V6(ip) => link.local6(ip),
        };
        let action = format!("have interface {ifindex} send from {}", vxlan.local);
        self.request(&RouteNetlinkMessage::NewLink(link.build()), 0, action)
    }

    /// Where the frames of VXLAN interfaces go.
    pub fn forwarding(&mut self) -> Result<Vec<Forwarding>, NetlinkError> {
        let mut query = NeighbourMessage::default();
        query.header.family = AddressFamily::Bridge;
        self.dump(&RouteNetlinkMessage::GetNeighbour(query), "forwarding entries", |message| match message {
            RouteNetlinkMessage::NewNeighbour(message) => Forwarding::from_message(message),
            _ => None,
        })
    }

    /// Sends the frames of an Ethernet address to a machine.
    pub fn put_forwarding(&mut self, forwarding: &Forwarding) -> Result<(), NetlinkError> {
        self.request(
            &RouteNetlinkMessage::NewNeighbour(forwarding.message()),
            NLM_F_CREATE | NLM_F_REPLACE,
            format!("send frames of {} to {}", forwarding.mac, forwarding.machine),
        )
    }

    /// Sends them nowhere.
    pub fn remove_forwarding(&mut self, forwarding: &Forwarding) -> Result<(), NetlinkError> {
        self.request(
            &RouteNetlinkMessage::DelNeighbour(forwarding.message()),
            0,
            format!("send no more frames of {} to {}", forwarding.mac, forwarding.machine),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_read_back_is_the_one_that_was_written() {
        for machine in ["192.0.2.1", "2001:db8::1"] {
            let entry = Forwarding { ifindex: 3, mac: MacAddr([2; 6]), machine: machine.parse().unwrap() };
            assert_eq!(Forwarding::from_message(entry.message()), Some(entry));
        }
        assert_eq!(address(&[192, 0, 2, 1]), Some("192.0.2.1".parse().unwrap()));
        assert_eq!(address(&[1]), None);
    }
}
