//! Interfaces.

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp, Prop},
};

use ipamd_api::MacAddr;

use super::{
    socket::{NetlinkError, Socket},
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

/// A message about the interface of that index.
fn about(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
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
        let mut message = about(index);
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.request(RouteNetlinkMessage::SetLink(message), 0, || format!("set interface {index} up"))
    }

    /// Sets the MTU of an interface.
    pub fn set_link_mtu(&mut self, index: u32, mtu: u32) -> Result<(), NetlinkError> {
        let mut message = about(index);
        message.attributes.push(LinkAttribute::Mtu(mtu));
        self.request(RouteNetlinkMessage::SetLink(message), 0, || {
            format!("set the MTU of interface {index} to {mtu}")
        })
    }

    /// Takes a second name from an interface.
    pub fn remove_second_name(&mut self, index: u32, name: &str) -> Result<(), NetlinkError> {
        let mut message = about(index);
        message.attributes.push(LinkAttribute::PropList(vec![Prop::AltIfName(name.to_owned())]));
        self.request(RouteNetlinkMessage::DelLinkProp(message), 0, || {
            format!("take the name {name} from interface {index}")
        })
    }

    /// Puts an interface into a link group.
    pub fn set_link_group(&mut self, index: u32, group: u32) -> Result<(), NetlinkError> {
        let mut message = about(index);
        message.attributes.push(LinkAttribute::Group(group));
        self.request(RouteNetlinkMessage::SetLink(message), 0, || {
            format!("put interface {index} into group {group}")
        })
    }

    /// Removes an interface, and the other end of its pair.
    pub fn remove_link(&mut self, index: u32) -> Result<(), NetlinkError> {
        self.request(RouteNetlinkMessage::DelLink(about(index)), 0, || format!("remove interface {index}"))
    }

    /// Removes all interfaces of a link group; the kernel waits once for all of them.
    pub fn remove_link_group(&mut self, group: u32) -> Result<(), NetlinkError> {
        let mut message = about(0);
        message.attributes.push(LinkAttribute::Group(group));
        self.request(RouteNetlinkMessage::DelLink(message), 0, || {
            format!("remove the interfaces of group {group}")
        })
    }
}
