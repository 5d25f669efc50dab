//! What the plan of services is made from: the cluster, the node, and the host ports of containers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use ipamd_api::{AttachmentKey, PortMapping};

use super::{
    service_index::{ServiceId, ServiceIndex},
    site::Site,
    tables::{Family, FrontendKey},
};
use ipamd_model::{
    objects::{Change, Kind, Object},
    services::Role,
};

/// Label of a Node that names its zone.
const ZONE: &str = "topology.kubernetes.io/zone";

/// The inputs. Nothing here depends on the tables.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    pub index: ServiceIndex,
    pub site: Site,
    /// Cluster addresses are served to clients outside the node too.
    pub cluster_ip_external: bool,
    pub node_addresses: BTreeSet<IpAddr>,
    /// The addresses of the node that serve node ports.
    pub node_ports: BTreeSet<IpAddr>,
    pub host_ports: BTreeMap<AttachmentKey, Vec<(PortMapping, Vec<IpAddr>)>>,
}

impl Inputs {
    /// Applies a change of the cluster, and adds the services that it concerns.
    pub fn apply_change(&mut self, change: &Change, concerned: &mut BTreeSet<ServiceId>) {
        self.index.apply_change(change, concerned);
        let zone = match change {
            Change::Put(Object::Node(node)) if node.name == self.site.node => {
                node.labels.get(ZONE).map(Arc::from)
            }
            Change::Remove(id) if id.kind == Kind::Node && id.name == self.site.node => None,
            _ => return,
        };
        if self.site.zone != zone {
            self.site.zone = zone;
            concerned.extend(self.index.services.keys().cloned());
        }
    }

    /// Replaces the host ports of a container. Returns whether it has some, or had.
    pub fn set_host_ports(
        &mut self,
        key: &AttachmentKey,
        mappings: &[PortMapping],
        backends: &[IpAddr],
    ) -> bool {
        let known = self.host_ports.remove(key).is_some();
        if !mappings.is_empty() {
            let ports = mappings.iter().map(|mapping| (*mapping, backends.to_vec())).collect();
            self.host_ports.insert(key.clone(), ports);
        }
        known || self.host_ports.contains_key(key)
    }

    /// The first frontend of each port of each service: its own cluster address. No other owner gets it while the
    /// service exists.
    pub fn own_frontends(&self) -> impl Iterator<Item = FrontendKey> {
        self.index.services.values().filter(|service| service.role == Role::Balanced).flat_map(|service| {
            service.ports.iter().flat_map(|port| {
                let first = |family| {
                    let address = service.cluster_ips.iter().find(|ip| Family::of(**ip) == family)?;
                    Some(FrontendKey { address: *address, port: port.port, protocol: port.protocol })
                };
                Family::ALL.into_iter().filter_map(first)
            })
        })
    }

    /// The number of ready endpoints of a service on this node: of the family that has more.
    pub fn ready_local_endpoints(&self, id: &ServiceId) -> usize {
        let endpoints = self.index.slices_of(id).flat_map(|slice| slice.endpoints.iter());
        let ready: BTreeSet<_> =
            endpoints.filter(|it| it.ready && self.site.is_local(it)).map(|it| it.address).collect();
        let of_family = |family| ready.iter().filter(|address| Family::of(**address) == family).count();
        of_family(Family::V4).max(of_family(Family::V6))
    }
}
