//! What owners of ports want of the tables.

use std::{collections::BTreeSet, sync::Arc};

use ipamd_api::AttachmentKey;
use ipnetwork::IpNetwork;

use super::{
    balancer::State,
    health::HealthCheck,
    plan::{self, Front, Plan, Reach, Scope},
    program::{PortKey, Wanted},
    tables::{Backend, Family, FrontendKey, Member},
    world::ServiceId,
};

impl State {
    /// Counts the ready endpoints of this node behind a health check port.
    pub fn note_health(&mut self, id: &ServiceId) {
        self.health_checks.retain(|_, check| check.namespace != id.namespace || check.name != id.name);
        let Some(service) = self.world.services.get(id) else { return };
        let Some(number) = service.health_check_port else { return };
        let endpoints = self.world.slices_of(id).flat_map(|slice| slice.endpoints.iter());
        let ready: BTreeSet<_> =
            endpoints.filter(|it| it.ready && self.site.is_local(it)).map(|it| it.address).collect();
        let of_family = |family| ready.iter().filter(|address| Family::of(**address) == family).count();
        let local_endpoints = of_family(Family::V4).max(of_family(Family::V6));
        let check =
            HealthCheck { namespace: Arc::clone(&id.namespace), name: Arc::clone(&id.name), local_endpoints };
        self.health_checks.insert(number, check);
    }

    /// The ports of a service.
    pub fn wanted_of_service(&self, id: &ServiceId) -> Vec<Wanted> {
        let Some(service) = self.world.services.get(id) else { return Vec::new() };
        let mut wanted = Vec::new();
        for port in &service.ports {
            for family in Family::ALL {
                let Some(plan) = plan::plan(&self.site, service, port, family, self.world.slices_of(id))
                else {
                    continue;
                };
                let is_checked = plan.fronts.iter().any(|front| front.ranged);
                // In the order, and of the form, in which the tables tell them.
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

    /// The ports of the node that lead to a container.
    pub fn wanted_of_container(&self, container: &AttachmentKey) -> Vec<Wanted> {
        let mut wanted = Vec::new();
        for (mapping, backends) in self.host_ports.get(container).into_iter().flatten() {
            for address in backends {
                let family = Family::of(*address);
                if mapping.host_ip.is_some_and(|ip| Family::of(ip) != family) {
                    continue;
                }
                let backend = Backend { address: *address, port: mapping.container_port };
                let at = mapping.host_ip.unwrap_or_else(|| family.unspecified());
                let front = Front {
                    key: FrontendKey { address: at, port: mapping.host_port, protocol: mapping.protocol },
                    reach: Reach::HostPort,
                    inside: Scope::Cluster,
                    outside: Scope::Cluster,
                    ranged: false,
                };
                let plan = Plan {
                    fronts: vec![front],
                    members: vec![Member { backend, in_cluster: true, in_local: true }],
                    affinity: 0,
                    problems: Vec::new(),
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
