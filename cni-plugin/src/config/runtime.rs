//! What the runtime asks for beside the configuration: `runtimeConfig` by way of capabilities, `args.cni` and `CNI_ARGS`.

use std::net::IpAddr;

use ipamd_api::MacAddr;

use super::dns::texts;
use crate::cni_args::container_address;
use crate::document::{Document, Field};
use crate::json::is_key_of;
use crate::{error::CniError, result::Dns};

/// The capabilities that Cambric has.
const SERVED: [&str; 4] = ["ips", "mac", "portMappings", "dns"];
/// The capabilities that ask for nothing: they tell of the pod's cgroup, and of its annotations.
const TOLD: [&str; 2] = ["cgroupPath", "io.kubernetes.cri.pod-annotations"];

/// Refuses the capabilities that Cambric does not have, or somebody would think that traffic is limited when it is not.
/// Runtimes give a capability only to a plugin whose `capabilities` say that it has it.
pub fn refuse_unsupported(document: &Document) -> Result<(), CniError> {
    let config = document.field("runtimeConfig");
    config.object()?;
    for (key, capability) in config.members() {
        let is_one_of = |names: &[&str]| names.iter().any(|name| is_key_of(name, key));
        if capability.is_blank() || is_one_of(&SERVED) || is_one_of(&TOLD) {
            continue;
        }
        return Err(capability.unsupported(if is_key_of("bandwidth", key) {
            "chain the bandwidth plugin behind Cambric and give the capability to it"
        } else if is_key_of("ipRanges", key) {
            "the pools of Cambric's daemon say where addresses come from"
        } else if is_key_of("aliases", key) {
            "Cambric answers no names; chain a plugin that does, and give the capability to it"
        } else {
            "Cambric does not have this capability; take it from the plugin's `capabilities`"
        }));
    }
    Ok(())
}

/// A capability's field.
pub fn capability<'a>(document: &'a Document, name: &str) -> Field<'a> {
    document.field("runtimeConfig").field(name)
}

/// The addresses that the container is to have, from the `ips` capability, `args.cni.ips` and `CNI_ARGS`: at most one of each
/// family, IPv4 first. Prefix lengths are passed over.
pub fn addresses(document: &Document, from_args: &[IpAddr]) -> Result<Vec<IpAddr>, CniError> {
    let mut addresses = from_args.to_vec();
    for list in [capability(document, "ips"), document.field("args").field("cni").field("ips")] {
        for entry in list.list()?.unwrap_or_default() {
            let address = address(&entry)?;
            if addresses.iter().any(|other| other.is_ipv4() == address.is_ipv4() && *other != address) {
                return Err(list.must(
                    "must have at most one address of each family, together with runtimeConfig.ips, args.cni.ips and IP \
                     in CNI_ARGS",
                ));
            }
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    addresses.sort_by_key(IpAddr::is_ipv6);
    Ok(addresses)
}

fn address(entry: &Field) -> Result<IpAddr, CniError> {
    entry.text()?.and_then(container_address).ok_or_else(|| {
        entry.must("must be an IP address that a container can have, with or without a prefix length")
    })
}

/// The Ethernet address that the container is to have, from the `mac` capability, `args.cni.mac` and `CNI_ARGS`.
pub fn mac(document: &Document, from_args: Option<MacAddr>) -> Result<Option<MacAddr>, CniError> {
    let mut mac = from_args;
    for field in [capability(document, "mac"), document.field("args").field("cni").field("mac")] {
        let Some(text) = field.text()?.filter(|text| !text.is_empty()) else { continue };
        let given = text.parse::<MacAddr>().ok().filter(|mac| mac.is_unicast());
        let given = given
            .ok_or_else(|| field.must("must be a unicast Ethernet address such as 02:00:00:00:00:01"))?;
        if let Some(other) = mac.filter(|other| *other != given) {
            return Err(field.must(&format!(
                "must be {other}, which is asked for too: runtimeConfig.mac, args.cni.mac and MAC in CNI_ARGS must agree"
            )));
        }
        mac = Some(given);
    }
    Ok(mac)
}

/// The configuration's `dns`, with what the `dns` capability gives instead. Kubernetes' runtimes write the container's
/// resolv.conf themselves; for others it is in the result.
pub fn dns(document: &Document, configured: Dns) -> Result<Dns, CniError> {
    let capability = capability(document, "dns");
    capability.object()?;
    let instead = |name: &str, configured: Vec<String>| -> Result<Vec<String>, CniError> {
        let given = texts(&capability.field(name))?;
        Ok(if given.is_empty() { configured } else { given })
    };
    Ok(Dns {
        nameservers: instead("servers", configured.nameservers)?,
        search: instead("searches", configured.search)?,
        options: instead("options", configured.options)?,
        domain: configured.domain,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn document(runtime_config: &Value) -> Document {
        Document::decode(json!({"runtimeConfig": runtime_config}).to_string().as_bytes()).unwrap()
    }

    #[test]
    fn ipv4_comes_first_and_prefix_lengths_are_dropped() {
        let addresses = addresses(&document(&json!({"ips": ["fd00::5/64", "10.1.2.3/24"]})), &[]).unwrap();
        assert_eq!(addresses, ["10.1.2.3".parse::<IpAddr>().unwrap(), "fd00::5".parse().unwrap()]);
    }

    #[test]
    fn a_second_address_of_a_family_is_refused() {
        let error = addresses(&document(&json!({"ips": ["10.0.0.1", "10.0.0.2"]})), &[]).unwrap_err();
        assert!(error.to_string().contains("runtimeConfig.ips must have at most one"), "{error}");
    }

    #[test]
    fn an_address_no_container_can_have_is_refused() {
        for text in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "::1", "ff02::1", "::", "", "x"] {
            assert!(addresses(&document(&json!({"ips": [text]})), &[]).is_err(), "{text}");
        }
    }

    #[test]
    fn an_empty_mac_is_none() {
        assert_eq!(mac(&document(&json!({"mac": ""})), None).unwrap(), None);
        assert!(mac(&document(&json!({"mac": "x"})), None).is_err());
    }

    /// A configuration with `args.cni` and `runtimeConfig`.
    fn asking(cni: &Value, runtime_config: &Value) -> Document {
        let config = json!({"args": {"cni": cni}, "runtimeConfig": runtime_config});
        Document::decode(config.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn every_place_that_asks_for_an_address_is_heard() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let both = asking(&json!({"ips": ["10.0.0.1"]}), &json!({"ips": ["fd00::1", "10.0.0.1/8"]}));
        assert_eq!(addresses(&both, &[ip("10.0.0.1")]).unwrap(), [ip("10.0.0.1"), ip("fd00::1")]);
        assert_eq!(addresses(&asking(&json!({}), &json!({})), &[ip("10.0.0.9")]).unwrap(), [ip("10.0.0.9")]);
        for (document, args) in [
            (asking(&json!({"ips": ["10.0.0.1"]}), &json!({"ips": ["10.0.0.2"]})), vec![]),
            (asking(&json!({"ips": ["10.0.0.1"]}), &json!({})), vec![ip("10.0.0.2")]),
        ] {
            let error = addresses(&document, &args).unwrap_err().to_string();
            assert!(error.contains("args.cni.ips must have at most one address of each family"), "{error}");
        }
    }

    #[test]
    fn every_place_that_asks_for_an_ethernet_address_is_heard() {
        let one = "02:00:00:00:00:01".parse::<MacAddr>().unwrap();
        let two = "02:00:00:00:00:02".parse::<MacAddr>().unwrap();
        let args = asking(&json!({"mac": one.to_string()}), &json!({}));
        assert_eq!(mac(&args, None).unwrap(), Some(one));
        assert_eq!(mac(&args, Some(one)).unwrap(), Some(one));
        assert_eq!(mac(&document(&json!({})), Some(two)).unwrap(), Some(two));
        let error = mac(&args, Some(two)).unwrap_err().to_string();
        assert!(error.contains("args.cni.mac must be 02:00:00:00:00:02"), "{error}");
    }

    #[test]
    fn a_capability_that_cambric_lacks_is_refused_whatever_its_case() {
        for (capability, part) in [
            (json!({"BandWidth": {"IngressRate": 1}}), "chain the bandwidth plugin"),
            (json!({"ipRanges": [[{"subnet": "10.0.0.0/8"}]]}), "pools of Cambric's daemon"),
            (json!({"aliases": ["db"]}), "answers no names"),
            (json!({"deviceID": "0000:00:1f.0"}), "does not have this capability"),
            (json!({"infinibandGUID": "c2:11:22:33:44:55:66:77"}), "does not have this capability"),
        ] {
            let error = refuse_unsupported(&document(&capability)).unwrap_err();
            assert!(error.code() == 2 && error.to_string().contains(part), "{error}");
        }
        for capability in [
            json!({"bandwidth": null, "ipRanges": [], "aliases": null, "deviceID": ""}),
            json!({"bandwidth": {"IngressRate": 0, "IngressBurst": 0, "EgressRate": 0, "EgressBurst": 0}}),
            json!({"cgroupPath": "/kubepods/x", "io.kubernetes.cri.pod-annotations": {"a": "b"}}),
            json!({"ips": ["10.0.0.1"], "MAC": "02:00:00:00:00:01", "dns": {"Servers": ["10.0.0.2"]}}),
        ] {
            refuse_unsupported(&document(&capability)).unwrap();
        }
    }

    #[test]
    fn the_pods_dns_is_in_the_result() {
        let configured = Dns { nameservers: vec!["10.0.0.2".into()], domain: "d".into(), ..Dns::default() };
        let none = document(&json!({"dns": {"Servers": null, "Searches": null, "Options": null}}));
        assert_eq!(dns(&none, configured.clone()).unwrap(), configured);
        let given = json!({"dns": {"Servers": ["10.0.0.3"], "Searches": ["s"], "Options": ["ndots:5"]}});
        let expected = Dns {
            nameservers: vec!["10.0.0.3".into()],
            search: vec!["s".into()],
            options: vec!["ndots:5".into()],
            domain: "d".into(),
        };
        assert_eq!(dns(&document(&given), configured).unwrap(), expected);
    }
}
