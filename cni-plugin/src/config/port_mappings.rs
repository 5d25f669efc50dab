//! The `portMappings` capability: ports of the node that lead to the container.

use std::net::IpAddr;

use ipamd_api::{PortMapping, port_mapping::MAX_PORT_MAPPINGS};

use crate::document::{Document, Field};
use crate::error::CniError;

/// TCP's number, for a mapping without a protocol.
const TCP: u8 = 6;

/// The mappings that name a port of the node. The others only tell of a port that the container listens on. Kubernetes lets a
/// pod list a port for all addresses and for one of them; where the one leads no other way, it is part of the other.
pub fn parse(document: &Document) -> Result<Vec<PortMapping>, CniError> {
    let list = document.field("runtimeConfig").field("portMappings");
    let mut mappings: Vec<PortMapping> = Vec::new();
    for entry in list.list()?.unwrap_or_default() {
        let Some(mapping) = mapping(&entry)? else { continue };
        if mappings.iter().any(|earlier| earlier.covers(&mapping)) {
            continue;
        }
        mappings.retain(|earlier| !mapping.covers(earlier));
        if let Some(earlier) = mappings.iter().find(|earlier| earlier.overlaps(&mapping)) {
            return Err(entry.must(&format!("must not overlap with the mapping {earlier} of the same list")));
        }
        if mappings.len() == MAX_PORT_MAPPINGS {
            return Err(list.must(&format!("must have at most {MAX_PORT_MAPPINGS} mappings")));
        }
        mappings.push(mapping);
    }
    Ok(mappings)
}

fn mapping(entry: &Field) -> Result<Option<PortMapping>, CniError> {
    if !entry.object()? {
        return Err(entry.must("must be an object"));
    }
    let host_port = port(&entry.field("hostPort"), 0)?.unwrap_or(0);
    let container_port = entry.field("containerPort");
    let container_port = port(&container_port, 1)?
        .ok_or_else(|| container_port.must("must be the port that the container listens on"))?;
    let protocol = entry.field("protocol");
    let protocol = match protocol.text()? {
        None | Some("") => TCP,
        Some(name) => PortMapping::protocol_number(name)
            .ok_or_else(|| protocol.must("must be \"tcp\", \"udp\" or \"sctp\""))?,
    };
    let host_ip = host_ip(&entry.field("hostIP"))?;
    Ok((host_port != 0).then_some(PortMapping { host_ip, host_port, container_port, protocol }))
}

fn port(field: &Field, least: u32) -> Result<Option<u16>, CniError> {
    let number = field.number_in(least..=u16::MAX.into())?;
    Ok(number.and_then(|number| u16::try_from(number).ok()))
}

fn host_ip(field: &Field) -> Result<Option<IpAddr>, CniError> {
    let Some(text) = field.text()?.filter(|text| !text.is_empty()) else { return Ok(None) };
    let address = text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical()).filter(|ip| !ip.is_multicast());
    match address {
        Some(address) => Ok(Some(address)),
        None => Err(field.must("must be an IP address of the node, or empty for all of them")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(mappings: &Value) -> Result<Vec<String>, CniError> {
        let config = json!({"runtimeConfig": {"portMappings": mappings}});
        let document = Document::decode(config.to_string().as_bytes()).unwrap();
        Ok(parse(&document)?.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn each_field_is_read_and_has_its_default() {
        let mappings = read(&json!([
            {"hostPort": 8080, "containerPort": 80},
            {"hostPort": 53, "containerPort": 5353, "protocol": "UDP", "hostIP": ""},
            {"hostPort": 65535, "containerPort": 65535, "protocol": "Sctp", "hostIP": "10.0.0.1"},
            {"hostPort": 53, "containerPort": 53, "protocol": "tcp", "hostIP": "0.0.0.0"},
            {"hostPort": 53, "containerPort": 54, "protocol": "", "hostIP": "::"},
            {"hostPort": 1, "containerPort": 1, "hostIP": "::ffff:10.0.0.1", "unknown": {}},
            {"HostPort": 54323, "ContainerPort": 8080, "Protocol": "TCP", "HostIP": ""},
        ]));
        assert_eq!(
            mappings.unwrap(),
            [
                "8080/tcp to 80",
                "53/udp to 5353",
                "10.0.0.1:65535/sctp to 65535",
                "0.0.0.0:53/tcp to 53",
                "[::]:53/tcp to 54",
                "10.0.0.1:1/tcp to 1",
                "54323/tcp to 8080",
            ]
        );
    }

    #[test]
    fn a_mapping_without_a_port_of_the_node_is_passed_over() {
        let mappings = json!([
            {"containerPort": 80}, {"hostPort": 0, "containerPort": 80}, {"hostPort": null, "containerPort": 80},
        ]);
        assert_eq!(read(&mappings).unwrap(), Vec::<String>::new());
        assert_eq!(read(&json!(null)).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn they_are_taken_from_the_capability_only() {
        let config = json!({"portMappings": [{"hostPort": 80, "containerPort": 80}]}).to_string();
        assert_eq!(parse(&Document::decode(config.as_bytes()).unwrap()).unwrap(), []);
    }

    #[test]
    fn a_wrong_field_is_named_with_its_value() {
        let good = json!({"hostPort": 80, "containerPort": 80});
        for (field, value) in [
            ("hostPort", json!(-1)),
            ("hostPort", json!(65536)),
            ("hostPort", json!("80")),
            ("hostPort", json!(80.5)),
            ("containerPort", json!(0)),
            ("containerPort", json!(65536)),
            ("containerPort", json!([])),
            ("protocol", json!("icmp")),
            ("protocol", json!(6)),
            ("protocol", json!(" tcp")),
            ("hostIP", json!("localhost")),
            ("hostIP", json!("10.0.0.0/8")),
            ("hostIP", json!("224.0.0.1")),
            ("hostIP", json!(0)),
        ] {
            let mut entry = good.clone();
            entry[field] = value.clone();
            let error = read(&json!([{"containerPort": 1}, entry])).unwrap_err();
            let text = error.to_string();
            assert_eq!(error.code(), 7, "{text}");
            assert!(
                text.contains(&format!(" runtimeConfig.portMappings[1].{field} must "))
                    && text.ends_with(&format!("not {value}")),
                "{text}"
            );
        }
        for (list, path) in [
            (json!({}), "runtimeConfig.portMappings must be a list, not {}"),
            (json!([7]), "runtimeConfig.portMappings[0] must be an object, not 7"),
            (json!([null]), "runtimeConfig.portMappings[0] is missing; it must be an object"),
            (json!([{"hostPort": 80}]), "portMappings[0].containerPort is missing; it must be the port"),
        ] {
            let error = read(&list).unwrap_err();
            assert!(error.code() == 7 && error.to_string().contains(path), "{error}");
        }
    }

    #[test]
    fn one_packet_has_one_way_to_go() {
        let entry = |port: u16, ip: &str, protocol: &str| json!({"hostPort": port, "containerPort": 80, "hostIP": ip, "protocol": protocol});
        let mut elsewhere = entry(80, "10.0.0.1", "TCP");
        elsewhere["containerPort"] = json!(81);
        let error = read(&json!([entry(80, "", "tcp"), elsewhere])).unwrap_err();
        assert_eq!(error.code(), 7);
        assert!(
            error.to_string().contains("portMappings[1] must not overlap with the mapping 80/tcp to 80 of"),
            "{error}"
        );
        let apart = [entry(80, "10.0.0.1", "tcp"), entry(80, "10.0.0.2", ""), entry(80, "", "udp")];
        assert_eq!(read(&json!(apart)).unwrap().len(), 3);
    }

    #[test]
    fn a_mapping_that_another_has_within_is_no_conflict() {
        let entry = |ip: &str| json!({"hostPort": 80, "containerPort": 80, "hostIP": ip});
        for (list, read_as) in [
            (["", "127.0.0.1"], &["80/tcp to 80"][..]),
            (["10.0.0.1", ""], &["80/tcp to 80"]),
            (["0.0.0.0", "10.0.0.1"], &["0.0.0.0:80/tcp to 80"]),
            (["fd00::1", "::"], &["[::]:80/tcp to 80"]),
            (["10.0.0.1", "10.0.0.1"], &["10.0.0.1:80/tcp to 80"]),
            (["0.0.0.0", "::"], &["0.0.0.0:80/tcp to 80", "[::]:80/tcp to 80"]),
            (["0.0.0.0", "fd00::1"], &["0.0.0.0:80/tcp to 80", "[fd00::1]:80/tcp to 80"]),
        ] {
            assert_eq!(read(&json!(list.map(entry))).unwrap(), read_as, "{list:?}");
        }
    }

    #[test]
    fn a_list_beyond_measure_is_refused() {
        let list = |ports: usize| -> Value {
            (1..=ports).map(|port| json!({"hostPort": port, "containerPort": 80})).collect()
        };
        assert_eq!(read(&list(MAX_PORT_MAPPINGS)).unwrap().len(), MAX_PORT_MAPPINGS);
        assert!(read(&list(MAX_PORT_MAPPINGS + 1)).unwrap_err().to_string().contains("at most 256 mappings"));
    }
}
