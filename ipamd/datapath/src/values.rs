//! Conversion of endpoint entries to the layout of the programs' map.

use bpf::layout::{ENDPOINT_CHAINED, ENDPOINT_SHAPED, Endpoint};
use ipamd_api::MacAddr;
use ipamd_model::endpoint::{EndpointEntry, Slot};

/// As the programs have it.
pub fn endpoint_value(entry: &EndpointEntry) -> Endpoint {
    Endpoint {
        ifindex: entry.ifindex,
        container_mac: entry.container_mac.0,
        host_mac: entry.host_mac.0,
        mtu: entry.mtu,
        flags: [(entry.shaped, ENDPOINT_SHAPED), (entry.chained, ENDPOINT_CHAINED)]
            .into_iter()
            .filter_map(|(is, flag)| is.then_some(flag))
            .fold(0, |flags, flag| flags | flag),
        pad: 0,
        slot: entry.slot.0,
    }
}

/// What the programs have, as an entry.
pub fn endpoint_entry(value: Endpoint) -> EndpointEntry {
    EndpointEntry {
        ifindex: value.ifindex,
        container_mac: MacAddr(value.container_mac),
        host_mac: MacAddr(value.host_mac),
        mtu: value.mtu,
        shaped: value.flags & ENDPOINT_SHAPED != 0,
        chained: value.flags & ENDPOINT_CHAINED != 0,
        slot: Slot(value.slot),
    }
}
