//! What services and host ports want to have in the tables.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use ipamd_api::{AttachmentKey, PortMapping};
use ipnetwork::IpNetwork;

use super::{
    allowance::Resource,
    claimed_frontends,
    owner::Owner,
    plan::{self, Frontend, FrontendKind, Plan, Scope, Slices},
    port::{PortKey, Wanted},
    service_index::ServiceId,
    state::State,
    tables::{Backend, Family, FrontendKey, Member},
};

impl State {
    /// Claims the health check port of a service, with the number of ready endpoints on this node.
    pub fn update_health_check(&mut self, id: &ServiceId) {
        let port = self.inputs.index.services.get(id).and_then(|service| service.health_check_port);
        let claim = port.map(|port| (port, self.inputs.ready_local_endpoints(id)));
        self.health_checks.set(id, claim);
    }

    /// The ports of a service.
    pub fn wanted_of_service(&self, id: &ServiceId) -> Vec<Wanted> {
        let Some(service) = self.inputs.index.services.get(id) else { return Vec::new() };
        let slices = Slices::new(self.inputs.index.slices_of(id));
        let mut wanted = Vec::new();
        // No service gets more than a namespace may have, so the rest is not planned.
        let mut left = [self.ledger.allowance.share(Resource::Members) as usize; 2];
        for port in &service.ports {
            for family in Family::ALL {
                let left = &mut left[family as usize];
                let Some(plan) = plan::plan(&self.inputs.site, service, port, family, &slices, *left) else {
                    continue;
                };
                *left -= plan.members.len();
                let is_checked = plan.frontends.iter().any(|frontend| frontend.ranged);
                // In the order and form in which the tables return them.
                let ranges: BTreeSet<_> = service
                    .source_ranges
                    .iter()
                    .filter(|it| is_checked && Family::of(it.network()) == family)
                    .filter_map(|it| IpNetwork::new(it.network(), it.prefix()).ok())
                    .collect();
                let key = PortKey { name: Arc::clone(&port.name), protocol: port.protocol, family };
                wanted.push(Wanted { key, plan, source_ranges: ranges.into_iter().collect() });
            }
        }
        wanted
    }

    /// Why a container cannot have a host port, as a phrase. Its address may not be the node's: then the container
    /// would get traffic for another machine. Or a service is reached there.
    pub fn host_port_conflict(&self, mapping: &PortMapping, family: Option<Family>) -> Option<String> {
        let families = family.map_or(Family::ALL.to_vec(), |family| vec![family]);
        let at = |family: Family| mapping.host_ip.unwrap_or_else(|| family.unspecified());
        // Every loopback address is the node's own.
        let is_own =
            |ip: IpAddr| ip.is_unspecified() || ip.is_loopback() || self.inputs.node_addresses.contains(&ip);
        if let Some(ip) = mapping.host_ip.filter(|ip| !is_own(*ip)) {
            return Some(format!("{ip} is no address of this node: take one that is, or none"));
        }
        let taken = families
            .into_iter()
            .map(at)
            .find(|ip| self.ledger.claimed.has(*ip, mapping.host_port, mapping.protocol))?;
        Some(match self.service_at(taken, mapping) {
            Some(service) => format!("the service {service} is reached there"),
            None => "a service is reached there".to_owned(),
        })
    }

    /// One of the services that claim the frontend of a host port.
    fn service_at(&self, address: IpAddr, mapping: &PortMapping) -> Option<&Owner> {
        let is_there = |frontend: &Frontend| {
            let here = frontend.key.address == address || frontend.key.address.is_unspecified();
            here && claimed_frontends::conflicts(frontend, mapping)
        };
        let found = self.ledger.programmed.iter().find(|(owner, ports)| {
            let mut frontends = ports.iter().flat_map(|port| &port.plan.frontends);
            matches!(owner, Owner::Service(_)) && frontends.any(is_there)
        });
        found.map(|(owner, _)| owner)
    }

    /// The host ports of a container.
    pub fn wanted_of_container(&self, container: &AttachmentKey) -> Vec<Wanted> {
        let mut wanted = Vec::new();
        for (mapping, backends) in self.inputs.host_ports.get(container).into_iter().flatten() {
            for address in backends {
                let family = Family::of(*address);
                if mapping.host_ip.is_some_and(|ip| Family::of(ip) != family) {
                    continue;
                }
                let backend = Backend { address: *address, port: mapping.container_port };
                let at = mapping.host_ip.unwrap_or_else(|| family.unspecified());
                let frontend = Frontend {
                    key: FrontendKey { address: at, port: mapping.host_port, protocol: mapping.protocol },
                    kind: FrontendKind::HostPort,
                    inside: Scope::Cluster,
                    outside: Scope::Cluster,
                    ranged: false,
                };
                let conflict = self.host_port_conflict(mapping, Some(family));
                let plan = Plan {
                    frontends: if conflict.is_none() { vec![frontend] } else { Vec::new() },
                    members: vec![Member { backend, in_cluster: true, in_local: true }],
                    affinity: 0,
                    problems: conflict
                        .map(|why| format!("{} does not lead to it: {why}", mapping.host_side()))
                        .into_iter()
                        .collect(),
                };
                let name = Arc::from(format!("{at}:{}", mapping.host_port));
                wanted.push(Wanted {
                    key: PortKey { name, protocol: mapping.protocol, family },
                    plan,
                    source_ranges: Box::default(),
                });
            }
        }
        wanted
    }
}
