//! How the daemon's record of an attachment differs from the result that the runtime kept, and from what it asks for.

use ipamd_api::{
    AttachmentKey, PortMapping,
    wire::{Assigned, Reservation},
};

use crate::prev_result::PrevResult;

/// Every difference, a sentence each. Whether the attachment was completed, and still stands, the daemon says itself.
pub fn faults(key: &AttachmentKey, reservation: Option<&Reservation>, prev: &PrevResult) -> Vec<String> {
    let Some(reservation) = reservation else {
        return vec!["the daemon has no record of the attachment".to_owned()];
    };
    let mut faults = Vec::new();
    let Some((index, _)) = prev.container_end(&key.ifname) else {
        faults.push(format!("prevResult lists no interface {} in a sandbox", key.ifname));
        return faults;
    };
    for Assigned { address, gateway } in &reservation.addresses {
        match prev
            .ips
            .iter()
            .find(|ip| ip.address.ip() == *address && ip.interface.is_none_or(|interface| interface == index))
        {
            None => faults.push(format!(
                "the daemon's record has the address {address}, which prevResult does not list"
            )),
            Some(ip) if ip.gateway.is_some_and(|listed| listed != *gateway) => {
                faults.push(format!(
                    "the daemon's record has the gateway {gateway} for {address}, and prevResult has another"
                ));
            }
            Some(_) => {}
        }
    }
    if !prev.interfaces.iter().any(|interface| interface.name == reservation.host_ifname) {
        faults.push(format!(
            "the daemon's record has the host's end {}, which prevResult does not list",
            reservation.host_ifname
        ));
    }
    faults
}

/// Every port of the node that the runtime asks for and the record lacks, or the other way round, a sentence each. Of
/// a missing record [`faults`] tells.
pub fn port_faults(reservation: Option<&Reservation>, asked: &[PortMapping]) -> Vec<String> {
    let Some(Reservation { port_mappings: recorded, .. }) = reservation else { return Vec::new() };
    let lacking = asked.iter().filter(|mapping| !recorded.contains(mapping)).map(|mapping| {
        format!("the daemon's record lacks the port {mapping}, which runtimeConfig.portMappings lists")
    });
    let beyond = recorded.iter().filter(|mapping| !asked.contains(mapping)).map(|mapping| {
        format!("the daemon's record has the port {mapping}, which runtimeConfig.portMappings does not list")
    });
    lacking.chain(beyond).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expectation::tests::{ip, key, prev, reservation};

    #[test]
    fn the_result_of_add_agrees_with_the_record() {
        assert_eq!(faults(&key(), Some(&reservation()), &prev()), Vec::<String>::new());
        let mut changed = prev();
        changed.routes.clear();
        changed.interfaces[1].mac = None;
        assert_eq!(faults(&key(), Some(&reservation()), &changed), Vec::<String>::new(), "later plugins may");
    }

    #[test]
    fn a_missing_record_is_told() {
        assert_eq!(faults(&key(), None, &prev()), ["the daemon has no record of the attachment"]);
    }

    #[test]
    fn ports_that_differ_are_told_each() {
        let mapping = |host_port| PortMapping { host_ip: None, host_port, container_port: 80, protocol: 6 };
        let recorded = Reservation { port_mappings: vec![mapping(1), mapping(2)], ..reservation() };
        assert_eq!(port_faults(Some(&recorded), &[mapping(2), mapping(1)]), Vec::<String>::new());
        assert_eq!(port_faults(None, &[mapping(1)]), Vec::<String>::new());
        assert_eq!(
            port_faults(Some(&recorded), &[mapping(2), mapping(3)]),
            [
                "the daemon's record lacks the port 3/tcp to 80, which runtimeConfig.portMappings lists",
                "the daemon's record has the port 1/tcp to 80, which runtimeConfig.portMappings does not list",
            ]
        );
    }

    #[test]
    fn a_record_that_differs_from_the_result_is_told() {
        let mut other = reservation();
        other.addresses[0].address = ip("10.88.0.6");
        other.addresses[1].gateway = ip("fd00:88::9");
        other.host_ifname = "cmbbbbbbbbbbbbb".into();
        let found = faults(&key(), Some(&other), &prev());
        for part in ["10.88.0.6", "fd00:88::9", "cmbbbbbbbbbbbbb"] {
            assert!(found.iter().any(|fault| fault.contains(part)), "{part}: {found:?}");
        }
        assert!(
            faults(&key(), Some(&reservation()), &PrevResult::default())[0]
                .contains("lists no interface eth0")
        );
    }
}
