//! Ports of the node that lead to containers: who has which.

use std::net::IpAddr;

use ipamd_api::{
    ApiError, AttachmentKey, ErrorKind, PortMapping,
    port_mapping::MAX_PORT_MAPPINGS,
    wire::{Pod, Reserve},
};

use super::{Node, State};
use crate::attachment::Attachment;

/// A port of the node that leads to a committed endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Whose it is.
    pub key: AttachmentKey,
    /// Its pod, where known.
    pub pod: Option<Pod>,
    /// Which port, and where it leads.
    pub mapping: PortMapping,
    /// The endpoint's addresses, at most one of each family, IPv4 first.
    pub backends: Vec<IpAddr>,
}

impl Node {
    /// The ports of the node that lead to committed endpoints, by the endpoints' keys.
    pub fn host_ports(&self) -> Vec<HostPort> {
        let state = self.state();
        let committed = state.records.values().filter(|record| record.committed.is_some());
        committed.flat_map(|record| host_ports(&record.attachment)).collect()
    }
}

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
