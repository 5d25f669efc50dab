//! What is in force on a node, as its programs see it: read from the pinned maps.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use bpf::{
    attach::Pins,
    layout::{Frontend, FrontendKey4, Ip4, Ip6, Member4, Node, Peer, Plain},
};
use libbpf_rs::{MapCore, MapFlags, MapHandle};

use crate::population::{PORT, SERVICE_PORT, cluster_ip};

const TCP: u8 = 6;

/// The maps of a node.
pub struct Enforced {
    node: MapHandle,
    peers4: MapHandle,
    peers6: MapHandle,
    frontends: MapHandle,
    members: MapHandle,
    /// The set of peers that was in force when it was looked last, with its maps.
    set: Option<(u32, MapHandle, MapHandle)>,
}

impl Enforced {
    pub fn open(pins: &Pins) -> Result<Self> {
        let open = |name: &str| {
            MapHandle::from_pinned_path(pins.map(name)).with_context(|| format!("open the map {name}"))
        };
        Ok(Self {
            node: open("node")?,
            peers4: open("peers4")?,
            peers6: open("peers6")?,
            frontends: open("frontends4")?,
            members: open("members4")?,
            set: None,
        })
    }

    /// The class of an address, if it has one.
    pub fn class(&mut self, address: IpAddr) -> Result<Option<u32>> {
        let node: Node = get(&self.node, &0_u32)?.context("the node's own entry")?;
        if self.set.as_ref().is_none_or(|(number, ..)| *number != node.set) {
            let inner = |outer: &MapHandle| -> Result<MapHandle> {
                let id: u32 = get(outer, &node.set)?.context("a set of peers")?;
                Ok(MapHandle::from_map_id(id)?)
            };
            self.set = Some((node.set, inner(&self.peers4)?, inner(&self.peers6)?));
        }
        let (_, v4, v6) = self.set.as_ref().context("a set")?;
        let peer: Option<Peer> = match address {
            IpAddr::V4(address) => get(v4, &Ip4::from(address))?,
            IpAddr::V6(address) => get(v6, &Ip6::from(address))?,
        };
        Ok(peer.map(|peer| peer.class))
    }

    /// Whether a service leads to an address.
    pub fn serves(&self, service: u32, address: Ipv4Addr) -> Result<bool> {
        let key = FrontendKey4 {
            address: cluster_ip(service).into(),
            port: SERVICE_PORT.to_be(),
            protocol: TCP,
            pad: 0,
        };
        let Some(frontend) = get::<_, Frontend>(&self.frontends, &key)? else { return Ok(false) };
        let member =
            Member4 { service: frontend.service, address: address.into(), port: PORT.to_be(), pad: 0 };
        Ok(get::<_, u32>(&self.members, &member)?.is_some())
    }
}

fn get<K: Plain, V: Plain>(map: &MapHandle, key: &K) -> Result<Option<V>> {
    Ok(map.lookup(key.as_bytes(), MapFlags::ANY)?.and_then(|bytes| V::from_bytes(&bytes)))
}
