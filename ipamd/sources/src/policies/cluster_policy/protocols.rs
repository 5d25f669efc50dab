//! The entries of `protocols`.

use std::ops::RangeInclusive;

use super::parts::{Part, unknown};
use crate::{
    field::Field,
    policies::kubernetes::ports::{name, number},
};
use ipamd_model::{
    field::FieldError,
    policy::{Ports, Traffic, protocol},
};

/// Reads a protocol and its ports, or a port by its name, which says the protocol too.
pub(super) fn read(field: &Field<'_>) -> Result<Part<Traffic>, FieldError> {
    const KINDS: [(&str, Option<u8>); 4] = [
        ("tcp", Some(protocol::TCP)),
        ("udp", Some(protocol::UDP)),
        ("sctp", Some(protocol::SCTP)),
        ("destinationNamedPort", None),
    ];
    let kinds = KINDS.map(|(kind, _)| kind);
    if let Some(unknown) = unknown(field, "a protocol", &kinds) {
        return Ok(Part::Unknown(unknown));
    }
    field.only(&kinds)?;
    let mut found = None;
    for (kind, protocol) in KINDS {
        let Some(it) = field.get(kind)? else { continue };
        if let Some((other, ..)) = found.replace((kind, protocol, it)) {
            return Err(it.refuse(format!("is not possible together with {other}")));
        }
    }
    let Some((_, protocol, it)) = found else {
        return Err(field.refuse("says nothing: it has none of tcp, udp, sctp and destinationNamedPort"));
    };
    let ports = if protocol.is_some() {
        it.only(&["destinationPort"])?;
        Ports { ranges: vec![port(&it.need("destinationPort")?)?], names: Vec::new() }
    } else {
        Ports { ranges: Vec::new(), names: vec![name(&it)?.into()] }
    };
    Ok(Part::Known(Traffic { protocol, destination_ports: Some(ports), ..Traffic::ANY }))
}

fn port(field: &Field<'_>) -> Result<RangeInclusive<u16>, FieldError> {
    field.only(&["number", "range"])?;
    match (field.get("number")?, field.get("range")?) {
        (Some(port), None) => number(&port).map(|port| port..=port),
        (None, Some(range)) => {
            range.only(&["start", "end"])?;
            let (start, end) = (range.need("start")?, range.need("end")?);
            let (first, last) = (number(&start)?, number(&end)?);
            if first < last {
                Ok(first..=last)
            } else {
                Err(end.refuse(format!("{last} is not above start, which is {first}")))
            }
        }
        (Some(_), Some(range)) => Err(range.refuse("is not possible together with number")),
        (None, None) => Err(field.refuse("says of no port: it has neither number nor range")),
    }
}
