//! Addresses.

use std::net::IpAddr;

use crate::field::{Field, shown};
use ipamd_model::field::FieldError;

/// An address; one of IPv4 in the form of IPv6 is one of IPv4.
pub(super) fn ip_address(field: &Field<'_>) -> Result<IpAddr, FieldError> {
    let text = field.text()?;
    let address: IpAddr =
        text.parse().map_err(|_| field.refuse(format!("{} is not an IP address", shown(text))))?;
    Ok(address.to_canonical())
}
