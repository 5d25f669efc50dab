//! Addresses of interfaces.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipamd_netlink::NetlinkError;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope},
};
use rtnetlink::AddressMessageBuilder;

use super::socket::Socket;

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Index of the interface.
    pub ifindex: u32,
    /// The address.
    pub address: IpAddr,
    /// Length of its prefix.
    pub prefix: u8,
    /// The broadcast address that goes with it, if somebody has given one.
    pub broadcast: Option<Ipv4Addr>,
    /// Whether it can be the source of packets to everywhere: of global scope, and neither secondary, deprecated,
    /// temporary nor still being probed.
    pub usable: bool,
}

impl Address {
    pub(super) fn from_message(message: &AddressMessage) -> Option<Self> {
        let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
        let mut address = None;
        let mut local = None;
        let mut broadcast = None;
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Address(ip) => address = Some(*ip),
                AddressAttribute::Local(ip) => local = Some(*ip),
                AddressAttribute::Broadcast(ip) => broadcast = Some(*ip),
                AddressAttribute::Flags(all) => flags = *all,
                _ => {}
            }
        }
        // On a point-to-point interface the first is the other side's.
        let address = local.or(address)?;
        // IPv6 uses the bit of "secondary" for temporary addresses.
        let unfit = AddressFlags::Secondary
            | AddressFlags::Deprecated
            | AddressFlags::Tentative
            | AddressFlags::Dadfailed;
        Some(Self {
            ifindex: message.header.index,
            address,
            prefix: message.header.prefix_len,
            broadcast,
            usable: message.header.scope == AddressScope::Universe && !flags.intersects(unfit),
        })
    }
}

fn host_address(ifindex: u32, address: IpAddr) -> AddressMessage {
    match address {
        IpAddr::V4(ip) => AddressMessageBuilder::<Ipv4Addr>::new().index(ifindex).address(ip, 32).build(),
        IpAddr::V6(ip) => AddressMessageBuilder::<Ipv6Addr>::new().index(ifindex).address(ip, 128).build(),
    }
}

impl Socket {
    /// All addresses.
    pub fn addresses(&mut self) -> Result<Vec<Address>, NetlinkError> {
        self.dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()), "addresses", |message| {
            match message {
                RouteNetlinkMessage::NewAddress(message) => Address::from_message(&message),
                _ => None,
            }
        })
    }

    /// Gives an interface a host address (/32 or /128), usable at once.
    pub fn add_address(&mut self, ifindex: u32, address: IpAddr) -> Result<(), NetlinkError> {
        let mut message = host_address(ifindex, address);
        if address.is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
        }
        self.request(
            &RouteNetlinkMessage::NewAddress(message),
            NLM_F_CREATE | NLM_F_REPLACE,
            format!("give interface {ifindex} the address {address}"),
        )
    }

    /// Takes a host address from an interface.
    pub fn remove_address(&mut self, ifindex: u32, address: IpAddr) -> Result<(), NetlinkError> {
        self.request(
            &RouteNetlinkMessage::DelAddress(host_address(ifindex, address)),
            0,
            format!("take the address {address} from interface {ifindex}"),
        )
    }
}
