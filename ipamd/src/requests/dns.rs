//! Requests about DNS names.

use std::{collections::HashMap, io, sync::Arc};

use ipamd_api::{
    ApiError, ErrorKind, Reply,
    wire::{DnsEntry, DnsFilter, DnsPage},
};

use super::{
    node_service::{Answered, NodeService, aside},
    pages,
};
use crate::{node::Node, server::Replies};

impl NodeService {
    /// Sends the names that endpoints were told.
    pub(super) async fn dns_names(
        &self,
        filter: DnsFilter,
        replies: &mut Replies<'_>,
    ) -> io::Result<Answered> {
        let node = Arc::clone(&self.node);
        let names = match aside(move || names(&node, &filter)).await.flatten() {
            Ok(names) => names,
            Err(error) => return Ok(Err(error)),
        };
        for names in pages::cut(names) {
            replies.send(&Reply::DnsNames(DnsPage { names, last: false })).await?;
        }
        Ok(Ok(Some(Reply::DnsNames(DnsPage { names: Vec::new(), last: true }))))
    }
}

/// The names that match, by endpoint, name and address.
fn names(node: &Node, filter: &DnsFilter) -> Result<Vec<DnsEntry>, ApiError> {
    let endpoints = node.endpoints().into_iter().filter_map(|endpoint| {
        let name = match endpoint.pod {
            Some(pod) => format!("{}/{}", pod.namespace, pod.name),
            None => endpoint.key.to_string(),
        };
        Some((endpoint.host_ifindex?, name))
    });
    let endpoints: HashMap<u32, String> = endpoints.collect();
    let names =
        node.kernel().dns_names().map_err(|error| ApiError::new(ErrorKind::Internal, error.to_string()))?;
    let entries = names.into_iter().map(|name| DnsEntry {
        endpoint: endpoints.get(&name.ifindex).cloned().unwrap_or_default(),
        name: name.name,
        address: name.address,
        expires_in: u64::try_from(name.left).unwrap_or(0),
        in_policy: !name.domains.is_empty(),
    });
    let mut entries: Vec<_> = entries
        .filter(|it| {
            filter.name.as_ref().is_none_or(|name| *name == it.name)
                && filter.address.is_none_or(|address| address == it.address)
                && filter.pod.as_ref().is_none_or(|pod| *pod == it.endpoint)
        })
        .collect();
    entries.sort_by(|a, b| (&a.endpoint, &a.name, a.address).cmp(&(&b.endpoint, &b.name, b.address)));
    Ok(entries)
}
