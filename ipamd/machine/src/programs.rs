//! Programs and maps that remain when no daemon runs: pinned in the bpffs and attached to interfaces.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use bpf::{
    attach::{self, AttachError, Direction, Pins},
    layout::{Ip4, Ip6, ORIGIN_ALL4, ORIGIN_ALL6, ORIGIN_HERE4, ORIGIN_HERE6, Plain},
};
use libbpf_rs::{MapCore, MapFlags, MapHandle};

/// The programs of an endpoint's host end.
const OF_ENDPOINTS: [(Direction, &str); 2] =
    [(Direction::Ingress, "from_endpoint"), (Direction::Egress, "to_endpoint")];

/// Removes every pin below the bpffs directory; the links go with theirs, and the filters from the uplinks.
///
/// # Errors
/// Why something stays.
pub fn remove_all(pins: &Pins) -> io::Result<()> {
    if let Ok(uplinks) = MapHandle::from_pinned_path(pins.map("uplinks")) {
        for ifindex in uplinks.keys().filter_map(|key| u32::from_bytes(&key)) {
            for direction in [Direction::Ingress, Direction::Egress] {
                if let Err(error) = attach::detach_clsact(ifindex, direction) {
                    tracing::debug!(ifindex, %error, "cannot remove a filter");
                }
            }
        }
    }
    match fs::remove_dir_all(pins.root()) {
        // It is the bpffs itself, and empty now.
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Takes the programs off an endpoint's host end that stays, where no pin's removal does.
///
/// # Errors
/// Why one stays.
pub fn detach(ifindex: u32) -> Result<(), AttachError> {
    for (direction, name) in OF_ENDPOINTS {
        // A kernel without tcx has none.
        for id in attach::unlinked_tcx_programs(name, ifindex, direction).unwrap_or_default() {
            attach::detach_tcx_program(id, ifindex, direction)?;
        }
        attach::detach_clsact(ifindex, direction)?;
    }
    Ok(())
}

/// The nodes of this one's links that the pinned maps tell of; none, where there are no maps.
pub fn near_nodes(pins: &Pins) -> BTreeSet<IpAddr> {
    let four = values(pins, "node_prefixes4").filter_map(|value| Ip4::from_bytes(&value));
    let six = values(pins, "node_prefixes6").filter_map(|value| Ip6::from_bytes(&value));
    let nodes = four.map(|node| IpAddr::from(Ipv4Addr::from(node)));
    let nodes = nodes.chain(six.map(|node| IpAddr::from(Ipv6Addr::from(node))));
    let none = [IpAddr::from(ORIGIN_HERE4), ORIGIN_ALL4.into(), ORIGIN_HERE6.into(), ORIGIN_ALL6.into()];
    nodes.filter(|node| !node.is_unspecified() && !none.contains(node)).collect()
}

fn values(pins: &Pins, name: &str) -> impl Iterator<Item = Vec<u8>> {
    let map = MapHandle::from_pinned_path(pins.map(name)).ok();
    map.into_iter().flat_map(|map| {
        let keys = map.keys().collect::<Vec<_>>();
        keys.into_iter().filter_map(move |key| map.lookup(&key, MapFlags::ANY).ok().flatten())
    })
}
