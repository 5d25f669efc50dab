//! The entries of `ports`.

use crate::field::{Field, shown};
use ipamd_model::{
    field::FieldError,
    policy::{Ports, Traffic, protocol},
};

/// Reads a port of a rule.
pub(super) fn read(field: &Field<'_>) -> Result<Traffic, FieldError> {
    field.only(&["protocol", "port", "endPort"])?;
    let protocol = match field.get("protocol")? {
        None => protocol::TCP,
        Some(it) => match it.text()? {
            "TCP" => protocol::TCP,
            "UDP" => protocol::UDP,
            "SCTP" => protocol::SCTP,
            other => return Err(it.refuse(format!("{} is not one of TCP, UDP and SCTP", shown(other)))),
        },
    };
    let end = field.get("endPort")?;
    let port = field.get("port")?;
    let destination_ports = match (&port, &end) {
        (None, None) => None,
        (None, Some(end)) => return Err(end.refuse("needs a port to begin with")),
        (Some(port), end) if port.value().is_string() => {
            if let Some(end) = end {
                return Err(end.refuse("needs a port by number, not by name"));
            }
            Some(Ports { ranges: Vec::new(), names: vec![name(port)?.into()] })
        }
        (Some(port), end) => {
            let first = number(port)?;
            let last = end.as_ref().map(number).transpose()?.unwrap_or(first);
            if last < first {
                return Err(end.unwrap_or(*port).refuse(format!("{last} is below port, which is {first}")));
            }
            Some(Ports { ranges: vec![first..=last], names: Vec::new() })
        }
    };
    Ok(Traffic { protocol: Some(protocol), destination_ports, ..Traffic::ANY })
}

/// A port by its number.
pub(in crate::policies) fn number(field: &Field<'_>) -> Result<u16, FieldError> {
    let port = u16::try_from(field.integer()?).ok().filter(|port| *port != 0);
    port.ok_or_else(|| field.is_not("a port, from 1 to 65535"))
}

/// The name of a port, as the registry of service names has them.
pub(in crate::policies) fn name<'a>(field: &Field<'a>) -> Result<&'a str, FieldError> {
    let text = field.text()?;
    let is_name = (1..=15).contains(&text.len())
        && text.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
        && text.bytes().any(|c| c.is_ascii_lowercase())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.contains("--");
    if is_name {
        Ok(text)
    } else {
        Err(field.refuse(format!("{} cannot be the name of a port", shown(text))))
    }
}
