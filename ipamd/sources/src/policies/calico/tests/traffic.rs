//! Protocols, ICMP, ports and families.

use std::ops::RangeInclusive;

use super::*;
use ipamd_model::policy::{Family, Icmp, Ports, Traffic, protocol};

fn traffic(rule_without_action: &Value) -> Result<Traffic, FieldError> {
    let mut it = rule_without_action.clone();
    it["action"] = json!("Allow");
    Ok(rule(&it)?.traffic.remove(0))
}

fn ports(ranges: &[RangeInclusive<u16>], names: &[&str]) -> Ports {
    Ports { ranges: ranges.to_vec(), names: names.iter().map(|it| Arc::from(*it)).collect() }
}

#[test]
fn protocols_have_names_or_numbers() {
    for (it, number) in [
        (json!("TCP"), protocol::TCP),
        (json!("UDP"), protocol::UDP),
        (json!("ICMP"), protocol::ICMP),
        (json!("ICMPv6"), protocol::ICMPV6),
        (json!("SCTP"), protocol::SCTP),
        (json!("UDPLite"), protocol::UDPLITE),
        (json!(47), 47),
        (json!("47"), 47),
        (json!(255), 255),
    ] {
        let expected = Traffic { protocol: Some(number), ..Traffic::ANY };
        assert_eq!(traffic(&json!({"protocol": it})), Ok(expected), "{it}");
        let expected = Traffic { not_protocol: Some(number), ..Traffic::ANY };
        assert_eq!(traffic(&json!({"notProtocol": it})), Ok(expected), "{it}");
    }
    let wanted = "one of TCP, UDP, ICMP, ICMPv6, SCTP and UDPLite, or a number from 1 to 255";
    for (it, shown) in [
        (json!("tcp"), "\"tcp\""),
        (json!("icmpv6"), "\"icmpv6\""),
        (json!(""), "\"\""),
        (json!("any"), "\"any\""),
        (json!("256"), "\"256\""),
        (json!("0"), "\"0\""),
        (json!(0), "0"),
        (json!(256), "256"),
        (json!(-1), "-1"),
        (json!(6.5), "6.5"),
        (json!(true), "true"),
    ] {
        let error = traffic(&json!({"notProtocol": it})).unwrap_err();
        assert_eq!(error.to_string(), format!("spec.ingress[0].notProtocol: {shown} is not {wanted}"));
    }
}

#[test]
fn ports_are_numbers_ranges_and_names() {
    let it = json!({
        "protocol": "TCP",
        "source": {"ports": [1024, "65535"], "notPorts": ["2000:3000"]},
        "destination": {"ports": ["http", "8080", "80:80", 443], "notPorts": ["dns-tcp", "1:65535"]},
    });
    let expected = Traffic {
        protocol: Some(protocol::TCP),
        source_ports: Some(ports(&[1024..=1024, 65535..=65535], &[])),
        not_source_ports: Some(ports(&[2000..=3000], &[])),
        destination_ports: Some(ports(&[8080..=8080, 80..=80, 443..=443], &["http"])),
        not_destination_ports: Some(ports(&[1..=65535], &["dns-tcp"])),
        ..Traffic::ANY
    };
    assert_eq!(traffic(&it), Ok(expected));
}

#[test]
fn ports_without_a_protocol_are_of_all_protocols_that_have_ports() {
    let expected =
        Traffic { destination_ports: Some(ports(&[9999..=9999, 14444..=14444], &[])), ..Traffic::ANY };
    assert_eq!(traffic(&json!({"destination": {"ports": [9999, 14444]}})), Ok(expected.clone()));
    let it = json!({"notProtocol": "UDP", "destination": {"ports": [9999, 14444]}});
    assert_eq!(traffic(&it), Ok(Traffic { not_protocol: Some(protocol::UDP), ..expected }));
    for number in [protocol::TCP, protocol::UDP, protocol::SCTP, protocol::UDPLITE] {
        assert!(traffic(&json!({"protocol": number, "source": {"notPorts": [1]}})).is_ok());
    }
}

#[test]
fn icmp_has_a_type_and_perhaps_a_code() {
    for (it, icmp) in [
        (json!({"type": 8}), Some(Icmp { kind: 8, code: None })),
        (json!({"type": 3, "code": 1}), Some(Icmp { kind: 3, code: Some(1) })),
        (json!({"type": 0, "code": 255}), Some(Icmp { kind: 0, code: Some(255) })),
        (json!({"type": 254}), Some(Icmp { kind: 254, code: None })),
        (json!({}), None),
    ] {
        let expected = Traffic { protocol: Some(protocol::ICMP), icmp, ..Traffic::ANY };
        assert_eq!(traffic(&json!({"protocol": "ICMP", "icmp": it})), Ok(expected), "{it}");
        let expected = Traffic { protocol: Some(protocol::ICMPV6), not_icmp: icmp, ..Traffic::ANY };
        assert_eq!(traffic(&json!({"protocol": 58, "notICMP": it})), Ok(expected), "{it}");
    }
}

#[test]
fn a_rule_is_for_both_families_or_for_one() {
    let family = |it: Value| rule(&json!({"action": "Deny", "ipVersion": it})).map(|it| it.family);
    assert_eq!(family(json!(4)), Ok(Some(Family::V4)));
    assert_eq!(family(json!(6)), Ok(Some(Family::V6)));
    assert_eq!(family(json!(null)), Ok(None));
    for it in [json!(5), json!("4"), json!(4.5), json!([4])] {
        assert_eq!(family(it).unwrap_err().field, "spec.ingress[0].ipVersion");
    }
    // Networks that something is not in are of one family, and so is the rule.
    for (rule, expected) in [
        (json!({"source": {"notNets": ["0.0.0.0/0"]}}), Some(Family::V4)),
        (json!({"source": {"selector": "has(a)", "notNets": ["10.0.0.0/8"]}}), Some(Family::V4)),
        (json!({"destination": {"notNets": ["fd00::1"]}}), Some(Family::V6)),
        (json!({"ipVersion": 6, "destination": {"notNets": ["fd00::1"]}}), Some(Family::V6)),
        (json!({"source": {"nets": ["10.0.0.0/8"]}}), None),
        (json!({"source": {"notNets": []}}), None),
    ] {
        let mut rule = rule;
        rule["action"] = json!("Deny");
        assert_eq!(self::rule(&rule).unwrap().family, expected, "{rule}");
    }
    for it in [
        json!({"ipVersion": 4, "protocol": "ICMP", "source": {"nets": ["10.0.0.0/8"]}}),
        json!({"ipVersion": 6, "protocol": "ICMPv6", "source": {"nets": ["fd00::/8"]}}),
        json!({"source": {"nets": ["10.0.0.0/8"]}, "destination": {"notNets": ["10.0.0.1"]}}),
    ] {
        assert!(traffic(&it).is_ok(), "{it}");
    }
}

#[test]
fn traffic_that_cannot_be_is_refused_by_field() {
    let tcp = |ports: Value| json!({"protocol": "TCP", "destination": {"ports": ports}});
    for (it, wrong) in [
        (tcp(json!([0])), "destination.ports[0]: 0 is not a port, from 1 to 65535"),
        (tcp(json!([80, 65536])), "destination.ports[1]: 65536 is not a port, from 1 to 65535"),
        (tcp(json!(["0"])), "destination.ports[0]: \"0\" is not a port, from 1 to 65535"),
        (tcp(json!(["80:99999"])), "destination.ports[0]: \"99999\" is not a port, from 1 to 65535"),
        (tcp(json!(["0:80"])), "destination.ports[0]: \"0\" is not a port, from 1 to 65535"),
        (tcp(json!(["90:80"])), "destination.ports[0]: 80 is below 90"),
        (tcp(json!(["80-90"])), "destination.ports[0]: \"80-90\" cannot be the name of a port"),
        (tcp(json!(["80:"])), "destination.ports[0]: \"80:\" cannot be the name of a port"),
        (tcp(json!([""])), "destination.ports[0]: \"\" cannot be the name of a port"),
        (tcp(json!([80.5])), "destination.ports[0]: 80.5 is not a whole number"),
        (tcp(json!(80)), "destination.ports: 80 is not a list"),
        (
            json!({"protocol": "ICMP", "source": {"ports": [80]}}),
            "source.ports: the protocol of the rule has no ports",
        ),
        (
            json!({"protocol": 47, "destination": {"notPorts": ["http"]}}),
            "destination.notPorts: the protocol of the rule has no ports",
        ),
        (
            json!({"protocol": "UDPLite", "destination": {"ports": ["http"]}}),
            "destination.ports: ports of UDPLite have no names",
        ),
        (json!({"icmp": {"type": 8}}), "icmp: needs the protocol ICMP or ICMPv6"),
        (json!({"protocol": "TCP", "notICMP": {"type": 8}}), "notICMP: needs the protocol ICMP or ICMPv6"),
        (json!({"notProtocol": "ICMP", "icmp": {"type": 8}}), "icmp: needs the protocol ICMP or ICMPv6"),
        (json!({"protocol": "ICMP", "icmp": {"code": 1}}), "icmp.code: needs a type"),
        (json!({"protocol": "ICMP", "icmp": {"type": 255}}), "icmp.type: 255 is not a number from 0 to 254"),
        (
            json!({"protocol": "ICMP", "icmp": {"type": 8, "code": 256}}),
            "icmp.code: 256 is not a number from 0 to 255",
        ),
        (json!({"protocol": "ICMP", "icmp": {"type": "8"}}), "icmp.type: \"8\" is not a whole number"),
        (json!({"protocol": "ICMP", "icmp": {"kind": 8}}), "icmp.kind: is not known"),
        (json!({"ipVersion": 6, "protocol": "ICMP"}), "ipVersion: ICMP needs 4"),
        (json!({"ipVersion": 6, "notProtocol": 1}), "ipVersion: ICMP needs 4"),
        (json!({"ipVersion": 4, "protocol": "ICMPv6"}), "ipVersion: ICMPv6 needs 6"),
        (
            json!({"ipVersion": 4, "source": {"nets": ["fd00::/8"]}}),
            "source.nets[0]: fd00::/8 is not of the family that ipVersion names",
        ),
        (
            json!({"source": {"nets": ["10.0.0.0/8", "fd00::/8"]}}),
            "source.nets[1]: fd00::/8 is of another family than the networks before it in the rule",
        ),
        (
            json!({"source": {"nets": ["fd00::/8"]}, "destination": {"notNets": ["10.0.0.0/8"]}}),
            "destination.notNets[0]: 10.0.0.0/8 is of another family than the networks before it in the rule",
        ),
    ] {
        assert_eq!(traffic(&it).unwrap_err().to_string(), format!("spec.ingress[0].{wrong}"));
    }
}
