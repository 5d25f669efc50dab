//! Host ports (`portMappings`): which attachment has which.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipamd_api::{ApiError, ErrorKind, PortMapping, port_mapping::MAX_PORT_MAPPINGS, wire::Reserve};

use super::{internal_error::internal, records::State, this_node::Node};
use ipamd_addresses::attachment::Attachment;
use ipamd_kernel::netlink::Listener;
use ipamd_model::services::HostPort;

impl Node {
    /// The ports of the node that lead to committed endpoints, by the endpoints' keys.
    pub fn host_ports(&self) -> Vec<HostPort> {
        let state = self.state();
        let committed = state.records.values().filter(|record| record.committed.is_some());
        committed.flat_map(|record| host_ports(&record.attachment)).collect()
    }
}

impl Node {
    /// Whether the node's ports that a new attachment asks for are the node's to give: at its own addresses, not where
    /// services are, and not under the feet of its own processes.
    pub(super) fn check_host_ports(&self, request: &Reserve) -> Result<(), ApiError> {
        let mappings = &request.port_mappings;
        if mappings.is_empty() || self.state().records.contains_key(&request.key) {
            return Ok(());
        }
        if let Some(conflict) = self.services.host_port_conflict(mappings) {
            return Err(ApiError::new(ErrorKind::PortInUse, conflict));
        }
        let listeners = self.kernel.listeners().map_err(internal)?;
        let listened_on = mappings
            .iter()
            .find_map(|mapping| Some((mapping, listeners.iter().find(|it| shadows(mapping, it))?)));
        let Some((mapping, listener)) = listened_on else { return Ok(()) };
        Err(ApiError::new(
            ErrorKind::PortInUse,
            format!(
                "the node's port {} cannot lead to {}: a process of the node listens at {}, and would get no more \
                 connections; stop it, or take another port",
                mapping.host_side(),
                request.key,
                listener.at
            ),
        ))
    }
}

/// Whether a process that listens there would get less than before. As with two sockets, an address of its own is none of
/// another's business; one of IPv6 that has none takes IPv4 too.
fn shadows(mapping: &PortMapping, listener: &Listener) -> bool {
    let at = listener.at.ip();
    let same_address = if let Some(ip) = mapping.host_ip.filter(|ip| !ip.is_unspecified()) {
        ip == at || (at.is_unspecified() && (at.is_ipv6() || ip.is_ipv4()))
    } else {
        // Of all loopback addresses, those that no interface has stay the process's own.
        let of_family = mapping
            .host_ip
            .is_none_or(|ip| ip.is_ipv4() == at.is_ipv4() || (at.is_unspecified() && at.is_ipv6()));
        of_family && (!at.is_loopback() || LOOPBACK.contains(&at))
    };
    same_address && mapping.host_port == listener.at.port() && mapping.protocol == listener.protocol.number()
}

const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

fn host_ports(attachment: &Attachment) -> impl Iterator<Item = HostPort> + '_ {
    attachment.port_mappings.iter().map(|mapping| HostPort {
        key: attachment.key.clone(),
        pod: attachment.pod.clone(),
        mapping: *mapping,
        backends: attachment.first_ips().collect(),
    })
}

/// Whether the mappings of a request can stand together.
pub(super) fn check_mappings(mappings: &[PortMapping]) -> Result<(), ApiError> {
    let invalid = |message| Err(ApiError::new(ErrorKind::InvalidRequest, message));
    if mappings.len() > MAX_PORT_MAPPINGS {
        return invalid(format!(
            "port_mappings has {} entries, but must have at most {MAX_PORT_MAPPINGS}",
            mappings.len()
        ));
    }
    if let Some((mapping, fault)) = mappings.iter().find_map(|it| it.fault().map(|fault| (it, fault))) {
        return invalid(format!("the port mapping {mapping} {fault}"));
    }
    if let Some((one, other)) = PortMapping::overlap(mappings) {
        return invalid(format!("the port mappings {one} and {other} overlap"));
    }
    Ok(())
}

/// Whether no other attachment has a port that the request asks for. One whose ADD is under way has its ports too.
pub(super) fn check_free(state: &State, request: &Reserve) -> Result<(), ApiError> {
    if request.port_mappings.is_empty() {
        return Ok(());
    }
    let others = state.records.values().map(|record| &record.attachment).filter(|it| it.key != request.key);
    for other in others {
        let taken = other.port_mappings.iter().find_map(|held| {
            request.port_mappings.iter().find(|asked| asked.overlaps(held)).map(|asked| (asked, held))
        });
        if let Some((asked, held)) = taken {
            return Err(ApiError::new(
                ErrorKind::PortInUse,
                format!(
                    "the node's port {} cannot lead to {}: {} leads to {}",
                    asked.host_side(),
                    request.key,
                    held.host_side(),
                    holder(other)
                ),
            ));
        }
    }
    Ok(())
}

fn holder(attachment: &Attachment) -> String {
    match &attachment.pod {
        Some(pod) => format!("the pod {}/{} ({})", pod.namespace, pod.name, attachment.key),
        None => attachment.key.to_string(),
    }
}

/// Whether both lists have the same mappings, in any order.
pub(super) fn are_same(one: &[PortMapping], other: &[PortMapping]) -> bool {
    one.len() == other.len() && one.iter().all(|mapping| other.contains(mapping))
}
