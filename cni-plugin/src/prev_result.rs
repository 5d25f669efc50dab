//! `prevResult`: the result of the chain's ADD, as later plugins may have changed it. From 0.3.0 on one reader takes all forms:
//! they differ in fields that CHECK does not need.

use std::net::IpAddr;

use ipamd_api::MacAddr;
use ipnetwork::IpNetwork;
use serde_json::{Map, Value};

use crate::{
    document::{Document, Field},
    error::CniError,
    version::CniVersion,
};

/// What CHECK needs of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrevResult {
    /// `interfaces`.
    pub interfaces: Vec<Interface>,
    /// `ips`.
    pub ips: Vec<Ip>,
    /// `routes`.
    pub routes: Vec<Route>,
}

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// `name`.
    pub name: String,
    /// `mac`.
    pub mac: Option<MacAddr>,
    /// `mtu`, from version 1.1.0 on.
    pub mtu: Option<u32>,
    /// `sandbox`, empty for those on the host.
    pub sandbox: String,
}

/// One address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ip {
    /// `address`.
    pub address: IpNetwork,
    /// `gateway`.
    pub gateway: Option<IpAddr>,
    /// `interface`: index into [`PrevResult::interfaces`].
    pub interface: Option<usize>,
}

/// One route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// `dst`.
    pub destination: IpNetwork,
    /// `gw`.
    pub gateway: Option<IpAddr>,
}

impl PrevResult {
    /// Reads it, or says what is wrong with it. The configuration's version says which form it has.
    pub fn parse(given: &Map<String, Value>, version: CniVersion) -> Result<Self, CniError> {
        let document = Document::of_map("prevResult", given.clone());
        if version < CniVersion::V0_3_0 {
            return of_one_interface(&document);
        }
        let result = Self {
            interfaces: each(&document.field("interfaces"), interface)?,
            ips: each(&document.field("ips"), ip)?,
            routes: each(&document.field("routes"), route)?,
        };
        let entries = document.field("ips").list()?.unwrap_or_default();
        for (ip, entry) in result.ips.iter().zip(entries) {
            if ip.interface.is_some_and(|interface| interface >= result.interfaces.len()) {
                return Err(entry
                    .field("interface")
                    .must(&format!("must be below {}, the number of interfaces", result.interfaces.len())));
            }
        }
        Ok(result)
    }

    /// The container's end of the attachment: the interface of that name inside a sandbox.
    pub fn container_end(&self, ifname: &str) -> Option<(usize, &Interface)> {
        self.interfaces
            .iter()
            .enumerate()
            .find(|(_, interface)| interface.name == ifname && !interface.sandbox.is_empty())
    }
}

/// The form before 0.3.0, of one interface that has no name: an address of each family, each with its routes.
fn of_one_interface(document: &Document) -> Result<PrevResult, CniError> {
    let mut result = PrevResult::default();
    for name in ["ip4", "ip6"] {
        let family = document.field(name);
        if !family.object()? {
            continue;
        }
        let gateway = address(&family.field("gateway"))?;
        result.ips.push(Ip { address: prefix(&family.field("ip"))?, gateway, interface: None });
        result.routes.extend(each(&family.field("routes"), route)?);
    }
    Ok(result)
}

fn each<T>(list: &Field, read: impl Fn(&Field) -> Result<T, CniError>) -> Result<Vec<T>, CniError> {
    let entries = list.list()?.unwrap_or_default();
    entries
        .iter()
        .map(|entry| {
            entry.object()?;
            read(entry)
        })
        .collect()
}

fn interface(entry: &Field) -> Result<Interface, CniError> {
    let (name, mac) = (entry.field("name"), entry.field("mac"));
    let name = name.text()?.ok_or_else(|| name.must("must be an interface's name"))?.to_owned();
    let mac = match mac.text()? {
        // A later plugin may list an interface with an address of another sort; such is not ours.
        None => None,
        Some(text) => text.parse().ok(),
    };
    Ok(Interface {
        name,
        mac,
        mtu: entry.field("mtu").number_in(0..=u32::MAX)?.filter(|mtu| *mtu != 0),
        sandbox: entry.field("sandbox").text()?.unwrap_or_default().to_owned(),
    })
}

fn ip(entry: &Field) -> Result<Ip, CniError> {
    Ok(Ip {
        address: prefix(&entry.field("address"))?,
        gateway: address(&entry.field("gateway"))?,
        interface: entry.field("interface").pointer().number_in(0..=u32::MAX)?.map(|index| index as usize),
    })
}

fn route(entry: &Field) -> Result<Route, CniError> {
    Ok(Route { destination: prefix(&entry.field("dst"))?, gateway: address(&entry.field("gw"))? })
}

fn prefix(field: &Field) -> Result<IpNetwork, CniError> {
    let parsed = field.text()?.filter(|text| text.contains('/')).and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| field.must("must be an IP address with a prefix length"))
}

fn address(field: &Field) -> Result<Option<IpAddr>, CniError> {
    match field.text()? {
        None | Some("") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| field.must("must be an IP address")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read_in(version: CniVersion, prev_result: &Value) -> Result<PrevResult, CniError> {
        PrevResult::parse(prev_result.as_object().unwrap(), version)
    }

    fn read(prev_result: &Value) -> Result<PrevResult, CniError> {
        read_in(CniVersion::V1_1_0, prev_result)
    }

    #[test]
    fn the_oldest_form_has_an_address_of_each_family() {
        let result = read_in(CniVersion::V0_2_0, &json!({
            "cniVersion": "0.2.0",
            "ip4": {"ip": "10.0.0.5/24", "gateway": "10.0.0.1", "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.9.0.0/16", "gw": "10.0.0.9"}]},
            "IP6": {"IP": "fd00::5/64"},
            "dns": {},
        })).unwrap();
        let ip = |address: &str, gateway: Option<&str>| Ip {
            address: address.parse().unwrap(),
            gateway: gateway.map(|text| text.parse().unwrap()),
            interface: None,
        };
        assert_eq!(result.ips, [ip("10.0.0.5/24", Some("10.0.0.1")), ip("fd00::5/64", None)]);
        assert_eq!((result.routes.len(), result.interfaces.len()), (2, 0));
        let newer = read(&json!({"ip4": {"ip": "10.0.0.5/24"}})).unwrap();
        assert_eq!(newer, PrevResult::default(), "the version says which form counts");
        let error = read_in(CniVersion::V0_1_0, &json!({"ip4": {}})).unwrap_err().to_string();
        assert!(error.contains("prevResult.ip4.ip is missing; it must be an IP address"), "{error}");
    }

    #[test]
    fn keys_may_have_any_case() {
        let result = read(&json!({
            "Interfaces": [{"Name": "eth0", "Mac": "02:00:00:00:00:02", "Sandbox": "/n"}],
            "IPs": [{"Interface": 0, "Address": "10.0.0.5/32", "Gateway": "10.0.0.1"}],
            "Routes": [{"Dst": "0.0.0.0/0", "GW": "10.0.0.1"}],
        }))
        .unwrap();
        assert!(result.container_end("eth0").is_some());
        assert_eq!(
            (result.ips[0].interface, result.routes[0].gateway),
            (Some(0), Some("10.0.0.1".parse().unwrap()))
        );
    }

    #[test]
    fn every_form_reads_the_same() {
        let old = json!({
            "cniVersion": "0.4.0",
            "interfaces": [{"name": "cmbx", "mac": "02:00:00:00:00:01"}, {"name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": "/n"}],
            "ips": [{"version": "4", "address": "10.0.0.5/32", "gateway": "10.0.0.1", "interface": 1}],
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.0.0.1"}], "dns": {},
        });
        let mut new = old.clone();
        new["cniVersion"] = json!("1.0.0");
        new["ips"][0].as_object_mut().unwrap().remove("version");
        let result = read(&old).unwrap();
        assert_eq!(result, read(&new).unwrap());
        assert_eq!(result.container_end("eth0").unwrap().0, 1);
        assert_eq!(result.container_end("cmbx"), None);
        assert_eq!(result.ips[0].gateway, Some("10.0.0.1".parse().unwrap()));
        new["interfaces"][1]["mtu"] = json!(1400);
        assert_eq!(read(&new).unwrap().interfaces[1].mtu, Some(1400));
    }

    #[test]
    fn what_later_plugins_add_is_read_along() {
        let result = read(&json!({
            "interfaces": [{"name": "ib0", "mac": "20:00:55:04:01:fe:80:00:00:00", "socketPath": "/s", "pciID": "0"}],
            "ips": [{"address": "10.9.0.1/24"}], "routes": [{"dst": "10.0.0.0/8", "mtu": 1400, "priority": 7}],
        }));
        let result = result.unwrap();
        assert_eq!(
            (result.interfaces[0].mac, result.ips[0].interface, result.routes[0].gateway),
            (None, None, None)
        );
        assert_eq!(read(&json!({})).unwrap(), PrevResult::default());
    }

    #[test]
    fn a_wrong_field_is_named() {
        for (result, part) in [
            (json!({"ips": {}}), "prevResult.ips must be a list"),
            (json!({"interfaces": [1]}), "prevResult.interfaces[0] must be an object"),
            (json!({"interfaces": [{}]}), "prevResult.interfaces[0].name is missing; it must be"),
            (json!({"ips": [{"address": "10.0.0.1"}]}), "prevResult.ips[0].address must be"),
            (
                json!({"ips": [{"address": "10.0.0.1/32", "interface": -1}]}),
                "prevResult.ips[0].interface must be",
            ),
            (
                json!({"ips": [{"address": "10.0.0.1/32", "interface": 3}]}),
                "prevResult.ips[0].interface must be below 0, the number of interfaces, not 3",
            ),
            (
                json!({"ips": [{"address": "10.0.0.1/32", "gateway": "x"}]}),
                "prevResult.ips[0].gateway must be",
            ),
            (json!({"routes": [{"dst": "x"}]}), "prevResult.routes[0].dst must be"),
        ] {
            let error = read(&result).unwrap_err();
            assert_eq!(error.code(), 7);
            assert!(error.to_string().contains(part), "{error}");
        }
    }
}
