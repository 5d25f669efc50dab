//! Ports and protocols, as Services and EndpointSlices name them.

use std::sync::Arc;

use crate::field::{Field, shown};
use ipamd_model::{field::FieldError, policy::protocol};

/// Longest name of a port.
const LONGEST_NAME: usize = 253;

/// `protocol`: TCP unless it is given.
pub(super) fn protocol(port: &Field<'_>) -> Result<u8, FieldError> {
    let Some(it) = port.get("protocol")? else { return Ok(protocol::TCP) };
    match it.text()? {
        "TCP" | "" => Ok(protocol::TCP),
        "UDP" => Ok(protocol::UDP),
        "SCTP" => Ok(protocol::SCTP),
        other => Err(it.refuse(format!("{} is not one of TCP, UDP and SCTP", shown(other)))),
    }
}

/// `name`: empty unless it is given.
pub(super) fn port_name(port: &Field<'_>) -> Result<Arc<str>, FieldError> {
    let Some(name) = port.get("name")? else { return Ok(Arc::default()) };
    match name.text()? {
        text if text.len() > LONGEST_NAME => {
            Err(name.refuse(format!("a name has at most {LONGEST_NAME} characters")))
        }
        text => Ok(text.into()),
    }
}

/// A port's number.
pub(super) fn port(number: &Field<'_>) -> Result<u16, FieldError> {
    let port = u16::try_from(number.integer()?).ok().filter(|port| *port != 0);
    port.ok_or_else(|| number.is_not("a port, from 1 to 65535"))
}

/// A port's number that may be missing, or zero, which is the same.
pub(super) fn optional_port(of: &Field<'_>, key: &str) -> Result<Option<u16>, FieldError> {
    match of.get(key)? {
        None => Ok(None),
        Some(number) if number.value() == 0 => Ok(None),
        Some(number) => port(&number).map(Some),
    }
}
