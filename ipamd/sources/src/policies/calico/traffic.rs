//! Protocols, ICMP types and ports of a rule.
//!
//! Ports need a protocol that has ports: TCP, UDP, SCTP or UDPLite. Calico also requires `protocol` to be named. Here a
//! rule with ports and without `protocol` is accepted; it is for all of these protocols and for no other.

use crate::{
    field::{Field, shown},
    policies::kubernetes::ports::{name, number},
};
use ipamd_model::{
    field::FieldError,
    policy::{Icmp, Ports, Traffic, protocol},
};

/// Reads what a rule says of traffic, that is `protocol`, `notProtocol`, `icmp`, `notICMP`, and the ports of both
/// sides.
pub(super) fn read(rule: &Field<'_>) -> Result<Traffic, FieldError> {
    let protocol = protocol_of(rule, "protocol")?;
    let not_protocol = protocol_of(rule, "notProtocol")?;
    let (source_ports, not_source_ports) = side(rule, "source", protocol)?;
    let (destination_ports, not_destination_ports) = side(rule, "destination", protocol)?;
    Ok(Traffic {
        protocol,
        not_protocol,
        icmp: icmp(rule, "icmp", protocol)?,
        not_icmp: icmp(rule, "notICMP", protocol)?,
        source_ports,
        not_source_ports,
        destination_ports,
        not_destination_ports,
    })
}

fn protocol_of(rule: &Field<'_>, key: &str) -> Result<Option<u8>, FieldError> {
    let Some(field) = rule.get(key)? else { return Ok(None) };
    let wrong = || field.is_not("one of TCP, UDP, ICMP, ICMPv6, SCTP and UDPLite, or a number from 1 to 255");
    let number = match field.value().as_str() {
        Some("TCP") => protocol::TCP,
        Some("UDP") => protocol::UDP,
        Some("ICMP") => protocol::ICMP,
        Some("ICMPv6") => protocol::ICMPV6,
        Some("SCTP") => protocol::SCTP,
        Some("UDPLite") => protocol::UDPLITE,
        Some(text) if text.bytes().all(|c| c.is_ascii_digit()) => text.parse().map_err(|_| wrong())?,
        Some(_) => return Err(wrong()),
        None => field.value().as_u64().and_then(|it| it.try_into().ok()).ok_or_else(wrong)?,
    };
    if number == 0 { Err(wrong()) } else { Ok(Some(number)) }
}

/// An ICMP type with or without a code; `None` also where neither is given.
fn icmp(rule: &Field<'_>, key: &str, protocol: Option<u8>) -> Result<Option<Icmp>, FieldError> {
    let Some(field) = rule.get(key)? else { return Ok(None) };
    field.only(&["type", "code"])?;
    if !protocol.is_some_and(protocol::is_icmp) {
        return Err(field.refuse("needs the protocol ICMP or ICMPv6"));
    }
    let kind = octet(&field, "type", 254)?;
    let code = octet(&field, "code", 255)?;
    match (kind, code) {
        (Some(kind), code) => Ok(Some(Icmp { kind, code })),
        (None, None) => Ok(None),
        (None, Some(_)) => {
            Err(FieldError { field: format!("{}.code", field.path()), reason: "needs a type".into() })
        }
    }
}

fn octet(field: &Field<'_>, key: &str, last: u8) -> Result<Option<u8>, FieldError> {
    let Some(field) = field.get(key)? else { return Ok(None) };
    match u8::try_from(field.integer()?) {
        Ok(number) if number <= last => Ok(Some(number)),
        _ => Err(field.is_not(&format!("a number from 0 to {last}"))),
    }
}

/// The ports of a side, and those that it must not be.
fn side(
    rule: &Field<'_>,
    key: &str,
    protocol: Option<u8>,
) -> Result<(Option<Ports>, Option<Ports>), FieldError> {
    match rule.get(key)? {
        Some(side) => Ok((ports(&side, "ports", protocol)?, ports(&side, "notPorts", protocol)?)),
        None => Ok((None, None)),
    }
}

fn ports(side: &Field<'_>, key: &str, protocol: Option<u8>) -> Result<Option<Ports>, FieldError> {
    let Some(list) = side.get(key)? else { return Ok(None) };
    let mut ports = Ports::default();
    for item in list.items()? {
        port(&item, &mut ports)?;
    }
    if ports == Ports::default() {
        // An empty list constrains nothing.
        return Ok(None);
    }
    if protocol.is_some_and(|it| !protocol::has_ports(it)) {
        return Err(list.refuse("the protocol of the rule has no ports"));
    }
    if protocol == Some(protocol::UDPLITE) && !ports.names.is_empty() {
        return Err(list.refuse("ports of UDPLite have no names"));
    }
    Ok(Some(ports))
}

/// A number, a text with a number, a range such as `1024:65535`, or a name.
fn port(field: &Field<'_>, ports: &mut Ports) -> Result<(), FieldError> {
    let Some(text) = field.value().as_str() else {
        let port = number(field)?;
        ports.ranges.push(port..=port);
        return Ok(());
    };
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    let digits = |text: &str| {
        let number = text.parse().ok().filter(|port: &u16| *port != 0);
        number.ok_or_else(|| field.refuse(format!("{} is not a port, from 1 to 65535", shown(text))))
    };
    let (first, last) = text.split_once(':').unwrap_or((text, text));
    if is_number(first) && is_number(last) {
        let (first, last) = (digits(first)?, digits(last)?);
        if last < first {
            return Err(field.refuse(format!("{last} is below {first}")));
        }
        ports.ranges.push(first..=last);
    } else {
        ports.names.push(name(field)?.into());
    }
    Ok(())
}
