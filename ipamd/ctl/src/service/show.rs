//! `cambricctl service show`.

use std::net::SocketAddr;

use anyhow::bail;
use ipamd_api::{
    Reply, Request,
    services::{BackendPage, PortDetail, ServiceBackend, ServiceDetail, ServiceFrontend, ServiceQuery},
};

use super::cells::{cell, lines, ready};
use crate::{
    daemon::Daemon,
    output::{Output, clean, fields, table},
};

pub(super) fn show(daemon: &mut Daemon, service: ServiceQuery, output: &Output) -> anyhow::Result<()> {
    let which = format!("{}/{}", service.namespace, service.name);
    let client = &mut daemon.client;
    client.send(Request::Service(service))?;
    let mut found: Option<Box<ServiceDetail>> = None;
    loop {
        let understood = match client.receive()? {
            Reply::Service(detail) => found.replace(detail).is_none(),
            Reply::ServiceBackends(page) => found.as_deref_mut().is_some_and(|detail| add(detail, page)),
            Reply::Done => break,
            _ => false,
        };
        if !understood {
            return Err(client.confused("the answer is of another sort".into()).into());
        }
    }
    match found {
        Some(detail) => output.print(&*detail, text),
        None => bail!("there is no service {which}; cambricctl service list names them all"),
    }
}

/// Adds backends to their port. Returns whether there is such a port.
fn add(detail: &mut ServiceDetail, BackendPage { port, backends }: BackendPage) -> bool {
    let port = detail.ports.get_mut(port);
    port.map(|port| port.backends.extend(backends)).is_some()
}

fn text(detail: &ServiceDetail) -> String {
    let ServiceDetail { summary, ports, affinity, source_ranges, health_check_port, problems } = detail;
    let about = fields([
        ("Service", format!("{}/{}", summary.namespace, summary.name)),
        ("Role", summary.role.to_string()),
        ("Cluster IPs", lines(&summary.cluster_ips)),
        ("External IPs", lines(&summary.external_ips)),
        ("Load balancer IPs", lines(&summary.load_balancer_ips)),
        ("Backends", format!("{} ready", ready(summary.backends))),
        ("Hits", summary.hits.to_string()),
        ("Affinity", affinity.map_or_else(String::new, |seconds| format!("by client, {seconds} s"))),
        ("Source ranges", lines(source_ranges)),
        ("Health check port", lines(health_check_port)),
        ("Problems", lines(problems)),
    ]);
    about + &ports.iter().map(of_port).collect::<String>()
}

fn of_port(PortDetail { port, frontends, backends }: &PortDetail) -> String {
    let name = if port.name.is_empty() { String::new() } else { format!(" ({})", port.name) };
    let mut text = format!("\n{}\n", clean(&format!("Port {port}{name}")));
    if !frontends.is_empty() {
        let titles = ["FRONTEND", "SCOPE", "INTERNAL", "EXTERNAL"];
        text = text + &table(titles, frontends.iter().map(frontend)) + "\n";
    }
    if backends.is_empty() {
        return text + "No backends.\n";
    }
    text + &table(["BACKEND", "NODE", "HINTS", "STATE", "USED", "HITS"], backends.iter().map(backend))
}

fn frontend(frontend: &ServiceFrontend) -> [String; 4] {
    [
        SocketAddr::new(frontend.address, frontend.port).to_string(),
        frontend.scope.to_string(),
        frontend.internal.to_string(),
        frontend.external.to_string(),
    ]
}

fn backend(backend: &ServiceBackend) -> [String; 6] {
    let node = match (&backend.node, backend.local) {
        (Some(node), true) => format!("{node} (here)"),
        (Some(node), false) => node.clone(),
        (None, true) => "(here)".to_owned(),
        (None, false) => "-".to_owned(),
    };
    let zones = backend.zone_hints.iter().map(|zone| format!("zone {zone}"));
    let nodes = backend.node_hints.iter().map(|node| format!("node {node}"));
    [
        SocketAddr::new(backend.address, backend.port).to_string(),
        node,
        cell(zones.chain(nodes)),
        backend.state.to_string(),
        backend.used.to_string(),
        backend.hits.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use ipamd_api::services::{
        BackendCount, BackendState, BackendUse, FrontendScope, ServicePort, ServiceRole, ServiceSummary,
        TrafficPolicy,
    };

    use super::*;

    fn frontend(address: &str, port: u16, scope: FrontendScope, external: TrafficPolicy) -> ServiceFrontend {
        let address = address.parse().unwrap();
        ServiceFrontend { address, port, scope, internal: TrafficPolicy::Cluster, external }
    }

    fn backend(address: [u8; 4], node: &str, state: BackendState, used: BackendUse) -> ServiceBackend {
        ServiceBackend {
            address: address.into(),
            port: 8080,
            node: Some(node.into()),
            local: node == "n1",
            zone_hints: Vec::new(),
            node_hints: Vec::new(),
            state,
            used,
            hits: 0,
        }
    }

    fn web() -> ServiceDetail {
        use {BackendState as State, FrontendScope as Scope, TrafficPolicy as Policy};
        let summary = ServiceSummary {
            namespace: "shop".into(),
            name: "web".into(),
            cluster_ips: vec![[10, 96, 0, 10].into(), "fd00:96::a".parse().unwrap()],
            external_ips: vec![[192, 0, 2, 1].into()],
            load_balancer_ips: vec![[192, 0, 2, 3].into()],
            backends: BackendCount { ready: 1, all: 4 },
            hits: 1_234,
            problems: 1,
            ..ServiceSummary::default()
        };
        let http = PortDetail {
            port: ServicePort {
                name: "http".into(),
                protocol: "TCP".into(),
                port: 80,
                node_port: Some(30_080),
            },
            frontends: vec![
                frontend("10.96.0.10", 80, Scope::ClusterIp, Policy::Cluster),
                frontend("fd00:96::a", 80, Scope::ClusterIp, Policy::Cluster),
                frontend("192.0.2.1", 80, Scope::ExternalIp, Policy::Local),
                frontend("192.0.2.3", 80, Scope::LoadBalancer, Policy::Local),
                frontend("0.0.0.0", 30_080, Scope::NodePort, Policy::Local),
            ],
            backends: vec![
                ServiceBackend {
                    zone_hints: vec!["a".into(), "b".into()],
                    node_hints: vec!["n1".into()],
                    hits: 1_234,
                    ..backend([10, 88, 0, 2], "n1", State::Ready, BackendUse::ClusterAndLocal)
                },
                backend([10, 88, 1, 2], "n2", State::TerminatingServing, BackendUse::Unused),
                backend([10, 88, 1, 3], "n2", State::Terminating, BackendUse::Unused),
                ServiceBackend {
                    node: None,
                    ..backend([10, 88, 1, 4], "n2", State::NotReady, BackendUse::Unused)
                },
            ],
        };
        let sctp = PortDetail {
            port: ServicePort { name: "\u{1b}c".into(), protocol: "SCTP".into(), port: 90, node_port: None },
            ..PortDetail::default()
        };
        ServiceDetail {
            summary,
            ports: vec![http, sctp],
            affinity: Some(10_800),
            source_ranges: vec!["192.0.2.0/24".into(), "198.51.100.0/24".into()],
            health_check_port: Some(31_000),
            problems: vec!["SCTP port 90 cannot be translated to port 8080 of 10.88.0.2".into()],
        }
    }

    #[test]
    fn all_of_a_service_is_shown() {
        let expected = "\
Service:            shop/web
Role:               balanced
Cluster IPs:        10.96.0.10
                    fd00:96::a
External IPs:       192.0.2.1
Load balancer IPs:  192.0.2.3
Backends:           1/4 ready
Hits:               1234
Affinity:           by client, 10800 s
Source ranges:      192.0.2.0/24
                    198.51.100.0/24
Health check port:  31000
Problems:           SCTP port 90 cannot be translated to port 8080 of 10.88.0.2

Port 80:30080/TCP (http)
FRONTEND         SCOPE          INTERNAL  EXTERNAL
10.96.0.10:80    cluster-ip     cluster   cluster
[fd00:96::a]:80  cluster-ip     cluster   cluster
192.0.2.1:80     external-ip    cluster   local
192.0.2.3:80     load-balancer  cluster   local
0.0.0.0:30080    node-port      cluster   local

BACKEND         NODE       HINTS                  STATE                USED           HITS
10.88.0.2:8080  n1 (here)  zone a,zone b,node n1  ready                cluster,local  1234
10.88.1.2:8080  n2         -                      terminating-serving  unused         0
10.88.1.3:8080  n2         -                      terminating          unused         0
10.88.1.4:8080  -          -                      not-ready            unused         0

Port 90/SCTP (\\u{1b}c)
No backends.
";
        assert_eq!(text(&web()), expected);
    }

    #[test]
    fn of_a_service_that_is_not_balanced_there_is_little_to_show() {
        let detail = ServiceDetail {
            summary: ServiceSummary {
                namespace: "shop".into(),
                name: "db".into(),
                role: ServiceRole::Headless,
                ..ServiceSummary::default()
            },
            ..ServiceDetail::default()
        };
        let expected = "\
Service:   shop/db
Role:      headless
Backends:  0/0 ready
Hits:      0
";
        assert_eq!(text(&detail), expected);
    }

    #[test]
    fn backends_come_to_their_port() {
        let mut detail = web();
        let more = || vec![backend([10, 88, 2, 2], "n3", BackendState::Ready, BackendUse::Cluster)];
        assert!(add(&mut detail, BackendPage { port: 1, backends: more() }));
        assert!(add(&mut detail, BackendPage { port: 1, backends: more() }));
        assert_eq!((detail.ports[0].backends.len(), detail.ports[1].backends.len()), (4, 2));
        assert!(!add(&mut detail, BackendPage { port: 2, backends: more() }));
        assert_eq!(detail.ports[1].backends[0].address, IpAddr::from([10, 88, 2, 2]));
    }
}
