//! Listings of services for requests.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, SocketAddr},
};

use bpf::layout::{FRONTEND_NODE_IN_RANGES, FRONTEND_RANGES, INSIDE_ONLY};
use ipamd_api::services::{
    BackendCount, BackendState, BackendUse, FrontendScope, PortDetail, ServiceBackend, ServiceDetail,
    ServiceFrontend, ServiceLine, ServicePort, ServiceRole, ServiceSummary, TrafficPolicy,
};

use super::{
    balancer::Balancer,
    owner::Owner,
    plan::{Candidate, FrontendKind, MOST_OF_PORT, Scope, Slices},
    port::Programmed,
    service_index::ServiceId,
    state::State,
    tables::{Backend, Family, FrontendKey},
};
use ipamd_model::{
    policy::protocol,
    services::{self as cluster, Role, Service, ServiceTarget, SliceEndpoint},
};

/// Listings of services.
pub trait Listing: fmt::Debug + Send + Sync {
    /// All services, in order of namespace and name.
    fn services(&self) -> Vec<ServiceLine>;

    /// The details of a service; `None` if it does not exist.
    fn service(&self, namespace: &str, name: &str) -> Option<ServiceDetail>;

    /// The target of a connection to an address from `from`, which is inside or outside the node. `None` if the address
    /// belongs to no service.
    fn resolve(&self, protocol: u8, from: IpAddr, to: SocketAddr, inside: bool) -> Option<ServiceTarget>;
}

/// Why a cluster IP does not answer clients outside the node.
const NOT_BEYOND_THE_NODE: &str =
    "a cluster IP is not served to whoever is beyond the node (cluster-ip-external): it is dropped";

impl Listing for Balancer {
    fn services(&self) -> Vec<ServiceLine> {
        let state = self.lock();
        let line = |(id, service): (&ServiceId, &std::sync::Arc<Service>)| ServiceLine {
            summary: state.summary(id, service),
            ports: service.ports.iter().map(port).collect(),
        };
        state.inputs.index.services.iter().map(line).collect()
    }

    fn service(&self, namespace: &str, name: &str) -> Option<ServiceDetail> {
        let state = self.lock();
        let id = ServiceId { namespace: namespace.into(), name: name.into() };
        let service = state.inputs.index.services.get(&id)?;
        Some(ServiceDetail {
            summary: state.summary(&id, service),
            ports: service.ports.iter().map(|of| state.port_detail(&id, service, of)).collect(),
            affinity: service.affinity,
            source_ranges: service.source_ranges.iter().map(ToString::to_string).collect(),
            health_check_port: service.health_check_port,
            problems: state.problems(&id, service),
        })
    }

    fn resolve(&self, protocol: u8, from: IpAddr, to: SocketAddr, inside: bool) -> Option<ServiceTarget> {
        self.lock().resolve(protocol, from, to, inside)
    }
}

impl State {
    fn resolve(&self, protocol: u8, from: IpAddr, to: SocketAddr, inside: bool) -> Option<ServiceTarget> {
        let key = |address: IpAddr| FrontendKey { address, port: to.port(), protocol };
        // Node ports have the unspecified address, which stands for all addresses that serve them.
        let of_node =
            self.inputs.node_ports.contains(&to.ip()).then(|| key(Family::of(to.ip()).unspecified()));
        let found = [Some(key(to.ip())), of_node].into_iter().flatten().find_map(|wanted| {
            self.ledger.programmed.iter().find_map(|(owner, ports)| {
                ports.iter().find_map(|port| {
                    let (frontend, value) =
                        port.frontends.iter().find(|(frontend, _)| frontend.key == wanted)?;
                    Some((owner, port, frontend, value))
                })
            })
        });
        let Some((owner, port, frontend, value)) = found else { return self.no_port_at(to.ip(), inside) };
        let service = owner.to_string();
        let keeps_out =
            |why| ServiceTarget { service: service.clone(), backends: Vec::new(), refusal: Some(why) };
        if value.flags & INSIDE_ONLY != 0 && !inside {
            return Some(keeps_out(NOT_BEYOND_THE_NODE));
        }
        let welcome = value.flags & FRONTEND_RANGES == 0
            || port.source_ranges.iter().any(|range| range.contains(from))
            || self.inputs.node_addresses.contains(&from) && value.flags & FRONTEND_NODE_IN_RANGES != 0;
        if !welcome {
            return Some(keeps_out("its loadBalancerSourceRanges do not have the source: it is dropped"));
        }
        let backends = port.plan.backends(if inside { frontend.inside } else { frontend.outside });
        let backends = backends.iter().map(|it| SocketAddr::new(it.address, it.port)).collect();
        Some(ServiceTarget { service, backends, refusal: None })
    }

    /// The target of a connection to a service's address at a port that it does not have.
    fn no_port_at(&self, to: IpAddr, inside: bool) -> Option<ServiceTarget> {
        self.ledger.addresses.contains_key(&to).then(|| {
            let is_there =
                |port: &Programmed| port.frontends.iter().any(|(frontend, _)| frontend.key.address == to);
            let owner = self.ledger.programmed.iter().find(|(_, ports)| ports.iter().any(is_there));
            let refusal = if inside || self.inputs.cluster_ip_external {
                "the service does not speak this protocol at this port: it is refused"
            } else {
                NOT_BEYOND_THE_NODE
            };
            let service = owner.map_or_else(|| to.to_string(), |(owner, _)| owner.to_string());
            ServiceTarget { service, backends: Vec::new(), refusal: Some(refusal) }
        })
    }

    fn ports_of<'a>(&'a self, id: &ServiceId) -> impl Iterator<Item = &'a Programmed> {
        self.ledger.programmed.get(&Owner::Service(id.clone())).into_iter().flatten()
    }

    fn summary(&self, id: &ServiceId, service: &Service) -> ServiceSummary {
        let endpoints = || self.inputs.index.slices_of(id).flat_map(|slice| slice.endpoints.iter());
        let count = |endpoints: usize| endpoints as u64;
        let of_port = |port: &Programmed| port.hits + self.hits_by_backend(port).values().sum::<u64>();
        ServiceSummary {
            namespace: id.namespace.to_string(),
            name: id.name.to_string(),
            role: match service.role {
                Role::Balanced => ServiceRole::Balanced,
                Role::Headless => ServiceRole::Headless,
                Role::ExternalName => ServiceRole::ExternalName,
                Role::OtherProxy => ServiceRole::OtherProxy,
            },
            cluster_ips: service.cluster_ips.to_vec(),
            external_ips: service.external_ips.to_vec(),
            load_balancer_ips: service.load_balancer_ips.to_vec(),
            backends: BackendCount {
                ready: count(endpoints().filter(|it| it.ready).count()),
                all: count(endpoints().count()),
            },
            hits: self.ports_of(id).map(of_port).sum(),
            problems: count(self.problems(id, service).len()),
        }
    }

    fn problems(&self, id: &ServiceId, service: &Service) -> Vec<String> {
        let mut problems: Vec<_> = service.refused.iter().map(ToString::to_string).collect();
        for slice in self.inputs.index.slices_of(id) {
            problems.extend(slice.refused.iter().map(|it| format!("EndpointSlice {}: {it}", slice.name)));
        }
        for port in self.ports_of(id) {
            problems.extend(port.plan.problems.iter().chain(&port.problems).cloned());
        }
        if service.role == Role::Balanced {
            for port in self.ports_of(id).filter(|port| port.plan.backends(Scope::Cluster).is_empty()) {
                let family = if port.key.family == Family::V4 { "IPv4" } else { "IPv6" };
                let name = if port.key.name.is_empty() { "its port" } else { &port.key.name };
                problems.push(format!("{name} has no endpoint of {family} that takes connections"));
            }
            let number = service.health_check_port;
            problems.extend(number.and_then(|number| self.health_problem(id, number)));
        }
        problems
    }

    fn health_problem(&self, id: &ServiceId, port: u16) -> Option<String> {
        match self.health_checks.holder(port) {
            Some(holder) if holder != id => Some(format!(
                "healthCheckNodePort {port} is that of the service {}/{}: give each one of its own",
                holder.namespace, holder.name
            )),
            _ => self.health.as_ref()?.problem(port),
        }
    }

    fn port_detail(&self, id: &ServiceId, service: &Service, of: &cluster::ServicePort) -> PortDetail {
        let mut detail = PortDetail { port: port(of), frontends: Vec::new(), backends: Vec::new() };
        let programmed =
            self.ports_of(id).filter(|it| it.key.name == of.name && it.key.protocol == of.protocol);
        for programmed in programmed {
            detail.frontends.extend(programmed.frontends.iter().map(|(frontend, _)| ServiceFrontend {
                address: frontend.key.address,
                port: frontend.key.port,
                scope: scope(frontend.kind),
                internal: policy(frontend.inside),
                external: policy(frontend.outside),
            }));
        }
        for family in Family::ALL {
            let programmed = self.ports_of(id).find(|it| {
                it.key.name == of.name && it.key.protocol == of.protocol && it.key.family == family
            });
            let hits = programmed.map(|it| self.hits_by_backend(it)).unwrap_or_default();
            let slices = Slices::new(self.inputs.index.slices_of(id));
            let (candidates, _) = slices.candidates(&self.inputs.site, of, family, MOST_OF_PORT);
            let is_balanced = service.role == Role::Balanced && programmed.is_some();
            detail.backends.extend(candidates.iter().map(|it| self.backend(it, is_balanced, &hits)));
        }
        detail
    }

    fn backend(&self, it: &Candidate<'_>, is_balanced: bool, hits: &HashMap<Backend, u64>) -> ServiceBackend {
        let endpoint = it.endpoint;
        let names = |of: fn(&cluster::Hints) -> &[std::sync::Arc<str>]| {
            endpoint.hints.as_deref().map(of).unwrap_or_default().iter().map(ToString::to_string).collect()
        };
        ServiceBackend {
            address: endpoint.address,
            port: it.port,
            node: endpoint.node.as_deref().map(str::to_owned),
            local: self.inputs.site.is_local(endpoint),
            zone_hints: names(|hints| &hints.zones),
            node_hints: names(|hints| &hints.nodes),
            state: condition(endpoint),
            used: BackendUse::new(is_balanced && it.in_cluster, is_balanced && it.in_local),
            hits: hits.get(&Backend { address: endpoint.address, port: it.port }).copied().unwrap_or(0),
        }
    }

    /// How often each backend of a port was chosen, in all sets.
    fn hits_by_backend(&self, port: &Programmed) -> HashMap<Backend, u64> {
        let mut hits = HashMap::new();
        for set in port.round_robin.iter().flatten().chain(&port.outside) {
            let counted = self.hits_of(port.key.family, set);
            let counted = counted.inspect_err(|error| tracing::warn!(%error, "cannot read hits"));
            for (backend, count) in counted.unwrap_or_default() {
                *hits.entry(backend).or_default() += u64::from(count);
            }
        }
        hits
    }
}

fn condition(endpoint: &SliceEndpoint) -> BackendState {
    match (endpoint.ready, endpoint.terminating, endpoint.serving) {
        (true, ..) => BackendState::Ready,
        (false, true, true) => BackendState::TerminatingServing,
        (false, true, false) => BackendState::Terminating,
        (false, false, _) => BackendState::NotReady,
    }
}

fn port(of: &cluster::ServicePort) -> ServicePort {
    let protocol = match of.protocol {
        protocol::UDP => "UDP",
        protocol::SCTP => "SCTP",
        _ => "TCP",
    };
    ServicePort {
        name: of.name.to_string(),
        protocol: protocol.to_owned(),
        port: of.port,
        node_port: of.node_port,
    }
}

fn scope(kind: FrontendKind) -> FrontendScope {
    match kind {
        FrontendKind::ClusterIp => FrontendScope::ClusterIp,
        FrontendKind::NodePort => FrontendScope::NodePort,
        FrontendKind::ExternalIp => FrontendScope::ExternalIp,
        FrontendKind::LoadBalancer => FrontendScope::LoadBalancer,
        FrontendKind::HostPort => FrontendScope::HostPort,
    }
}

fn policy(scope: Scope) -> TrafficPolicy {
    match scope {
        Scope::Cluster => TrafficPolicy::Cluster,
        Scope::Local => TrafficPolicy::Local,
    }
}
