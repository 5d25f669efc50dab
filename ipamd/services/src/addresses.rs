//! Marks of whole addresses in the tables: the node's own, and those that only services have.

use std::net::IpAddr;

use bpf::layout::{ADDRESS_OF_NODE, ADDRESS_OF_SERVICE, INSIDE_ONLY};

use super::{
    allowance::Resource,
    state::State,
    tables::{Family, FrontendKey, FrontendValue, ServiceNumber, SetNumber},
};

impl State {
    /// Counts the services of a cluster address. The first one stages its mark, the last one the mark's removal.
    pub fn count_address(&mut self, address: IpAddr, more: bool) {
        let count = self.ledger.addresses.entry(address).or_default();
        let before = *count;
        *count = if more { before + 1 } else { before - 1 };
        if *count == 0 {
            self.ledger.addresses.remove(&address);
        }
        let family = Family::of(address);
        if before == 0 {
            self.ledger.allowance.take(None, family, Resource::Frontends, 1);
        } else if !more && before == 1 {
            self.ledger.staged.given_up.push((family, Resource::Frontends, 1));
        }
        if before == 0 || !self.ledger.addresses.contains_key(&address) {
            self.stage_address(address);
        }
    }

    /// Stages the marks of the node's addresses that serve node ports.
    pub fn stage_node_addresses(&mut self) {
        for address in self.inputs.node_ports.clone() {
            self.ledger.allowance.take(None, Family::of(address), Resource::Frontends, 1);
            self.stage_address(address);
        }
    }

    /// Stages the mark of an address. An address of a service may be the node's too, as IPVS leaves it behind; then it
    /// counts as the service's.
    fn stage_address(&mut self, address: IpAddr) {
        let flags = if self.ledger.addresses.contains_key(&address) {
            ADDRESS_OF_SERVICE | self.inside_only()
        } else if self.inputs.node_ports.contains(&address) {
            ADDRESS_OF_NODE
        } else {
            self.ledger.staged.frontends.insert(address_key(address), None);
            return;
        };
        let none = SetNumber::default();
        let value =
            FrontendValue { service: ServiceNumber(0), inside: none, outside: none, flags, affinity: 0 };
        if !self.is_inherited(address_key(address), &value) {
            self.ledger.staged.frontends.insert(address_key(address), Some(value));
        }
    }

    /// The flag of cluster addresses and their frontends, unless clients outside the node reach them.
    pub fn inside_only(&self) -> u32 {
        if self.inputs.cluster_ip_external { 0 } else { INSIDE_ONLY }
    }
}

/// The key of an address's own entry.
fn address_key(address: IpAddr) -> FrontendKey {
    FrontendKey { address, port: 0, protocol: 0 }
}
