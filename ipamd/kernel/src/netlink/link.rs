//! Interfaces.

use ipamd_netlink::NetlinkError;
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp, Prop},
};

use ipamd_api::MacAddr;
use rtnetlink::LinkUnspec;

use super::{
    socket::Socket,
    vxlan::{Vxlan, VxlanPort},
};

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its further names.
    pub second_names: Vec<String>,
    /// Its alias, empty if it has none.
    pub alias: String,
    /// Whether it is set up.
    pub up: bool,
    /// Bytes.
    pub mtu: u32,
    /// Whether it is one end of a veth pair.
    pub veth: bool,
    /// Its Ethernet address.
    pub mac: Option<MacAddr>,
    /// What it is as a VXLAN interface, if it is one.
    pub vxlan: Option<Vxlan>,
    /// The UDP port that it takes, if it is a VXLAN interface, and how.
    pub vxlan_port: Option<VxlanPort>,
    /// What it is, such as `bridge`; empty for a device.
    pub kind: String,
    /// Index of the bridge, bond or VRF that it is a port of.
    pub bridge: Option<u32>,
    /// Whether its packets have no Ethernet header, as those of many tunnels.
    pub headless: bool,
    /// The number of its XDP program.
    pub xdp: Option<u32>,
}

impl Link {
    /// Whether that is one of its names.
    pub fn is_named(&self, name: &str) -> bool {
        self.name == name || self.second_names.iter().any(|second| second == name)
    }

    pub(super) fn from_message(message: LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            up: message.header.flags.contains(LinkFlags::Up),
            headless: !matches!(
                message.header.link_layer_type,
                LinkLayerType::Ether | LinkLayerType::Loopback
            ),
            ..Self::default()
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::PropList(properties) => {
                    link.second_names = properties
                        .into_iter()
                        .filter_map(|property| match property {
                            Prop::AltIfName(name) => Some(name),
                            _ => None,
                        })
                        .collect();
                }
                LinkAttribute::IfAlias(alias) => link.alias = alias,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok().map(MacAddr),
                LinkAttribute::Controller(index) => link.bridge = Some(index),
                LinkAttribute::LinkInfo(infos) => {
                    link.veth = infos.contains(&LinkInfo::Kind(InfoKind::Veth));
                    link.vxlan = infos.iter().find_map(Vxlan::from_info);
                    link.vxlan_port = infos.iter().find_map(VxlanPort::from_info);
                    let kind = infos.iter().find_map(|info| match info {
                        LinkInfo::Kind(kind) => Some(kind.to_string()),
                        _ => None,
                    });
                    link.kind = kind.unwrap_or_default();
                }
                LinkAttribute::Xdp(xdp) => {
                    link.xdp = xdp.iter().find_map(|xdp| match xdp {
                        LinkXdp::ProgId(number) => Some(*number),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        link
    }
}

impl Socket {
    /// All interfaces.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        self.dump(
            &RouteNetlinkMessage::GetLink(LinkMessage::default()),
            "interfaces",
            |message| match message {
                RouteNetlinkMessage::NewLink(message) => Some(Link::from_message(message)),
                _ => None,
            },
        )
    }

    /// Sets an interface up.
    pub fn set_link_up(&mut self, index: u32) -> Result<(), NetlinkError> {
        let link = LinkUnspec::new_with_index(index).up().build();
        self.request(&RouteNetlinkMessage::SetLink(link), 0, format!("set interface {index} up"))
    }

    /// Sets the MTU of an interface.
    pub fn set_link_mtu(&mut self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        let link = LinkUnspec::new_with_index(index).mtu(mtu).build();
        let action = format!("set the MTU of interface {index} to {mtu}");
        self.request(&RouteNetlinkMessage::SetLink(link), 0, action)
    }

    /// Takes a second name from an interface.
    pub fn remove_second_name(&mut self, index: u32, name: &str) -> Result<(), NetlinkError> {
        let names = LinkAttribute::PropList(vec![Prop::AltIfName(name.to_owned())]);
        let link = LinkUnspec::new_with_index(index).append_extra_attribute(names).build();
        let action = format!("take the name {name} from interface {index}");
        self.request(&RouteNetlinkMessage::DelLinkProp(link), 0, action)
    }

    /// Puts an interface into a link group.
    pub fn set_link_group(&mut self, index: u32, group: u32) -> Result<(), NetlinkError> {
        let link = LinkUnspec::new_with_index(index).link_group(group).build();
        let action = format!("put interface {index} into group {group}");
        self.request(&RouteNetlinkMessage::SetLink(link), 0, action)
    }

    /// Removes an interface, and the other end of its pair.
    pub fn remove_link(&mut self, index: u32) -> Result<(), NetlinkError> {
        let link = LinkUnspec::new_with_index(index).build();
        self.request(&RouteNetlinkMessage::DelLink(link), 0, format!("remove interface {index}"))
    }

    /// Removes all interfaces of a link group; the kernel waits once for all of them.
    pub fn remove_link_group(&mut self, group: u32) -> Result<(), NetlinkError> {
        let links = LinkUnspec::new_with_index(0).link_group(group).build();
        let action = format!("remove the interfaces of group {group}");
        self.request(&RouteNetlinkMessage::DelLink(links), 0, action)
    }
}
