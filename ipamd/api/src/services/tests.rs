use super::*;

#[test]
fn a_service_in_full_has_its_problems_and_their_number() {
    let detail = ServiceDetail {
        summary: ServiceSummary {
            namespace: "shop".into(),
            name: "web".into(),
            role: ServiceRole::ExternalName,
            cluster_ips: vec![[10, 96, 0, 10].into()],
            backends: BackendCount { ready: 1, all: 2 },
            hits: u64::MAX,
            problems: 1,
            ..ServiceSummary::default()
        },
        ports: vec![PortDetail {
            port: ServicePort {
                name: "http".into(),
                protocol: "TCP".into(),
                port: 80,
                node_port: Some(30_080),
            },
            frontends: vec![ServiceFrontend {
                address: [10, 96, 0, 10].into(),
                port: 80,
                scope: FrontendScope::ClusterIp,
                internal: TrafficPolicy::Local,
                external: TrafficPolicy::Cluster,
            }],
            backends: vec![ServiceBackend {
                address: [10, 88, 0, 2].into(),
                port: 8080,
                node: Some("n1".into()),
                local: true,
                zone_hints: vec!["a".into()],
                node_hints: Vec::new(),
                state: BackendState::TerminatingServing,
                used: BackendUse::ClusterAndLocal,
                hits: 7,
            }],
        }],
        affinity: Some(10_800),
        source_ranges: vec!["192.0.2.0/24".into()],
        health_check_port: Some(31_000),
        problems: vec!["there is no ready endpoint".into()],
    };
    let json = serde_json::to_value(&detail).unwrap();
    assert_eq!(
        json,
        serde_json::json!({
            "namespace": "shop",
            "name": "web",
            "role": "external-name",
            "cluster_ips": ["10.96.0.10"],
            "external_ips": [],
            "load_balancer_ips": [],
            "backends": {"ready": 1, "all": 2},
            "hits": u64::MAX,
            "problem_count": 1,
            "ports": [{
                "name": "http",
                "protocol": "TCP",
                "port": 80,
                "node_port": 30_080,
                "frontends": [{
                    "address": "10.96.0.10",
                    "port": 80,
                    "scope": "cluster-ip",
                    "internal": "local",
                    "external": "cluster",
                }],
                "backends": [{
                    "address": "10.88.0.2",
                    "port": 8080,
                    "node": "n1",
                    "local": true,
                    "zone_hints": ["a"],
                    "node_hints": [],
                    "state": "terminating-serving",
                    "used": "cluster-and-local",
                    "hits": 7,
                }],
            }],
            "affinity": 10_800,
            "source_ranges": ["192.0.2.0/24"],
            "health_check_port": 31_000,
            "problems": ["there is no ready endpoint"],
        })
    );
    assert_eq!(serde_json::from_value::<ServiceDetail>(json).unwrap(), detail);
}

#[test]
fn a_port_is_named_as_it_is_reached() {
    let port = ServicePort { protocol: "TCP".into(), port: 80, ..ServicePort::default() };
    assert_eq!(port.to_string(), "80/TCP");
    assert_eq!(ServicePort { node_port: Some(30_080), ..port }.to_string(), "80:30080/TCP");
}

#[test]
fn what_is_printed_is_what_json_says() {
    let says = |value: serde_json::Value, text: String| {
        assert_eq!(value, text.replace("cluster,local", "cluster-and-local"));
    };
    for role in
        [ServiceRole::Balanced, ServiceRole::Headless, ServiceRole::ExternalName, ServiceRole::OtherProxy]
    {
        says(serde_json::to_value(role).unwrap(), role.to_string());
    }
    for scope in [
        FrontendScope::ClusterIp,
        FrontendScope::NodePort,
        FrontendScope::ExternalIp,
        FrontendScope::LoadBalancer,
        FrontendScope::HostPort,
    ] {
        says(serde_json::to_value(scope).unwrap(), scope.to_string());
    }
    for state in [
        BackendState::Ready,
        BackendState::TerminatingServing,
        BackendState::Terminating,
        BackendState::NotReady,
    ] {
        says(serde_json::to_value(state).unwrap(), state.to_string());
    }
    for (cluster, local) in [(true, true), (true, false), (false, true), (false, false)] {
        let used = BackendUse::new(cluster, local);
        says(serde_json::to_value(used).unwrap(), used.to_string());
    }
}
