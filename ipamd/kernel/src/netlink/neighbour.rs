//! Neighbour entries: the Ethernet address of an IP address.

use std::net::IpAddr;

use ipamd_api::MacAddr;
use ipamd_netlink::NetlinkError;
use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::RouteType,
};

use super::socket::Socket;

/// `NTF_USE`: the kernel asks for the neighbour as if a packet waited for it.
const USE: u8 = 1;
/// `NDA_FLAGS_EXT`, and in it `NTF_EXT_MANAGED` (Linux 5.16): the kernel keeps asking. Older ones pass over it.
const FLAGS_EXT: u16 = 15;
const EXT_MANAGED: u32 = 1;

/// A permanent neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Index of the interface.
    pub ifindex: u32,
    /// Its IP address.
    pub address: IpAddr,
    /// Its Ethernet address.
    pub mac: MacAddr,
}

impl Neighbour {
    pub(super) fn from_message(message: NeighbourMessage) -> Option<Self> {
        if message.header.state != NeighbourState::Permanent {
            return None;
        }
        let address = named(&message)?;
        let mac = message.attributes.into_iter().find_map(|attribute| match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => bytes.try_into().ok().map(MacAddr),
            _ => None,
        })?;
        Some(Self { ifindex: message.header.ifindex, address, mac })
    }
}

/// The IP address of the neighbour that a message is of.
fn named(message: &NeighbourMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some((*ip).into()),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some((*ip).into()),
        _ => None,
    })
}

/// The message that names a neighbour.
fn message(neighbour: &Neighbour) -> NeighbourMessage {
    let Neighbour { ifindex, address, mac } = *neighbour;
    let mut message = NeighbourMessage::default();
    message.header.state = NeighbourState::Permanent;
    message.header.kind = RouteType::Unicast;
    name(&mut message, ifindex, address);
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    message
}

/// Says which neighbour is meant.
fn name(message: &mut NeighbourMessage, ifindex: u32, address: IpAddr) {
    message.header.ifindex = ifindex;
    message.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.attributes.push(NeighbourAttribute::Destination(address.into()));
}

impl Socket {
    /// The permanent neighbours on interfaces that `concerns` says yes to: an overlay has very many.
    pub fn neighbours(&mut self, concerns: impl Fn(u32) -> bool) -> Result<Vec<Neighbour>, NetlinkError> {
        let query = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
        // `struct ndmsg` begins with a family and three bytes of nothing.
        let on = |neighbour: &[u8]| {
            let ifindex = neighbour.get(4..8).and_then(|bytes| bytes.try_into().ok());
            ifindex.is_none_or(|bytes| concerns(u32::from_ne_bytes(bytes)))
        };
        self.dump_some(&query, "neighbours", on, |message| match message {
            RouteNetlinkMessage::NewNeighbour(message) => Neighbour::from_message(message),
            _ => None,
        })
    }

    /// Adds a permanent neighbour, or corrects it.
    pub fn put_neighbour(&mut self, neighbour: &Neighbour) -> Result<(), NetlinkError> {
        let Neighbour { ifindex, address, mac } = *neighbour;
        self.request(
            &RouteNetlinkMessage::NewNeighbour(message(neighbour)),
            NLM_F_CREATE | NLM_F_REPLACE,
            format!("set the neighbour {address} of interface {ifindex} to {mac}"),
        )
    }

    /// Has the kernel know at all times at which Ethernet address a machine of an interface's link is. Repeating it does no
    /// harm; the kernel forgets it when the interface goes down.
    pub fn watch_neighbour(&mut self, ifindex: u32, address: IpAddr) -> Result<(), NetlinkError> {
        let mut message = NeighbourMessage::default();
        message.header.state = NeighbourState::None;
        // Else the table's garbage collection may take it.
        message.header.flags = NeighbourFlags::ExtLearned | NeighbourFlags::from_bits_retain(USE);
        name(&mut message, ifindex, address);
        let flags = DefaultNla::new(FLAGS_EXT, EXT_MANAGED.to_ne_bytes().to_vec());
        message.attributes.push(NeighbourAttribute::Other(flags));
        self.request(
            &RouteNetlinkMessage::NewNeighbour(message),
            NLM_F_CREATE,
            format!("watch the neighbour {address} of interface {ifindex}"),
        )
    }

    /// The neighbours that somebody has the kernel watch, by their interfaces.
    pub fn watched_neighbours(&mut self) -> Result<Vec<(u32, IpAddr)>, NetlinkError> {
        let query = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
        self.dump(&query, "neighbours", |message| match message {
            RouteNetlinkMessage::NewNeighbour(message)
                if message.header.flags.contains(NeighbourFlags::ExtLearned)
                    && message.header.state != NeighbourState::Permanent =>
            {
                Some((message.header.ifindex, named(&message)?))
            }
            _ => None,
        })
    }

    /// Has it forget the machine.
    pub fn forget_neighbour(&mut self, ifindex: u32, address: IpAddr) -> Result<(), NetlinkError> {
        let mut message = NeighbourMessage::default();
        name(&mut message, ifindex, address);
        self.request(
            &RouteNetlinkMessage::DelNeighbour(message),
            0,
            format!("forget the neighbour {address} of interface {ifindex}"),
        )
    }

    /// Removes a neighbour.
    pub fn remove_neighbour(&mut self, neighbour: &Neighbour) -> Result<(), NetlinkError> {
        let Neighbour { ifindex, address, .. } = *neighbour;
        self.request(
            &RouteNetlinkMessage::DelNeighbour(message(neighbour)),
            0,
            format!("remove the neighbour {address} of interface {ifindex}"),
        )
    }
}
