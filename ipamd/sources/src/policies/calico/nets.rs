//! The fields that hold networks.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::{
    field::{Field, shown},
    policies::kubernetes::peers,
};
use ipamd_model::{field::FieldError, policy::Family};

/// Reads a list of networks: CIDRs, and addresses, each of which is a network of its own.
pub(super) fn read<'a>(field: &'a Field<'a>, key: &'a str) -> Result<Vec<IpNetwork>, FieldError> {
    match field.get(key)? {
        Some(list) => list.items()?.map(|it| net(&it)).collect(),
        None => Ok(Vec::new()),
    }
}

fn net(field: &Field<'_>) -> Result<IpNetwork, FieldError> {
    let text = field.text()?;
    if text.contains('/') {
        return peers::cidr(field);
    }
    let address: IpAddr = text.parse().map_err(|_| {
        field.refuse(format!("{} is neither a CIDR such as 10.0.0.0/8 nor an address", shown(text)))
    })?;
    if address.to_canonical() != address {
        return Err(field.refuse(format!("{} is of IPv4 in the form of IPv6", shown(text))));
    }
    Ok(address.into())
}

/// The family of a network.
pub(super) fn family(net: &IpNetwork) -> Family {
    match net {
        IpNetwork::V4(_) => Family::V4,
        IpNetwork::V6(_) => Family::V6,
    }
}
