//! What a rule says of protocols, ICMP and ports.
//!
//! Ports want a protocol that has some: TCP, UDP, SCTP or UDPLite. Calico also wants it to be named; here a rule that
//! has ports and no `protocol` is taken, and is for all of these protocols and no other, for that is what it says.

use crate::{
    place::{Place, shown},
    policies::kubernetes::ports::{name, number},
};
use ipamd_model::{
    field::FieldError,
    policy::{Icmp, Ports, Traffic, protocol},
};

/// Reads what a rule says of traffic, that is `protocol`, `notProtocol`, `icmp`, `notICMP`, and the ports of both
/// sides.
pub(super) fn read(rule: &Place<'_>) -> Result<Traffic, FieldError> {
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

fn protocol_of(rule: &Place<'_>, key: &str) -> Result<Option<u8>, FieldError> {
    let Some(place) = rule.get(key)? else { return Ok(None) };
    let wrong = || place.is_not("one of TCP, UDP, ICMP, ICMPv6, SCTP and UDPLite, or a number from 1 to 255");
    let number = match place.value().as_str() {
        Some("TCP") => protocol::TCP,
        Some("UDP") => protocol::UDP,
        Some("ICMP") => protocol::ICMP,
        Some("ICMPv6") => protocol::ICMPV6,
        Some("SCTP") => protocol::SCTP,
        Some("UDPLite") => protocol::UDPLITE,
        Some(text) if text.bytes().all(|c| c.is_ascii_digit()) => text.parse().map_err(|_| wrong())?,
        Some(_) => return Err(wrong()),
        None => place.value().as_u64().and_then(|it| it.try_into().ok()).ok_or_else(wrong)?,
    };
    if number == 0 { Err(wrong()) } else { Ok(Some(number)) }
}

/// An ICMP type with or without a code; `None` also where neither is given.
fn icmp(rule: &Place<'_>, key: &str, protocol: Option<u8>) -> Result<Option<Icmp>, FieldError> {
    let Some(place) = rule.get(key)? else { return Ok(None) };
    place.only(&["type", "code"])?;
    if !protocol.is_some_and(protocol::is_icmp) {
        return Err(place.refuse("needs the protocol ICMP or ICMPv6"));
    }
    let kind = octet(&place, "type", 254)?;
    let code = octet(&place, "code", 255)?;
    match (kind, code) {
        (Some(kind), code) => Ok(Some(Icmp { kind, code })),
        (None, None) => Ok(None),
        (None, Some(_)) => {
            Err(FieldError { field: format!("{}.code", place.path()), reason: "needs a type".into() })
        }
    }
}

fn octet(place: &Place<'_>, key: &str, last: u8) -> Result<Option<u8>, FieldError> {
    let Some(field) = place.get(key)? else { return Ok(None) };
    match u8::try_from(field.integer()?) {
        Ok(number) if number <= last => Ok(Some(number)),
        _ => Err(field.is_not(&format!("a number from 0 to {last}"))),
    }
}

/// The ports of a side, and those that it must not be.
fn side(
    rule: &Place<'_>,
    key: &str,
    protocol: Option<u8>,
) -> Result<(Option<Ports>, Option<Ports>), FieldError> {
    match rule.get(key)? {
        Some(side) => Ok((ports(&side, "ports", protocol)?, ports(&side, "notPorts", protocol)?)),
        None => Ok((None, None)),
    }
}

fn ports(side: &Place<'_>, key: &str, protocol: Option<u8>) -> Result<Option<Ports>, FieldError> {
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
fn port(place: &Place<'_>, ports: &mut Ports) -> Result<(), FieldError> {
    let Some(text) = place.value().as_str() else {
        let port = number(place)?;
        ports.ranges.push(port..=port);
        return Ok(());
    };
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    let digits = |text: &str| {
        let number = text.parse().ok().filter(|port: &u16| *port != 0);
        number.ok_or_else(|| place.refuse(format!("{} is not a port, from 1 to 65535", shown(text))))
    };
    let (first, last) = text.split_once(':').unwrap_or((text, text));
    if is_number(first) && is_number(last) {
        let (first, last) = (digits(first)?, digits(last)?);
        if last < first {
            return Err(place.refuse(format!("{last} is below {first}")));
        }
        ports.ranges.push(first..=last);
    } else {
        ports.names.push(name(place)?.into());
    }
    Ok(())
}
