//! `cambricctl service list`.

use ipamd_api::{Reply, Request, services::ServiceLine};

use super::cells::{cell, outside, ready};
use crate::{
    daemon::Daemon,
    output::{Output, table},
};

pub(super) fn list(daemon: &mut Daemon, output: &Output) -> anyhow::Result<()> {
    let client = &mut daemon.client;
    client.send(Request::Services)?;
    let mut services = Vec::new();
    loop {
        let Reply::Services(page) = client.receive()? else {
            return Err(client.confused("the answer is of another sort".into()).into());
        };
        services.extend(page.services);
        if page.last {
            break;
        }
    }
    output.print(&services[..], text)
}

fn text(services: &[ServiceLine]) -> String {
    let titles =
        ["NAMESPACE", "NAME", "ROLE", "CLUSTER IPS", "PORTS", "EXTERNAL IPS", "BACKENDS", "HITS", "PROBLEMS"];
    table(titles, services.iter().map(row))
}

fn row(ServiceLine { summary, ports }: &ServiceLine) -> [String; 9] {
    [
        summary.namespace.clone(),
        summary.name.clone(),
        summary.role.to_string(),
        cell(&summary.cluster_ips),
        cell(ports),
        cell(outside(&summary.external_ips, &summary.load_balancer_ips)),
        ready(summary.backends),
        summary.hits.to_string(),
        summary.problems.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use ipamd_api::services::{BackendCount, ServicePort, ServiceRole, ServiceSummary};

    use super::*;

    fn services() -> [ServiceLine; 2] {
        let web = ServiceSummary {
            namespace: "shop".into(),
            name: "web".into(),
            cluster_ips: vec![[10, 96, 0, 10].into(), "fd00:96::a".parse().unwrap()],
            external_ips: vec![[192, 0, 2, 1].into(), [192, 0, 2, 2].into()],
            load_balancer_ips: vec![[192, 0, 2, 2].into(), [192, 0, 2, 3].into()],
            backends: BackendCount { ready: 2, all: 3 },
            hits: 12_345,
            problems: 1,
            ..ServiceSummary::default()
        };
        let port =
            ServicePort { name: "http".into(), protocol: "TCP".into(), port: 80, node_port: Some(30_080) };
        let dns = ServicePort { protocol: "UDP".into(), port: 53, node_port: None, ..port.clone() };
        let name = ServiceSummary {
            namespace: "shop".into(),
            name: "\u{1b}[2J".into(),
            role: ServiceRole::ExternalName,
            ..ServiceSummary::default()
        };
        [
            ServiceLine { summary: web, ports: vec![port, dns] },
            ServiceLine { summary: name, ports: Vec::new() },
        ]
    }

    #[test]
    fn each_service_is_a_line() {
        let expected = "\
NAMESPACE  NAME       ROLE           CLUSTER IPS            PORTS                EXTERNAL IPS                   BACKENDS  HITS   PROBLEMS
shop       web        balanced       10.96.0.10,fd00:96::a  80:30080/TCP,53/UDP  192.0.2.1,192.0.2.2,192.0.2.3  2/3       12345  1
shop       \\u{1b}[2J  external-name  -                      -                    -                              0/0       0      0
";
        assert_eq!(text(&services()), expected);
    }

    #[test]
    fn in_json_it_is_an_array() {
        let [web, _] = services();
        let json = serde_json::to_value(&[web][..]).unwrap();
        assert_eq!(
            json,
            serde_json::json!([{
                "namespace": "shop",
                "name": "web",
                "role": "balanced",
                "cluster_ips": ["10.96.0.10", "fd00:96::a"],
                "external_ips": ["192.0.2.1", "192.0.2.2"],
                "load_balancer_ips": ["192.0.2.2", "192.0.2.3"],
                "backends": {"ready": 2, "all": 3},
                "hits": 12_345,
                "problem_count": 1,
                "ports": [
                    {"name": "http", "protocol": "TCP", "port": 80, "node_port": 30_080},
                    {"name": "http", "protocol": "UDP", "port": 53, "node_port": null},
                ],
            }])
        );
    }
}
