//! Attachments of chained mode: another plugin before Cambric makes the interface and assigns the addresses.

use std::net::IpAddr;

use ipamd_api::{
    ApiError, ErrorKind, MTU,
    wire::{Assigned, Chained, Reserve},
};

use super::{records::State, this_node::Node, wall_clock::now};
use ipamd_addresses::attachment::Attachment;

/// More addresses than any plugin assigns to one interface.
const MOST_ADDRESSES: usize = 16;

/// Whether a daemon that stands behind other plugins (`is_chained`), or does not, takes a request, and whether what it says
/// of the other plugin's interface makes sense.
pub(super) fn check(request: &Reserve, is_chained: bool) -> Result<(), ApiError> {
    let invalid = |message: String| Err(ApiError::new(ErrorKind::InvalidRequest, message));
    let misplaced = |message: &str| Err(ApiError::new(ErrorKind::WrongPlace, message));
    let made = match (&request.chained, is_chained) {
        (None, false) => return Ok(()),
        (None, true) => {
            return misplaced(
                "cambric is the first of its chain, but this node's daemon stands behind other plugins (its key chained is true)",
            );
        }
        (Some(_), false) => {
            return misplaced(
                "cambric is not the first of its chain (there is a prevResult), but this node's daemon makes the interfaces \
                 itself; set its key chained, or remove the plugins before cambric",
            );
        }
        (Some(made), true) => made,
    };
    if !request.addresses.is_empty() || request.mac.is_some() || request.mtu.is_some() {
        return invalid("addresses, mac and mtu are those that the other plugin has given".into());
    }
    if made.addresses.is_empty() || made.addresses.len() > MOST_ADDRESSES {
        let count = made.addresses.len();
        return invalid(format!("the interface has {count} addresses, but must have 1 to {MOST_ADDRESSES}"));
    }
    if let Some(address) = made.addresses.iter().find(|address| !is_of_one_container(**address)) {
        return invalid(format!("{address} cannot be the address of a container"));
    }
    if !MTU.contains(&made.mtu) {
        return invalid(format!(
            "the interface's mtu is {}, but must be from {} to {}",
            made.mtu,
            MTU.start(),
            MTU.end()
        ));
    }
    if let Some(mac) = [made.container_mac, made.host_mac].iter().find(|mac| !mac.is_unicast()) {
        return invalid(format!("mac {mac} is not the address of one interface"));
    }
    Ok(())
}

fn is_of_one_container(address: IpAddr) -> bool {
    let is_of_link = match address {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !(is_of_link || address.is_unspecified() || address.is_loopback() || address.is_multicast())
}

/// Whether a request is about the very interface that is recorded.
pub(super) fn is_same(attachment: &Attachment, request: &Reserve) -> bool {
    attachment.netns_id == request.netns_id
        && request.chained.as_ref().is_none_or(|made| {
            attachment.ips().eq(made.addresses.iter().copied())
                && (attachment.container_mac, attachment.host_mac, attachment.mtu)
                    == (made.container_mac, made.host_mac, made.mtu)
        })
}

impl Node {
    /// Takes the addresses that another plugin has assigned. An attachment that had one of them and whose interface is gone
    /// has left it: the other plugin knows.
    pub(super) fn take_over(
        &self,
        state: &mut State,
        request: &Reserve,
        made: &Chained,
    ) -> Result<Attachment, ApiError> {
        for address in &made.addresses {
            let Some(holder) = state.allocator.holder(*address).cloned() else { continue };
            if self.kernel.link_index(&holder.host_ifname()).is_some() {
                return Err(ApiError::new(
                    ErrorKind::InUse,
                    format!("address {address} is in use by {holder}, whose interface exists"),
                ));
            }
            tracing::info!(%address, %holder, key = %request.key, "another plugin has given the address to a new container");
            drop(self.detach(state, &holder)?);
        }
        let attachment = Attachment {
            key: request.key.clone(),
            addresses: made
                .addresses
                .iter()
                .map(|address| Assigned { address: *address, gateway: *address })
                .collect(),
            container_mac: made.container_mac,
            host_mac: made.host_mac,
            mtu: made.mtu,
            netns: request.netns.clone(),
            netns_id: request.netns_id,
            netns_cookie: None,
            pod: request.pod.clone(),
            labels: request.labels.clone(),
            port_mappings: request.port_mappings.clone(),
            chained: true,
            created: now(),
        };
        state.allocator.adopt(&attachment);
        Ok(attachment)
    }
}
