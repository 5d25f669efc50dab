//! Where senders are, against spoofing: the ways by which packets of other nodes' endpoints arrive.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::PoisonError,
};

use bpf::layout::{Ip4, Ip6, ORIGIN_ALL4, ORIGIN_ALL6, ORIGIN_HERE4, ORIGIN_HERE6, Prefix4, Prefix6};
use ipnetwork::IpNetwork;

use super::{
    datapath::Datapath,
    error::DatapathError,
    sync::{remove_others, sync_entries},
};
use ipamd_model::{
    concerned::Concerned,
    origins::{Origin, Origins},
};

/// As the programs have it, where `node` is an address that they know as one of their family.
fn machine<A: Copy>(origin: &Origin, node: Option<A>, [here, all]: [A; 2], nowhere: A) -> A {
    match origin {
        Origin::Here => here,
        Origin::AllOfNetwork => all,
        Origin::Node(_) => node.unwrap_or(nowhere),
        Origin::Overlay => nowhere,
    }
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
                    let node = machine(origin, node, [ORIGIN_HERE4, ORIGIN_ALL4], Ipv4Addr::UNSPECIFIED);
                    let key = Prefix4 { length: prefix.prefix().into(), address: prefix.network().into() };
                    nodes4.insert(node);
                    wanted4.push((key, Ip4::from(node)));
                }
                IpNetwork::V6(prefix) => {
                    let node = match node {
                        Some(IpAddr::V6(node)) => Some(node),
                        _ => None,
                    };
                    let node = machine(origin, node, [ORIGIN_HERE6, ORIGIN_ALL6], Ipv6Addr::UNSPECIFIED);
                    let key = Prefix6 { length: prefix.prefix().into(), address: prefix.network().into() };
                    nodes6.insert(node);
                    wanted6.push((key, Ip6::from(node)));
                }
            }
        }
        sync_entries(&self.node_prefixes4, &wanted4)?;
        sync_entries(&self.node_prefixes6, &wanted6)?;
        remove_others(&self.node_macs4, |node| nodes4.contains(&Ipv4Addr::from(node)))?;
        remove_others(&self.node_macs6, |node| nodes6.contains(&Ipv6Addr::from(node)))?;
        self.raise_epoch(&concerned)?;
        *known = Some(origins.clone());
        Ok(())
    }
}
