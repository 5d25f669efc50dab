//! What the tables say of addresses themselves: that they are the node's, or that only services are behind them.

use std::net::IpAddr;

use bpf::layout::{ADDRESS_LOOPBACK, ADDRESS_OF_NODE, ADDRESS_OF_SERVICE};

use super::{
    balancer::State,
    tables::{FrontendKey, FrontendValue, ServiceNumber, SetNumber},
};

impl State {
    /// The first service at a cluster address has it marked, the last has the mark taken away.
    pub fn count_address(&mut self, address: IpAddr, more: bool) {
        let count = self.addresses.entry(address).or_default();
        let before = *count;
        *count = if more { before + 1 } else { before - 1 };
        match (before, more) {
            (0, true) => self.stage_address(address, ADDRESS_OF_SERVICE),
            (1, false) => {
                self.addresses.remove(&address);
                self.staged.frontends.insert(what_is(address), None);
            }
            _ => {}
        }
    }

    /// Says of the addresses of the node which of them serve node ports.
    pub fn stage_node_addresses(&mut self) {
        for address in self.node_ports.clone() {
            let loopback = if address.is_loopback() { ADDRESS_LOOPBACK } else { 0 };
            self.stage_address(address, ADDRESS_OF_NODE | loopback);
        }
    }

    fn stage_address(&mut self, address: IpAddr, flags: u32) {
        let none = SetNumber::default();
        let value =
            FrontendValue { service: ServiceNumber(0), inside: none, outside: none, flags, affinity: 0 };
        if !self.is_inherited(what_is(address), &value) {
            self.staged.frontends.insert(what_is(address), Some(value));
        }
    }
}

/// The key under which the tables say what an address is.
fn what_is(address: IpAddr) -> FrontendKey {
    FrontendKey { address, port: 0, protocol: 0 }
}
