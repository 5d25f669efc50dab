//! Processes of the node whose listening ports are shadowed by a service or a host port: they get no connections from
//! other machines.

use std::net::IpAddr;

use super::{
    balancer::Balancer,
    port::Programmed,
    state::State,
    tables::{Family, FrontendKey},
};
use ipamd_kernel::netlink::Listener;

impl Balancer {
    /// The shadowed ports of these listeners, a sentence each; while a change is under way, those before it.
    pub fn shadowed(&self, listeners: &[Listener]) -> Vec<String> {
        self.report(|state, report| report.shadowed = state.shadowed(listeners)).shadowed.clone()
    }
}

impl State {
    fn shadowed(&self, listeners: &[Listener]) -> Vec<String> {
        let mut problems = Vec::new();
        for listener in listeners {
            let (at, port, protocol) = (listener.at.ip(), listener.at.port(), listener.protocol.number());
            // An IPv6 listener without an address takes IPv4 too.
            let met = |address: &IpAddr| {
                if at.is_unspecified() { at.is_ipv6() || address.is_ipv4() } else { *address == at }
            };
            let places =
                self.inputs.node_addresses.iter().filter(|address| met(address)).flat_map(|address| {
                    let any = Family::of(*address).unspecified();
                    // A node port is reached at every address that serves node ports.
                    let of_node = self.inputs.node_ports.contains(address).then_some(any);
                    [Some(*address), of_node].into_iter().flatten().map(|address| FrontendKey {
                        address,
                        port,
                        protocol,
                    })
                });
            let Some(key) = places.into_iter().find(|key| self.ledger.owners.contains_key(key)) else {
                continue;
            };
            let has = |(_, ports): &(_, &Vec<Programmed>)| {
                ports.iter().any(|port| port.frontends.iter().any(|(frontend, _)| frontend.key == key))
            };
            let owner = self.ledger.programmed.iter().find(has).map(|(owner, _)| owner.to_string());
            problems.push(format!(
                "a process of the node listens at {} ({}), a port that {} has: it gets no connections from other machines; stop \
                 it, or take another port",
                listener.at,
                listener.protocol,
                owner.as_deref().unwrap_or("a service")
            ));
        }
        problems.sort();
        problems.dedup();
        problems
    }
}
