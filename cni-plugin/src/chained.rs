//! An interface that the plugins before Cambric in the chain have made: finding it, and how it differs from the record.

use std::net::IpAddr;

use ipamd_api::wire::{Chained, Reservation};
use ipamd_netlink::{Family, Socket};

use crate::{
    error::CniError,
    netns::Netns,
    observe::{self, End},
    prev_result::PrevResult,
};

/// What was found.
#[derive(Debug)]
pub struct Found {
    /// What the daemon is told.
    pub made: Chained,
    /// The end on the host.
    pub host: End,
}

/// Looks for both ends of the interface that `prevResult` says a container has. The programs belong on the host's end, so
/// there must be one.
pub fn find(host: &mut Socket, netns: &Netns, ifname: &str, prev: &PrevResult) -> Result<Found, CniError> {
    let addresses = addresses_of(prev, ifname)?;
    let container = netns.inside(|| observe::end(&mut Socket::open(Family::Route)?, ifname))?;
    let missing = |wanted: String, value: &str| CniError::InvalidConfig {
        field: "prevResult.interfaces".to_owned(),
        wanted,
        value: value.to_owned(),
    };
    let Some(container) = container else {
        let netns = netns.path().display();
        let wanted = format!(
            "must have made {ifname} in {netns}: a plugin before cambric in the list makes the interface, such as ptp or bridge"
        );
        return Err(missing(wanted, "nothing"));
    };
    // Policy goes by addresses: under one that the container lacks, whatever it sends would be refused.
    if let Some(lacking) = addresses.iter().find(|address| !container.has(**address)) {
        return Err(CniError::InvalidConfig {
            field: "prevResult.ips".to_owned(),
            wanted: format!("must list addresses that {ifname} in {} has", netns.path().display()),
            value: lacking.to_string(),
        });
    }
    let must_be_pair = || {
        let wanted =
            format!("must have made {ifname} as one end of a veth pair whose other end is on the node");
        missing(wanted, "an interface of another sort")
    };
    let peer = container.peer_index.filter(|_| container.veth).ok_or_else(must_be_pair)?;
    let is_other_end = |end: &End| end.veth && end.peer_index == Some(container.index);
    let host = observe::link_at(host, peer)?.filter(is_other_end).ok_or_else(must_be_pair)?;
    match (container.mac, host.mac) {
        (Some(container_mac), Some(host_mac)) => {
            let made = Chained { addresses, container_mac, host_mac, mtu: container.mtu };
            Ok(Found { made, host })
        }
        _ => Err(must_be_pair()),
    }
}

/// The addresses of the container's interface; IPv4 comes first.
fn addresses_of(prev: &PrevResult, ifname: &str) -> Result<Vec<IpAddr>, CniError> {
    let index = prev.container_end(ifname).map(|(index, _)| index);
    let of_it = prev.ips.iter().filter(|ip| ip.interface.is_none() || ip.interface == index);
    let mut addresses: Vec<_> = of_it.map(|ip| ip.address.ip()).collect();
    addresses.sort();
    addresses.dedup();
    if addresses.is_empty() {
        return Err(CniError::InvalidConfig {
            field: "prevResult.ips".to_owned(),
            wanted: format!("must list an address of {ifname}, for policy goes by addresses"),
            value: "nothing".to_owned(),
        });
    }
    Ok(addresses)
}

/// Everything about the two ends that is not as recorded, a sentence each.
pub fn faults(
    reservation: &Reservation,
    ifname: &str,
    host: Option<&End>,
    container: Option<&End>,
) -> Vec<String> {
    let host_ifname = &reservation.host_ifname;
    let (Some(host), Some(container)) = (host, container) else {
        let missing = |present: bool, what: String| (!present).then_some(what);
        return [
            missing(container.is_some(), format!("{ifname} is missing in the container")),
            missing(host.is_some(), format!("no interface on the host has the name {host_ifname}")),
        ]
        .into_iter()
        .flatten()
        .collect();
    };
    let mut faults = Vec::new();
    let is_down = |end: &End, what: String| (!end.up).then(|| format!("{what} is down"));
    faults.extend(is_down(host, format!("{host_ifname} on the host")));
    faults.extend(is_down(container, format!("{ifname} in the container")));
    if host.peer_index != Some(container.index) || container.peer_index != Some(host.index) {
        faults.push(format!(
            "{host_ifname} on the host and {ifname} in the container are not the ends of one pair"
        ));
    }
    if container.mac != Some(reservation.container_mac) {
        let (is, was) = (shown(container), reservation.container_mac);
        faults.push(format!("{ifname} in the container has {is} instead of the Ethernet address {was}"));
    }
    for assigned in &reservation.addresses {
        if !container.has(assigned.address) {
            faults.push(format!("{ifname} in the container lacks the address {}", assigned.address));
        }
    }
    faults
}

fn shown(end: &End) -> String {
    end.mac.map_or_else(|| "none".to_owned(), |mac| mac.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        expectation::tests::{ip, reservation},
        prev_result::{Interface, Ip},
    };

    fn prev(ips: &[(&str, Option<usize>)]) -> PrevResult {
        let interface = |name: &str, sandbox: &str| Interface {
            name: name.into(),
            mac: None,
            mtu: None,
            sandbox: sandbox.into(),
        };
        PrevResult {
            interfaces: vec![interface("br0", ""), interface("eth0", "/n"), interface("eth1", "/n")],
            ips: ips
                .iter()
                .map(|(address, interface)| Ip {
                    address: address.parse().unwrap(),
                    gateway: None,
                    interface: *interface,
                })
                .collect(),
            routes: Vec::new(),
        }
    }

    fn ends() -> (End, End) {
        let reservation = reservation();
        let end = |index, peer, mac| End {
            index,
            veth: true,
            up: true,
            mac: Some(mac),
            peer_index: Some(peer),
            ..End::default()
        };
        let mut container = end(2, 7, reservation.container_mac);
        container.addresses = reservation.addresses.iter().map(|it| (it.address, 24)).collect();
        (end(7, 2, reservation.host_mac), container)
    }

    #[test]
    fn the_addresses_are_those_of_the_interface() {
        let listed = prev(&[("fd00::5/64", Some(1)), ("10.0.0.5/24", Some(1)), ("10.1.0.5/24", Some(2))]);
        assert_eq!(addresses_of(&listed, "eth0").unwrap(), [ip("10.0.0.5"), ip("fd00::5")]);
        assert_eq!(addresses_of(&listed, "eth1").unwrap(), [ip("10.1.0.5")]);
        let old = prev(&[("10.0.0.5/24", None)]);
        assert_eq!(addresses_of(&old, "eth0").unwrap(), [ip("10.0.0.5")]);
        let none = addresses_of(&prev(&[("10.1.0.5/24", Some(2))]), "eth0").unwrap_err();
        assert_eq!(none.code(), 7);
        assert!(none.to_string().contains("prevResult.ips must list an address of eth0"), "{none}");
    }

    #[test]
    fn each_difference_is_told() {
        let (host, container) = ends();
        let told =
            |host: Option<&End>, container: Option<&End>| faults(&reservation(), "eth0", host, container);
        assert_eq!(told(Some(&host), Some(&container)), Vec::<String>::new());
        assert_eq!(told(None, None).len(), 2);
        assert_eq!(told(Some(&host), None), ["eth0 is missing in the container"]);
        let other = End { peer_index: Some(3), ..host.clone() };
        assert_eq!(told(Some(&other), Some(&container)).len(), 1);
        let down = |end: &End| End { up: false, ..end.clone() };
        assert_eq!(
            told(Some(&down(&host)), Some(&down(&container))),
            ["cmbaaaaaaaaaaaa on the host is down", "eth0 in the container is down"]
        );
        let mut bare = container;
        bare.addresses.truncate(1);
        bare.mac = None;
        let expected = [
            "eth0 in the container has none instead of the Ethernet address 02:00:00:00:00:02",
            "eth0 in the container lacks the address fd00:88::5",
        ];
        assert_eq!(told(Some(&host), Some(&bare)), expected);
    }
}
