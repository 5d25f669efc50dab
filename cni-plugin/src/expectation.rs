//! What an attachment should look like, and how what is there differs from it. Decides only; [`crate::observe`] looks.

use std::net::IpAddr;

use ipamd_api::{
    AttachmentKey, MacAddr,
    wire::{Assigned, Reservation},
};

use crate::{
    interface::host_prefix,
    observe::{End, Neighbour},
    prev_result::PrevResult,
    version::CniVersion,
};

/// What the two ends should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expectation {
    /// The host's end.
    pub host_ifname: String,
    /// Its Ethernet address.
    pub host_mac: MacAddr,
    /// The container's end.
    pub ifname: String,
    /// Its Ethernet address now.
    pub container_mac: MacAddr,
    /// The one that it was made with, which the host's neighbour entries have.
    pub made_with_mac: MacAddr,
    /// Bytes, of the host's end.
    pub host_mtu: Option<u32>,
    /// Bytes, of the container's end.
    pub container_mtu: Option<Mtu>,
    /// Its addresses.
    pub addresses: Vec<Assigned>,
    /// The next hops of its default routes.
    pub default_gateways: Vec<IpAddr>,
}

/// What the MTU of the container's end may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mtu {
    /// This, as the result says or as it was made.
    Exactly(u32),
    /// This or less: a later plugin may lower it, and the result's version has no field to say so.
    AtMost(u32),
}

impl Expectation {
    /// What ADD made, before any later plugin.
    pub fn of(reservation: &Reservation, ifname: &str) -> Self {
        Self {
            host_ifname: reservation.host_ifname.clone(),
            host_mac: reservation.host_mac,
            ifname: ifname.to_owned(),
            container_mac: reservation.container_mac,
            made_with_mac: reservation.container_mac,
            host_mtu: Some(reservation.mtu),
            container_mtu: Some(Mtu::Exactly(reservation.mtu)),
            addresses: reservation.addresses.clone(),
            default_gateways: reservation.addresses.iter().map(|assigned| assigned.gateway).collect(),
        }
    }

    /// What the daemon has on record, with what later plugins changed as `prev` says. Where the daemon has no record,
    /// what `prev` says alone.
    pub fn after_chain(
        key: &AttachmentKey,
        reservation: Option<&Reservation>,
        prev: &PrevResult,
        version: CniVersion,
    ) -> Self {
        let listed = prev.container_end(&key.ifname);
        let mut expected = reservation
            .map_or_else(|| Self::from_result(key, prev), |reservation| Self::of(reservation, &key.ifname));
        if let Some((_, end)) = listed {
            expected.container_mac = end.mac.unwrap_or(expected.container_mac);
            expected.container_mtu = match (end.mtu, expected.container_mtu) {
                (Some(mtu), _) => Some(Mtu::Exactly(mtu)),
                (None, Some(Mtu::Exactly(mtu))) if version < CniVersion::V1_1_0 => Some(Mtu::AtMost(mtu)),
                (None, made) => made,
            };
        }
        // A default route that is no longer listed was taken away by a later plugin.
        expected.default_gateways.retain(|gateway| {
            prev.routes.iter().any(|route| {
                let default =
                    route.destination.prefix() == 0 && route.destination.ip().is_ipv4() == gateway.is_ipv4();
                default && route.gateway == Some(*gateway)
            })
        });
        expected
    }

    fn from_result(key: &AttachmentKey, prev: &PrevResult) -> Self {
        let (host_mac, container_mac) = key.macs();
        let host_ifname = key.host_ifname();
        let host_end = prev.interfaces.iter().find(|interface| interface.name == host_ifname);
        let container_index = prev.container_end(&key.ifname).map(|(index, _)| index);
        let addresses: Vec<Assigned> = prev
            .ips
            .iter()
            .filter(|ip| container_index.is_some() && ip.interface == container_index)
            .filter_map(|ip| ip.gateway.map(|gateway| Assigned { address: ip.address.ip(), gateway }))
            .collect();
        Self {
            host_mac: host_end.and_then(|end| end.mac).unwrap_or(host_mac),
            host_mtu: host_end.and_then(|end| end.mtu),
            host_ifname,
            ifname: key.ifname.clone(),
            container_mac,
            made_with_mac: container_mac,
            container_mtu: None,
            default_gateways: addresses.iter().map(|assigned| assigned.gateway).collect(),
            addresses,
        }
    }

    /// Everything about the two ends that is not as expected, a sentence each.
    pub fn faults(&self, host: Option<&End>, container: Option<&End>) -> Vec<String> {
        let mut faults = Vec::new();
        match container {
            None => faults.push(format!("{} is missing in the container", self.ifname)),
            Some(end) => self.container_faults(end, &mut faults),
        }
        match host {
            None => faults.push(format!("{} is missing on the host", self.host_ifname)),
            Some(end) => self.host_faults(end, &mut faults),
        }
        if let (Some(host), Some(container)) = (host, container)
            && (host.peer_index != Some(container.index) || container.peer_index != Some(host.index))
        {
            faults.push(format!(
                "{} on the host and {} in the container are not the ends of one pair",
                self.host_ifname, self.ifname
            ));
        }
        faults
    }

    fn container_faults(&self, end: &End, faults: &mut Vec<String>) {
        let name = format!("{} in the container", self.ifname);
        link_faults(&name, end, self.container_mac, faults);
        match self.container_mtu {
            Some(Mtu::Exactly(mtu)) if end.mtu != mtu => {
                faults.push(format!("{name} has the MTU {} instead of {mtu}", end.mtu));
            }
            Some(Mtu::AtMost(mtu)) if end.mtu > mtu => {
                faults.push(format!("{name} has the MTU {}, which is more than {mtu}", end.mtu));
            }
            _ => {}
        }
        for Assigned { address, gateway } in &self.addresses {
            if !end.addresses.contains(&(*address, host_prefix(*address))) {
                faults.push(format!("{name} lacks the address {address}/{}", host_prefix(*address)));
            }
            neighbour_faults(&name, &end.neighbours, *gateway, self.host_mac, faults);
        }
        for gateway in &self.default_gateways {
            let mut defaults = end.routes.iter().filter(|route| {
                route.destination.is_none_or(|(_, prefix)| prefix == 0) && route.ipv4 == gateway.is_ipv4()
            });
            if defaults.clone().any(|route| route.gateway == Some(*gateway)) {
                continue;
            }
            faults.push(match defaults.next().map(|route| route.gateway) {
                Some(Some(other)) => {
                    format!("the default route by {name} goes to {other} instead of {gateway}")
                }
                Some(None) => format!("the default route by {name} has no gateway instead of {gateway}"),
                None => format!("{name} lacks the default route by {gateway}"),
            });
        }
    }

    fn host_faults(&self, end: &End, faults: &mut Vec<String>) {
        let name = format!("{} on the host", self.host_ifname);
        link_faults(&name, end, self.host_mac, faults);
        if let Some(mtu) = self.host_mtu.filter(|mtu| end.mtu != *mtu) {
            faults.push(format!("{name} has the MTU {} instead of {mtu}", end.mtu));
        }
        for Assigned { address, .. } in &self.addresses {
            if !end.routes.iter().any(|route| route.destination == Some((*address, host_prefix(*address)))) {
                faults.push(format!("{name} lacks the route to {address}"));
            }
            neighbour_faults(&name, &end.neighbours, *address, self.made_with_mac, faults);
        }
    }
}

fn link_faults(name: &str, end: &End, mac: MacAddr, faults: &mut Vec<String>) {
    if !end.up {
        faults.push(format!("{name} is down"));
    }
    match end.mac {
        Some(is) if is == mac => {}
        Some(is) => faults.push(format!("{name} has the Ethernet address {is} instead of {mac}")),
        None => faults.push(format!("{name} has no Ethernet address instead of {mac}")),
    }
}

fn neighbour_faults(
    name: &str,
    neighbours: &[Neighbour],
    address: IpAddr,
    mac: MacAddr,
    faults: &mut Vec<String>,
) {
    match neighbours.iter().find(|neighbour| neighbour.address == address) {
        None => faults.push(format!("{name} lacks the neighbour {address}")),
        Some(neighbour) if neighbour.mac != Some(mac) => faults.push(match neighbour.mac {
            Some(is) => {
                format!("the neighbour {address} on {name} has the Ethernet address {is} instead of {mac}")
            }
            None => format!("the neighbour {address} on {name} has no Ethernet address instead of {mac}"),
        }),
        Some(neighbour) if !neighbour.permanent => {
            faults.push(format!("the neighbour {address} on {name} is not permanent"));
        }
        Some(_) => {}
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::{observe::Route, prev_result};
    use ipamd_api::wire::AttachMode;

    const HOST_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const CONTAINER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

    /// An address.
    pub fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// A reservation of both families.
    pub fn reservation() -> Reservation {
        Reservation {
            addresses: vec![
                Assigned { address: ip("10.88.0.5"), gateway: ip("10.88.0.1") },
                Assigned { address: ip("fd00:88::5"), gateway: ip("fd00:88::1") },
            ],
            host_ifname: "cmbaaaaaaaaaaaa".into(),
            host_mac: HOST_MAC,
            container_mac: CONTAINER_MAC,
            mtu: 1500,
            attach_mode: AttachMode::Tcx,
            from_endpoint: "/b/programs/from_endpoint".into(),
            to_endpoint: "/b/programs/to_endpoint".into(),
            from_endpoint_link: "/b/links/i".into(),
            to_endpoint_link: "/b/links/e".into(),
            committed: true,
            port_mappings: Vec::new(),
            chained: false,
            without_link: true,
        }
    }

    /// Its key.
    pub fn key() -> AttachmentKey {
        AttachmentKey { network: "net".into(), container_id: "c".into(), ifname: "eth0".into() }
    }

    fn ends() -> (End, End) {
        let reservation = reservation();
        let of = |index, peer, mac, routes, neighbours| End {
            index,
            name: String::new(),
            alias: String::new(),
            veth: true,
            up: true,
            mac: Some(mac),
            mtu: 1500,
            peer_index: Some(peer),
            addresses: vec![],
            routes,
            neighbours,
        };
        let neighbour = |address, mac| Neighbour { address, mac: Some(mac), permanent: true };
        let host = of(
            7,
            2,
            HOST_MAC,
            reservation
                .addresses
                .iter()
                .map(|a| Route {
                    destination: Some((a.address, host_prefix(a.address))),
                    gateway: None,
                    ipv4: a.address.is_ipv4(),
                })
                .collect(),
            reservation.addresses.iter().map(|a| neighbour(a.address, CONTAINER_MAC)).collect(),
        );
        let mut container = of(
            2,
            7,
            CONTAINER_MAC,
            reservation
                .addresses
                .iter()
                .map(|a| Route { destination: None, gateway: Some(a.gateway), ipv4: a.gateway.is_ipv4() })
                .collect(),
            reservation.addresses.iter().map(|a| neighbour(a.gateway, HOST_MAC)).collect(),
        );
        container.addresses =
            reservation.addresses.iter().map(|a| (a.address, host_prefix(a.address))).collect();
        (host, container)
    }

    /// What ADD printed for it.
    pub fn prev() -> PrevResult {
        let reservation = reservation();
        PrevResult {
            interfaces: vec![
                prev_result::Interface {
                    name: reservation.host_ifname.clone(),
                    mac: Some(HOST_MAC),
                    mtu: None,
                    sandbox: String::new(),
                },
                prev_result::Interface {
                    name: "eth0".into(),
                    mac: Some(CONTAINER_MAC),
                    mtu: None,
                    sandbox: "/n".into(),
                },
            ],
            ips: reservation
                .addresses
                .iter()
                .map(|a| prev_result::Ip {
                    address: ipnetwork::IpNetwork::new(a.address, host_prefix(a.address)).unwrap(),
                    gateway: Some(a.gateway),
                    interface: Some(1),
                })
                .collect(),
            routes: reservation
                .addresses
                .iter()
                .map(|a| prev_result::Route {
                    destination: if a.address.is_ipv4() { "0.0.0.0/0" } else { "::/0" }.parse().unwrap(),
                    gateway: Some(a.gateway),
                })
                .collect(),
        }
    }

    #[test]
    fn what_add_made_has_no_faults() {
        let (host, container) = ends();
        assert_eq!(
            Expectation::of(&reservation(), "eth0").faults(Some(&host), Some(&container)),
            Vec::<String>::new()
        );
        for version in CniVersion::ALL {
            let expected = Expectation::after_chain(&key(), Some(&reservation()), &prev(), version);
            assert_eq!(expected.faults(Some(&host), Some(&container)), Vec::<String>::new());
        }
    }

    #[test]
    fn each_single_thing_wrong_is_one_fault() {
        type Change = fn(&mut End, &mut End);
        let changes: [(&str, Change); 17] = [
            ("eth0 in the container is down", |_, c| c.up = false),
            ("eth0 in the container has the Ethernet address 02:00:00:00:00:01", |_, c| {
                c.mac = Some(HOST_MAC);
            }),
            ("eth0 in the container has the MTU 1400", |_, c| c.mtu = 1400),
            ("eth0 in the container lacks the address 10.88.0.5/32", |_, c| {
                c.addresses.remove(0);
            }),
            ("eth0 in the container lacks the address fd00:88::5/128", |_, c| {
                c.addresses.remove(1);
            }),
            ("lacks the default route by 10.88.0.1", |_, c| {
                c.routes.remove(0);
            }),
            ("lacks the default route by fd00:88::1", |_, c| {
                c.routes.remove(1);
            }),
            ("goes to 10.88.0.9 instead of 10.88.0.1", |_, c| c.routes[0].gateway = Some(ip("10.88.0.9"))),
            ("lacks the neighbour 10.88.0.1", |_, c| {
                c.neighbours.remove(0);
            }),
            ("fd00:88::1 on eth0 in the container is not permanent", |_, c| {
                c.neighbours[1].permanent = false;
            }),
            ("neighbour 10.88.0.1 on eth0 in the container has the Ethernet address", |_, c| {
                c.neighbours[0].mac = Some(CONTAINER_MAC);
            }),
            ("cmbaaaaaaaaaaaa on the host is down", |h, _| h.up = false),
            ("cmbaaaaaaaaaaaa on the host has the MTU 9000", |h, _| h.mtu = 9000),
            ("not the ends of one pair", |h, _| h.peer_index = Some(99)),
            ("cmbaaaaaaaaaaaa on the host lacks the route to 10.88.0.5", |h, _| {
                h.routes.remove(0);
            }),
            ("cmbaaaaaaaaaaaa on the host lacks the neighbour fd00:88::5", |h, _| {
                h.neighbours.remove(1);
            }),
            ("neighbour 10.88.0.5 on cmbaaaaaaaaaaaa on the host has", |h, _| h.neighbours[0].mac = None),
        ];
        for (fault, change) in changes {
            let (mut host, mut container) = ends();
            change(&mut host, &mut container);
            let faults = Expectation::of(&reservation(), "eth0").faults(Some(&host), Some(&container));
            assert!(faults.len() == 1 && faults[0].contains(fault), "{fault}: {faults:?}");
        }
        let (host, container) = ends();
        let expected = Expectation::of(&reservation(), "eth0");
        assert_eq!(expected.faults(None, Some(&container)), ["cmbaaaaaaaaaaaa is missing on the host"]);
        assert_eq!(expected.faults(Some(&host), None), ["eth0 is missing in the container"]);
    }

    #[test]
    fn what_a_later_plugin_changed_and_listed_is_no_fault() {
        let (host, mut container) = ends();
        container.mac = Some(MacAddr([2, 9, 9, 9, 9, 9]));
        container.mtu = 1300;
        container.routes.clear();
        let mut prev = prev();
        prev.interfaces[1].mac = container.mac;
        prev.interfaces[1].mtu = Some(1300);
        prev.routes.clear();
        let expected = Expectation::after_chain(&key(), Some(&reservation()), &prev, CniVersion::V1_1_0);
        assert_eq!(expected.faults(Some(&host), Some(&container)), Vec::<String>::new());
    }

    #[test]
    fn a_lower_mtu_passes_only_where_the_result_cannot_say_it() {
        let (host, mut container) = ends();
        let faults = |container: &End, version| {
            Expectation::after_chain(&key(), Some(&reservation()), &prev(), version)
                .faults(Some(&host), Some(container))
                .len()
        };
        container.mtu = 1300;
        assert_eq!((faults(&container, CniVersion::V1_0_0), faults(&container, CniVersion::V1_1_0)), (0, 1));
        container.mtu = 1501;
        assert_eq!(faults(&container, CniVersion::V1_0_0), 1);
    }

    #[test]
    fn without_a_record_the_result_alone_is_compared() {
        let key = key();
        let mut prev = prev();
        prev.interfaces[0].name = key.host_ifname();
        let expected = Expectation::after_chain(&key, None, &prev, CniVersion::V1_1_0);
        let (host, container) = ends();
        // The neighbours are compared with the addresses that follow from the key.
        assert!(
            expected.faults(Some(&host), Some(&container)).iter().all(|fault| fault.contains("neighbour"))
        );
    }
}
