use super::*;

fn side(address: [u8; 4], port: u16, owner: Owner, is_local: bool) -> Side {
    Side { address: address.into(), port, owner, is_local }
}

fn pod(name: &str, labels: &[(&str, &str)]) -> Owner {
    Owner::Pod {
        namespace: "shop".into(),
        name: name.into(),
        labels: labels.iter().copied().collect(),
        service_account: Some("default".into()),
    }
}

fn rule(direction: &str, index: Option<u64>) -> DecidingRule {
    let policy =
        ObjectName { kind: "NetworkPolicy".into(), namespace: Some("shop".into()), name: "p".into() };
    DecidingRule { text: "the rule".into(), direction: direction.into(), policies: vec![policy], index }
}

fn decision(direction: Direction, verdict: Judged, index: Option<u64>) -> Decision {
    let rule = Some(rule(&direction.to_string(), index));
    Decision { direction, verdict, rule, tier: Some("default".into()) }
}

fn observed(outcome: Outcome) -> Observed {
    Observed {
        time: 1_000_002,
        outcome,
        protocol: TCP,
        icmp: None,
        source: side([10, 0, 0, 1], 40_000, pod("web-1", &[("app", "web")]), true),
        destination: side([10, 0, 0, 2], 80, pod("db-1", &[("app", "db")]), true),
        decisions: Vec::new(),
        service: None,
        names: Vec::new(),
    }
}

fn dropped(reason: &str) -> Outcome {
    Outcome::Dropped { reason: reason.into(), rejected: false }
}

fn written(observed: &Observed) -> Flow {
    flow(observed, "node-1", "u".into())
}

/// The numbers of a flow's type.
fn type_of(flow: &Flow) -> (i32, i32) {
    let told = flow.event_type.unwrap();
    (told.r#type, told.sub_type)
}

#[test]
fn a_flow_that_no_policy_decided_is_a_trace() {
    let flow = written(&observed(Outcome::Forwarded));
    assert_eq!(flow.time, Some(Timestamp { seconds: 1, nanos: 2_000 }));
    assert_eq!((flow.verdict(), type_of(&flow)), (Verdict::Forwarded, (event_type::TRACE, 0)));
    assert_eq!(flow.trace_observation_point(), TraceObservationPoint::ToEndpoint);
    assert_eq!((flow.traffic_direction(), flow.is_reply), (TrafficDirection::Ingress, Some(false)));
    assert_eq!(flow.summary, "TCP Flags: SYN");
    let source = flow.source.unwrap();
    assert_eq!((source.namespace.as_str(), source.pod_name.as_str()), ("shop", "web-1"));
    let labels = [
        "k8s:app=web",
        "k8s:io.cilium.k8s.policy.serviceaccount=default",
        "k8s:io.kubernetes.pod.namespace=shop",
    ];
    assert_eq!(source.labels, labels);
    assert!(source.identity >= 256 && source.identity < 1 << 24);
    assert_eq!(flow.ip.unwrap().ip_version(), IpVersion::IPv4);
}

#[test]
fn policies_are_told_by_direction_and_verdict_with_tier_and_rule() {
    let allowed = [
        decision(Direction::Egress, Judged::Allow, Some(3)),
        decision(Direction::Ingress, Judged::Allow, Some(0)),
    ];
    let flow = written(&Observed { decisions: allowed.to_vec(), ..observed(Outcome::Forwarded) });
    assert_eq!(type_of(&flow), (event_type::POLICY_VERDICT, 0));
    assert_eq!(flow.egress_allowed_by[0].labels, ["cambric:tier=default", "cambric:rule=egress[3]"]);
    assert_eq!((flow.ingress_allowed_by.len(), flow.ingress_denied_by.len()), (1, 0));
    assert!(is_policy_verdict(&flow));

    let denied = vec![allowed[0].clone(), decision(Direction::Ingress, Judged::Deny, None)];
    let flow = written(&Observed { decisions: denied, ..observed(dropped("policy_ingress")) });
    assert_eq!((flow.verdict(), flow.drop_reason_desc()), (Verdict::Dropped, DropReason::PolicyDenied));
    assert_eq!((type_of(&flow), flow.drop_reason), ((event_type::DROP, 133), 133));
    assert_eq!(flow.ingress_denied_by[0].labels, ["cambric:tier=default", "cambric:default-deny=true"]);
    assert_eq!(flow.ingress_denied_by[0].kind, "NetworkPolicy");
    assert_eq!((flow.egress_allowed_by.len(), flow.summary.as_str()), (1, "TCP; policy_ingress; the rule"));
    assert!(is_policy_verdict(&flow));
}

#[test]
fn what_staged_policies_would_do_is_an_audit_by_those_policies() {
    let staged = ObjectName { kind: "StagedNetworkPolicy".into(), namespace: None, name: "s".into() };
    let outcome = Outcome::Staged { would: Judged::Deny, because: vec![staged] };
    let decisions = vec![decision(Direction::Ingress, Judged::Deny, Some(0))];
    let flow = written(&Observed { decisions, ..observed(outcome) });
    assert_eq!((flow.verdict(), type_of(&flow)), (Verdict::Audit, (event_type::POLICY_VERDICT, 0)));
    assert_eq!(flow.ingress_denied_by[0].kind, "StagedNetworkPolicy");
    assert_eq!(flow.summary, "TCP; staged policies would deny it; the rule");
}

#[test]
fn other_drops_have_no_policy_and_an_unknown_direction_of_reply() {
    let mut drop = observed(dropped("no_backend"));
    drop.destination = side([10, 96, 0, 1], 80, Owner::World, false);
    let flow = written(&drop);
    assert_eq!((flow.drop_reason_desc(), flow.is_reply), (DropReason::ServiceBackendNotFound, None));
    assert_eq!((flow.traffic_direction(), is_policy_verdict(&flow)), (TrafficDirection::Egress, false));
    assert_eq!(flow.destination.unwrap().labels, ["reserved:world"]);

    let nobody = side([0, 0, 0, 0], 0, Owner::World, false);
    let malformed = Observed {
        source: nobody.clone(),
        destination: nobody,
        protocol: 0,
        ..observed(dropped("malformed"))
    };
    let flow = written(&malformed);
    assert_eq!((flow.ip, flow.l4, flow.summary.as_str()), (None, None, "0; malformed"));
}

#[test]
fn each_drop_reason_has_one_of_hubbles() {
    let unknown: Vec<_> = bpf::layout::DROP_REASONS
        .iter()
        .filter(|reason| reasons::nearest(reason) == DropReason::Unknown)
        .collect();
    assert_eq!(unknown, [&"none"]);
}

#[test]
fn nodes_and_icmp_have_their_own_words() {
    let mut icmp = observed(Outcome::Forwarded);
    icmp.protocol = ICMP;
    icmp.icmp = Some(IcmpMessage { kind: 8, code: 0 });
    icmp.source.owner = Owner::ThisNode;
    icmp.destination = side([10, 0, 1, 2], 0, Owner::OtherNode("node-2".into()), false);
    let flow = written(&icmp);
    assert_eq!(flow.source.unwrap().labels, ["reserved:host"]);
    let destination = flow.destination.unwrap();
    assert_eq!((destination.identity, destination.labels), (6, vec!["reserved:remote-node".to_owned()]));
    assert_eq!(flow.summary, "ICMPv4 type 8 code 0");
    let expected = Protocol::IcmPv4(IcmPv4 { r#type: 8, code: 0 });
    assert_eq!(flow.l4.unwrap().protocol, Some(expected));
}

#[test]
fn labels_are_bounded() {
    let labels: Vec<(String, String)> = (0..1_000).map(|n| (format!("k{n}"), "v".repeat(n))).collect();
    let labels: Vec<(&str, &str)> = labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let mut flow = observed(Outcome::Forwarded);
    flow.source.owner = pod("web-1", &labels);
    let told = written(&flow).source.unwrap().labels;
    assert!(told.len() <= LABELS + 2 && told.iter().all(|it| it.len() <= LABEL), "{}", told.len());
}
