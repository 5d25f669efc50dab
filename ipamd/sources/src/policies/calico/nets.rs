//! The fields that hold networks.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::{
    place::{Place, shown},
    policies::kubernetes::peers,
};
use ipamd_model::{field::FieldError, policy::Family};

/// Reads a list of networks: CIDRs, and addresses, each of which is a network of its own.
pub(super) fn read<'a>(place: &'a Place<'a>, key: &'a str) -> Result<Vec<IpNetwork>, FieldError> {
    match place.get(key)? {
        Some(list) => list.items()?.map(|it| net(&it)).collect(),
        None => Ok(Vec::new()),
    }
}

fn net(place: &Place<'_>) -> Result<IpNetwork, FieldError> {
    let text = place.text()?;
    if text.contains('/') {
        return peers::cidr(place);
    }
    let address: IpAddr = text.parse().map_err(|_| {
        place.refuse(format!("{} is neither a CIDR such as 10.0.0.0/8 nor an address", shown(text)))
    })?;
    if address.to_canonical() != address {
        return Err(place.refuse(format!("{} is of IPv4 in the form of IPv6", shown(text))));
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
