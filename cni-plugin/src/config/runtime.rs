//! `runtimeConfig`: what the runtime passes on by way of capabilities.

use std::net::IpAddr;

use ipamd_api::MacAddr;
use ipnetwork::IpNetwork;

use super::document::{Document, Field};
use crate::error::CniError;

/// Refuses the capabilities that Cambric does not have: nobody should believe traffic limited that is not.
pub fn refuse_unsupported(document: &Document) -> Result<(), CniError> {
    let config = document.field("runtimeConfig");
    config.object()?;
    for (name, reason) in [
        ("bandwidth", "chain the bandwidth plugin behind Cambric and give the capability to it"),
        ("ipRanges", "the pools of Cambric's daemon say where addresses come from"),
    ] {
        let capability = config.field(name);
        if !capability.is_blank() {
            return Err(capability.unsupported(reason));
        }
    }
    Ok(())
}

/// A capability's field.
pub fn capability<'a>(document: &'a Document, name: &str) -> Field<'a> {
    document.field("runtimeConfig").field(name)
}

/// The `ips` capability: addresses with or without a prefix length, at most one of each family, IPv4 first.
pub fn addresses(document: &Document) -> Result<Vec<IpAddr>, CniError> {
    let list = document.field("runtimeConfig").field("ips");
    let mut addresses: Vec<IpAddr> = Vec::new();
    let Some(entries) = list.array()? else { return Ok(addresses) };
    for entry in entries {
        let address = address(&entry)?;
        if addresses.iter().any(|other| other.is_ipv4() == address.is_ipv4()) {
            return Err(list.must("must have at most one address of each family"));
        }
        addresses.push(address);
    }
    addresses.sort_by_key(IpAddr::is_ipv6);
    Ok(addresses)
}

fn address(entry: &Field) -> Result<IpAddr, CniError> {
    entry
        .text()?
        .and_then(|text| text.parse::<IpNetwork>().ok())
        .map(|network| network.ip())
        .filter(|address| !address.is_unspecified() && !address.is_multicast() && !address.is_loopback())
        .ok_or_else(|| {
            entry.must("must be an IP address that a container can have, with or without a prefix length")
        })
}

/// The `mac` capability.
pub fn mac(document: &Document) -> Result<Option<MacAddr>, CniError> {
    let field = document.field("runtimeConfig").field("mac");
    match field.text()? {
        None | Some("") => Ok(None),
        Some(text) => match text.parse::<MacAddr>() {
            Ok(mac) if mac.is_unicast() => Ok(Some(mac)),
            _ => Err(field.must("must be a unicast Ethernet address such as 02:00:00:00:00:01")),
        },
    }
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
        let addresses = addresses(&document(&json!({"ips": ["fd00::5/64", "10.1.2.3/24"]}))).unwrap();
        assert_eq!(addresses, ["10.1.2.3".parse::<IpAddr>().unwrap(), "fd00::5".parse().unwrap()]);
    }

    #[test]
    fn a_second_address_of_a_family_is_refused() {
        let error = addresses(&document(&json!({"ips": ["10.0.0.1", "10.0.0.2"]}))).unwrap_err();
        assert!(error.to_string().contains("runtimeConfig.ips must have at most one"), "{error}");
    }

    #[test]
    fn an_address_no_container_can_have_is_refused() {
        for text in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "::1", "ff02::1", "::", "", "x"] {
            assert!(addresses(&document(&json!({"ips": [text]}))).is_err(), "{text}");
        }
    }

    #[test]
    fn an_empty_mac_is_none() {
        assert_eq!(mac(&document(&json!({"mac": ""}))).unwrap(), None);
        assert!(mac(&document(&json!({"mac": "x"}))).is_err());
    }
}
