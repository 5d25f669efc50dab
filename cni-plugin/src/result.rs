//! What ADD prints, in the form of each version of the specification.

use std::net::IpAddr;

use ipamd_api::wire::{Assigned, Reservation};
use serde::Serialize;

use crate::version::CniVersion;

/// The `dns` section, of a configuration and of a result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Dns {
    /// Addresses of name servers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Search domains.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Options of the resolver.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Output<'a> {
    cni_version: &'static str,
    interfaces: [Interface<'a>; 2],
    ips: Vec<Ip>,
    routes: Vec<Route>,
    dns: &'a Dns,
}

/// The form before 0.3.0, which knows one interface and does not name it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OldOutput<'a> {
    cni_version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip4: Option<OldIp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip6: Option<OldIp>,
    dns: &'a Dns,
}

#[derive(Serialize)]
struct OldIp {
    ip: String,
    gateway: IpAddr,
    routes: [Route; 1],
}

#[derive(Serialize)]
struct Interface<'a> {
    name: &'a str,
    mac: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox: Option<&'a str>,
}

#[derive(Serialize)]
struct Ip {
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'static str>,
    address: String,
    gateway: IpAddr,
    interface: usize,
}

#[derive(Serialize)]
struct Route {
    dst: &'static str,
    gw: IpAddr,
}

/// Index of the container's end among the result's interfaces; the host's end is the first.
const CONTAINER_END: usize = 1;

/// The result of an ADD that built what `reservation` says.
pub fn print(
    version: CniVersion,
    reservation: &Reservation,
    ifname: &str,
    netns: &str,
    dns: &Dns,
) -> serde_json::Result<Vec<u8>> {
    if version < CniVersion::V0_3_0 {
        let of_family = |v4: bool| {
            let assigned = reservation.addresses.iter().find(|assigned| assigned.address.is_ipv4() == v4)?;
            Some(OldIp {
                ip: with_prefix(assigned.address),
                gateway: assigned.gateway,
                routes: [default_route(assigned)],
            })
        };
        let (ip4, ip6) = (of_family(true), of_family(false));
        return serde_json::to_vec(&OldOutput { cni_version: version.as_str(), ip4, ip6, dns });
    }
    let mtu = (version >= CniVersion::V1_1_0).then_some(reservation.mtu);
    let family = |address: IpAddr| if address.is_ipv4() { "4" } else { "6" };
    let assigned = || reservation.addresses.iter();
    serde_json::to_vec(&Output {
        cni_version: version.as_str(),
        interfaces: [
            Interface {
                name: &reservation.host_ifname,
                mac: reservation.host_mac.to_string(),
                mtu,
                sandbox: None,
            },
            Interface { name: ifname, mac: reservation.container_mac.to_string(), mtu, sandbox: Some(netns) },
        ],
        ips: assigned()
            .map(|assigned| Ip {
                version: (version < CniVersion::V1_0_0).then(|| family(assigned.address)),
                address: with_prefix(assigned.address),
                gateway: assigned.gateway,
                interface: CONTAINER_END,
            })
            .collect(),
        routes: assigned().map(default_route).collect(),
        dns,
    })
}

/// The address alone, as a prefix.
fn with_prefix(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}

fn default_route(assigned: &Assigned) -> Route {
    Route { dst: if assigned.address.is_ipv4() { "0.0.0.0/0" } else { "::/0" }, gw: assigned.gateway }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::expectation::tests::reservation;

    fn printed(version: CniVersion) -> Value {
        let dns = Dns { nameservers: vec!["10.88.0.2".into()], ..Dns::default() };
        serde_json::from_slice(&print(version, &reservation(), "eth0", "/run/netns/a", &dns).unwrap())
            .unwrap()
    }

    #[test]
    fn the_newest_form_has_mtus_and_no_family() {
        assert_eq!(
            printed(CniVersion::V1_1_0),
            json!({
                "cniVersion": "1.1.0",
                "interfaces": [
                    {"name": "cmbaaaaaaaaaaaa", "mac": "02:00:00:00:00:01", "mtu": 1500},
                    {"name": "eth0", "mac": "02:00:00:00:00:02", "mtu": 1500, "sandbox": "/run/netns/a"},
                ],
                "ips": [
                    {"address": "10.88.0.5/32", "gateway": "10.88.0.1", "interface": 1},
                    {"address": "fd00:88::5/128", "gateway": "fd00:88::1", "interface": 1},
                ],
                "routes": [{"dst": "0.0.0.0/0", "gw": "10.88.0.1"}, {"dst": "::/0", "gw": "fd00:88::1"}],
                "dns": {"nameservers": ["10.88.0.2"]},
            })
        );
    }

    #[test]
    fn one_point_zero_has_neither_mtus_nor_families() {
        let result = printed(CniVersion::V1_0_0);
        assert_eq!(result["cniVersion"], "1.0.0");
        assert_eq!(
            result["interfaces"][1],
            json!({"name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": "/run/netns/a"})
        );
        assert_eq!(
            result["ips"][0],
            json!({"address": "10.88.0.5/32", "gateway": "10.88.0.1", "interface": 1})
        );
    }

    #[test]
    fn the_old_forms_name_the_family() {
        for version in [CniVersion::V0_3_0, CniVersion::V0_3_1, CniVersion::V0_4_0] {
            let result = printed(version);
            assert_eq!(result["cniVersion"], version.as_str());
            assert_eq!(
                result["interfaces"][0],
                json!({"name": "cmbaaaaaaaaaaaa", "mac": "02:00:00:00:00:01"})
            );
            assert_eq!(
                result["ips"],
                json!([
                    {"version": "4", "address": "10.88.0.5/32", "gateway": "10.88.0.1", "interface": 1},
                    {"version": "6", "address": "fd00:88::5/128", "gateway": "fd00:88::1", "interface": 1},
                ])
            );
        }
    }

    #[test]
    fn the_oldest_forms_have_an_address_of_each_family() {
        for version in [CniVersion::V0_1_0, CniVersion::V0_2_0] {
            let expected = json!({
                "cniVersion": version.as_str(),
                "ip4": {"ip": "10.88.0.5/32", "gateway": "10.88.0.1", "routes": [{"dst": "0.0.0.0/0", "gw": "10.88.0.1"}]},
                "ip6": {"ip": "fd00:88::5/128", "gateway": "fd00:88::1", "routes": [{"dst": "::/0", "gw": "fd00:88::1"}]},
                "dns": {"nameservers": ["10.88.0.2"]},
            });
            assert_eq!(printed(version), expected);
        }
        let mut one = reservation();
        one.addresses.truncate(1);
        let result = print(CniVersion::V0_2_0, &one, "eth0", "/x", &Dns::default()).unwrap();
        assert!(!String::from_utf8(result).unwrap().contains("ip6"));
    }

    #[test]
    fn an_empty_dns_section_is_an_empty_object() {
        let result = print(CniVersion::V0_3_1, &reservation(), "eth0", "/x", &Dns::default()).unwrap();
        assert!(String::from_utf8(result).unwrap().ends_with("\"dns\":{}}"));
    }
}
