//! Where senders are: the Ethernet addresses of endpoints by their host ends, and how packets of other nodes' endpoints come.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::PoisonError,
};

use bpf::{
    attach::Pins,
    layout::{EthernetAddress, Ip4, Ip6, Plain, Prefix4, Prefix6},
};
use ipnetwork::IpNetwork;
use libbpf_rs::MapHandle;

use super::{Datapath, DatapathError, EndpointEntry, maps::TypedMap};
use crate::concerned::Concerned;

/// Where senders are, by their prefix.
pub type Origins = BTreeMap<IpNetwork, Origin>;

/// Where the senders of a prefix are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// On this node, or nowhere.
    Here,
    /// Nowhere: the address means all of a network of the node's, or all of its routers.
    AllOfNetwork,
    /// Endpoints of a node that sends directly, or by the overlay.
    Node(NearNode),
    /// Endpoints of a node that sends by the overlay alone.
    Overlay,
}

impl Origin {
    /// The node that sends directly.
    pub fn node(&self) -> Option<NearNode> {
        match self {
            Self::Node(node) => Some(*node),
            Self::Here | Self::AllOfNetwork | Self::Overlay => None,
        }
    }

    /// As the programs have it, where `node` is an address that they know as one of their family.
    fn machine<A: Copy>(&self, node: Option<A>, [here, all]: [A; 2], nowhere: A) -> A {
        match self {
            Self::Here => here,
            Self::AllOfNetwork => all,
            Self::Node(_) => node.unwrap_or(nowhere),
            Self::Overlay => nowhere,
        }
    }
}

/// In place of a machine: the prefix is this node's own.
const HERE4: Ipv4Addr = Ipv4Addr::BROADCAST;
/// In place of a machine: the address means all of a network.
const ALL4: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 254);
/// As [`HERE4`].
const HERE6: Ipv6Addr = Ipv6Addr::from_bits(u128::MAX);
/// As [`ALL4`]: the programs look at the first word.
const ALL6: Ipv6Addr = Ipv6Addr::from_bits(0xffff_fffe << 96);

/// A node of a link of this one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NearNode {
    /// Index of the uplink that leads there.
    pub ifindex: u32,
    /// The address that it is reached at.
    pub address: IpAddr,
}

impl Datapath {
    /// Sets from where senders are believed.
    pub fn set_origins(&self, origins: &Origins) -> Result<(), DatapathError> {
        let mut known = self.origins.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref() == Some(origins) {
            return Ok(());
        }
        let is_new = |(prefix, origin): &(&IpNetwork, &Origin)| {
            **origin == Origin::AllOfNetwork
                && known.as_ref().is_none_or(|known| known.get(prefix) != Some(*origin))
        };
        // The host's stack has what went there before, as something that it does not know the way to.
        let concerned: Concerned = origins.iter().filter(is_new).map(|(prefix, _)| *prefix).collect();
        *known = None;
        let (mut wanted4, mut wanted6) = (Vec::new(), Vec::new());
        let (mut nodes4, mut nodes6) = (HashSet::new(), HashSet::new());
        for (prefix, origin) in origins {
            let node = origin.node().map(|node| node.address);
            match prefix {
                IpNetwork::V4(prefix) => {
                    let node = match node {
                        Some(IpAddr::V4(node)) => Some(node),
                        _ => None,
                    };
                    let node = origin.machine(node, [HERE4, ALL4], Ipv4Addr::UNSPECIFIED);
                    let key = Prefix4 { length: prefix.prefix().into(), address: prefix.network().into() };
                    nodes4.insert(node);
                    wanted4.push((key, Ip4::from(node)));
                }
                IpNetwork::V6(prefix) => {
                    let node = match node {
                        Some(IpAddr::V6(node)) => Some(node),
                        _ => None,
                    };
                    let node = origin.machine(node, [HERE6, ALL6], Ipv6Addr::UNSPECIFIED);
                    let key = Prefix6 { length: prefix.prefix().into(), address: prefix.network().into() };
                    nodes6.insert(node);
                    wanted6.push((key, Ip6::from(node)));
                }
            }
        }
        super::sync_entries(&self.node_prefixes4, &wanted4)?;
        super::sync_entries(&self.node_prefixes6, &wanted6)?;
        forget_others(&self.node_macs4, |node| nodes4.contains(&Ipv4Addr::from(node)))?;
        forget_others(&self.node_macs6, |node| nodes6.contains(&Ipv6Addr::from(node)))?;
        self.raise_epoch(&concerned)?;
        *known = Some(origins.clone());
        Ok(())
    }

    /// The nodes of this one's links that the pinned maps tell of; none, where there are no maps.
    pub fn near_nodes(pins: &Pins) -> BTreeSet<IpAddr> {
        let pinned =
            |name: &str| MapHandle::from_pinned_path(pins.map(name)).map_err(DatapathError::map(name));
        let mut nodes = BTreeSet::new();
        if let Ok(prefixes) = TypedMap::<Prefix4, Ip4>::open("node_prefixes4", pinned) {
            let values = prefixes.keys().into_iter().filter_map(|key| prefixes.get(&key).ok()?);
            nodes.extend(values.map(|node| IpAddr::from(Ipv4Addr::from(node))));
        }
        if let Ok(prefixes) = TypedMap::<Prefix6, Ip6>::open("node_prefixes6", pinned) {
            let values = prefixes.keys().into_iter().filter_map(|key| prefixes.get(&key).ok()?);
            nodes.extend(values.map(|node| IpAddr::from(Ipv6Addr::from(node))));
        }
        let none = [IpAddr::from(HERE4), ALL4.into(), HERE6.into(), ALL6.into()];
        nodes.retain(|node| !node.is_unspecified() && !none.contains(node));
        nodes
    }

    /// An endpoint speaks on its link as its Ethernet address says.
    pub(super) fn put_host_end(&self, entry: &EndpointEntry) -> Result<(), DatapathError> {
        self.host_ends.put(&entry.ifindex, &EthernetAddress { mac: entry.container_mac.0, pad: 0 })
    }

    /// The endpoint of an address is to be cut off; so it does not speak, either.
    pub(super) fn remove_host_end(&self, address: IpAddr) -> Result<(), DatapathError> {
        let known = match address {
            IpAddr::V4(address) => self.endpoints4.get(&address.into()),
            IpAddr::V6(address) => self.endpoints6.get(&address.into()),
        }?;
        known.map_or(Ok(()), |endpoint| self.host_ends.remove(&endpoint.ifindex))
    }

    /// The host ends of the endpoints that an earlier daemon has left, and no others.
    pub(super) fn adopt_host_ends(&self) -> Result<(), DatapathError> {
        let endpoints = self.endpoints()?;
        for entry in endpoints.values() {
            self.put_host_end(entry)?;
        }
        let known: HashSet<_> = endpoints.values().map(|entry| entry.ifindex).collect();
        forget_others(&self.host_ends, |ifindex| known.contains(&ifindex))
    }
}

fn forget_others<K: Plain, V: Plain>(
    map: &TypedMap<K, V>,
    wanted: impl Fn(K) -> bool,
) -> Result<(), DatapathError> {
    map.keys().iter().filter(|key| !wanted(**key)).try_for_each(|key| map.remove(key))
}
