use super::*;
use crate::{
    flow::flow,
    observed::{Observed, Outcome, Owner, Side as ObservedSide},
    proto::flow::{EventTypeFilter, Workload},
};

/// A flow of shop/web-1 (10.0.0.1) to a pod of db/pg (10.0.0.2), port 5432 of TCP.
fn observed() -> Observed {
    let pod = |namespace: &str, name: &str, app: &str, last: u8, port| ObservedSide {
        address: [10, 0, 0, last].into(),
        port,
        owner: Owner::Pod {
            namespace: namespace.into(),
            name: name.into(),
            labels: [("app", app), ("pod-template-hash", "77")].into_iter().collect(),
            service_account: None,
        },
        is_local: true,
    };
    Observed {
        time: 1_000_000,
        outcome: Outcome::Forwarded,
        protocol: 6,
        icmp: None,
        source: pod("shop", "web-77-abcde", "web", 1, 40_000),
        destination: pod("db", "pg-77-fghij", "pg", 2, 5_432),
        decisions: Vec::new(),
        service: Some(("db".into(), "pg-main".into())),
        names: vec!["pg.example.com".into()],
    }
}

fn strings<const N: usize>(values: [&str; N]) -> Vec<String> {
    values.map(str::to_owned).to_vec()
}

/// Whether a filter with one change to it admits the flow.
fn admits(change: impl FnOnce(&mut FlowFilter)) -> bool {
    let mut filter = FlowFilter::default();
    change(&mut filter);
    let flow = flow(&observed(), "node-1", "u-1".into());
    Filters::read(&[filter], &[]).unwrap().admits(&flow)
}

#[test]
fn each_field_is_compared_with_the_flow() {
    assert!(admits(|_| ()), "an empty filter matches everything");
    assert!(admits(|it| it.source_ip = strings(["10.0.0.1"])));
    assert!(admits(|it| it.source_ip = strings(["192.0.2.1", "10.0.0.0/24"])));
    assert!(!admits(|it| it.source_ip = strings(["10.0.0.2"])));
    assert!(admits(|it| it.destination_ip = strings(["10.0.0.2/32"])));
    assert!(!admits(|it| it.destination_ip = strings(["fd00::/8"])));
    assert!(admits(|it| it.source_port = strings(["40000"])));
    assert!(admits(|it| it.destination_port = strings(["80", "5432"])));
    assert!(!admits(|it| it.destination_port = strings(["80"])));
    assert!(admits(|it| it.source_label = strings(["app=web"])));
    assert!(admits(|it| it.destination_label = strings(["k8s:app in (pg)"])));
    assert!(admits(|it| it.source_label = strings(["io.kubernetes.pod.namespace=shop"])));
    assert!(!admits(|it| it.source_label = strings(["reserved:world"])));
    assert!(admits(|it| it.destination_fqdn = strings(["*.example.com"])));
    assert!(!admits(|it| it.destination_fqdn = strings(["example.com"])));
    assert!(!admits(|it| it.source_fqdn = strings(["*"])), "the opener has no names");
    assert!(admits(|it| it.destination_service = strings(["db/pg"])));
    assert!(!admits(|it| it.destination_service = strings(["pg"])), "of the namespace default");
    assert!(!admits(|it| it.source_service = strings(["db/"])));
    assert!(admits(|it| it.protocol = strings(["TCP"])));
    assert!(!admits(|it| it.protocol = strings(["udp", "icmp"])));
    assert!(admits(|it| it.ip_version = vec![1]));
    assert!(!admits(|it| it.ip_version = vec![2]));
    assert!(admits(|it| it.reply = vec![false]));
    assert!(!admits(|it| it.reply = vec![true]));
    assert!(admits(|it| it.uuid = strings(["u-1"])));
    assert!(!admits(|it| it.uuid = strings(["u-2"])));
    assert!(admits(|it| it.verdict = vec![Verdict::Forwarded.into()]));
    assert!(!admits(|it| it.verdict = vec![Verdict::Dropped.into()]));
    assert!(admits(|it| it.traffic_direction = vec![1]));
    assert!(!admits(|it| it.traffic_direction = vec![2]));
    assert!(!admits(|it| it.drop_reason_desc = vec![0]));
    assert!(!admits(|it| it.encrypted = vec![true]));
    let syn = TcpFlags { syn: true, ..TcpFlags::default() };
    assert!(admits(|it| it.tcp_flags = vec![syn]));
    assert!(!admits(|it| it.tcp_flags = vec![TcpFlags { ack: true, ..syn }]));
}

#[test]
fn pods_go_by_namespace_and_the_beginning_of_their_name() {
    for (pod, expected) in [
        ("shop/web-77-abcde", true),
        ("shop/web", true),
        ("shop/", true),
        ("/web", true),
        ("shop/eb", false),
        ("db/web", false),
        ("web", false),
    ] {
        assert_eq!(admits(|it| it.source_pod = strings([pod])), expected, "{pod}");
    }
    assert!(admits(|it| it.destination_pod = strings(["db/pg"])));
}

#[test]
fn workloads_go_by_name_and_kind_as_far_as_they_are_given() {
    let workload = |kind: &str, name: &str| vec![Workload { kind: kind.into(), name: name.into() }];
    assert!(admits(|it| it.source_workload = workload("Deployment", "web")));
    assert!(admits(|it| it.source_workload = workload("deployment", "")));
    assert!(admits(|it| it.destination_workload = workload("", "pg")));
    assert!(!admits(|it| it.source_workload = workload("", "pg")));
    assert!(!admits(|it| it.source_workload = workload("StatefulSet", "web")));
}

#[test]
fn nodes_go_by_patterns_of_cluster_and_name() {
    for (name, expected) in [
        ("node-1", true),
        ("node-*", true),
        ("default/node-1", true),
        ("default/", true),
        ("*/node-?", true),
        ("other/node-1", false),
        ("other/", false),
        ("node-2", false),
    ] {
        assert_eq!(admits(|it| it.node_name = strings([name])), expected, "{name}");
    }
    assert!(admits(|it| it.source_cluster_name = strings(["default"])));
    assert!(!admits(|it| it.destination_cluster_name = strings(["other"])));
}

#[test]
fn a_type_has_sub_types_that_count_if_they_are_asked_for() {
    let of = |kind, sub_type: Option<i32>| {
        let filter = EventTypeFilter {
            r#type: kind,
            match_sub_type: sub_type.is_some(),
            sub_type: sub_type.unwrap_or_default(),
        };
        admits(|it| it.event_type = vec![filter])
    };
    assert!(of(event_type::TRACE, None));
    assert!(of(event_type::TRACE, Some(0)), "to an endpoint");
    assert!(!of(event_type::TRACE, Some(3)));
    assert!(!of(event_type::DROP, None));
    assert!(!of(event_type::POLICY_VERDICT, None), "no policy has decided");
    assert!(!of(129, None), "no flow is of layer 7");
}

#[test]
fn of_fields_all_count_and_of_values_and_filters_one() {
    let flow = flow(&observed(), "node-1", "u-1".into());
    let web = FlowFilter { source_pod: strings(["shop/web"]), ..FlowFilter::default() };
    let udp = FlowFilter { protocol: strings(["udp"]), ..FlowFilter::default() };
    let both = FlowFilter { protocol: strings(["udp"]), ..web.clone() };
    let admits =
        |white: &[FlowFilter], black: &[FlowFilter]| Filters::read(white, black).unwrap().admits(&flow);
    assert!(admits(&[], &[]));
    assert!(!admits(std::slice::from_ref(&both), &[]));
    assert!(admits(&[udp.clone(), web.clone()], &[]));
    assert!(!admits(&[], &[udp.clone(), web.clone()]));
    assert!(admits(&[web], &[udp, both]));
}

#[test]
fn what_cannot_be_understood_or_is_not_served_is_refused_by_its_name() {
    let refused = |change: fn(&mut FlowFilter), told: &str| {
        let mut filter = FlowFilter::default();
        change(&mut filter);
        let error = Filters::read(&[], &[filter]).err().unwrap();
        assert!(error.contains(told), "{error}");
    };
    refused(|it| it.source_ip = strings(["10.0.0"]), "10.0.0");
    refused(|it| it.destination_port = strings(["http"]), "http");
    refused(|it| it.source_label = strings(["a b"]), "a b");
    refused(|it| it.protocol = strings(["dns"]), "dns");
    refused(|it| it.http_status_code = strings(["5+"]), "http_status_code");
    refused(|it| it.dns_query = strings([".*"]), "dns_query");
    refused(|it| it.uuid = vec![String::new(); 2_000], "2000");
    assert!(Filters::read(&vec![FlowFilter::default(); 200], &[]).is_err());
}
