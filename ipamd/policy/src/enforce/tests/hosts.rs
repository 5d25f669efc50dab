//! Host endpoints.

use std::sync::Arc;

use super::{super::judge, *};
use crate::{compile::policy_inputs::HostRole, enforce::seen_flow::NamedFlow};
use ipamd_model::{
    host::{Failsafe, HostLayer},
    policy::Direction,
};

const HOST: &str = "---\napiVersion: projectcalico.org/v3\nkind: HostEndpoint\n\
    metadata: { name: uplink, labels: { role: node } }\n\
    spec: { node: a, interfaceName: eth0, expectedIPs: [10.0.9.1] }\n";

fn policy(name: &str, fields: &str) -> String {
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{ name: {name} }}\n\
         spec: {{ selector: \"role == 'node'\", {fields} }}\n"
    )
}

fn endpoint(layer: HostLayer, is_all: bool, allows_by_default: bool) -> LocalEndpoint {
    let failsafe = Arc::new(Failsafe::default());
    let role = HostRole { name: "uplink".into(), layer, is_all, allows_by_default, failsafe };
    LocalEndpoint {
        key: role.key(),
        pod: None,
        labels: std::collections::BTreeMap::new(),
        addresses: vec![[10, 0, 9, 1].into()],
        host: Some(role),
    }
}

fn started(allows_by_default: bool, cluster: &str) -> Bench {
    let layers = HostLayer::ALL.map(|layer| endpoint(layer, false, allows_by_default));
    Bench::started(ROOM, &layers, &format!("{HOST}{cluster}"))
}

/// What becomes of a TCP flow at a layer, by the rules and by the tables alike: whether it passes, and whether a rule says so.
fn judged(bench: &Bench, layer: HostLayer, direction: Direction, port: u16) -> (bool, bool) {
    let (here, there) = ([10, 0, 9, 1].into(), [192, 0, 2, 7].into());
    let (source, destination) = match direction {
        Direction::Ingress => (there, here),
        Direction::Egress => (here, there),
    };
    let flow = SeenFlow {
        protocol: protocol::TCP,
        source,
        source_port: 50_000,
        destination,
        destination_port: port,
    };
    let flow = NamedFlow { flow, names: Vec::new() };
    let key = endpoint(layer, false, false).key;
    let state = bench.enforcer.lock();
    let by_rules = judge::by_rules(&key, direction, &flow, &state.cluster, &state.written);
    let (passes, rule) = judge::by_tables(&key, direction, &flow, &state.cluster, &*state.tables).unwrap();
    assert_eq!(
        (by_rules.verdict() == Verdict::Allow, by_rules.rule()),
        (passes, rule),
        "{layer} {direction} {port}"
    );
    (passes, rule.0 > 0)
}

const IN: Direction = Direction::Ingress;
const OUT: Direction = Direction::Egress;

#[test]
fn without_a_policy_only_failsafe_ports_are_open_to_the_node_itself() {
    let bench = started(false, "");
    for (direction, port, passes) in [
        (IN, 80, false),
        (OUT, 80, false),
        (IN, 22, true),
        (OUT, 22, false),
        (IN, 6443, true),
        (OUT, 6443, true),
    ] {
        assert_eq!(judged(&bench, HostLayer::Local, direction, port), (passes, true), "{direction} {port}");
    }
    for layer in [HostLayer::Forwarded, HostLayer::PreDnat, HostLayer::Untracked] {
        assert_eq!(judged(&bench, layer, IN, 80), (true, false), "{layer}: nothing is asked");
        assert_eq!(judged(&bench, layer, OUT, 80), (true, false), "{layer}: nothing is asked");
    }
}

#[test]
fn with_the_profile_what_no_policy_speaks_of_is_allowed() {
    let bench = started(true, "");
    assert_eq!(judged(&bench, HostLayer::Local, IN, 80), (true, false));
    bench.apply(&policy("one", "ingress: [{ action: Allow, protocol: TCP, destination: { ports: [80] } }]"));
    assert_eq!(judged(&bench, HostLayer::Local, IN, 80), (true, true));
    assert_eq!(judged(&bench, HostLayer::Local, IN, 81), (false, true), "by the default of the tier");
    assert_eq!(judged(&bench, HostLayer::Local, IN, 22), (true, true), "a failsafe port");
    assert_eq!(judged(&bench, HostLayer::Local, OUT, 81), (true, false), "no policy speaks of egress");
}

#[test]
fn each_policy_is_asked_at_its_layer_only() {
    let deny = "ingress: [{ action: Deny, protocol: TCP, destination: { ports: [80, 22] } }]";
    let bench = started(true, &policy("early", &format!("preDNAT: true, applyOnForward: true, {deny}")));
    assert_eq!(judged(&bench, HostLayer::PreDnat, IN, 80), (false, true));
    assert_eq!(judged(&bench, HostLayer::PreDnat, IN, 81), (true, false), "the others are asked");
    assert_eq!(judged(&bench, HostLayer::PreDnat, IN, 22), (true, true), "a failsafe port");
    assert_eq!(judged(&bench, HostLayer::Local, IN, 80), (true, false));
    bench.remove(Kind::GlobalNetworkPolicy, "early");

    bench.apply(&policy(
        "raw",
        &format!("doNotTrack: true, applyOnForward: true, {deny}, egress: [{{ action: Allow }}]"),
    ));
    assert_eq!(judged(&bench, HostLayer::Untracked, IN, 80), (false, true));
    assert_eq!(
        judged(&bench, HostLayer::Untracked, IN, 22),
        (true, false),
        "a failsafe port goes on to be tracked"
    );
    assert_eq!(
        judged(&bench, HostLayer::Untracked, OUT, 80),
        (true, true),
        "a rule allows it, so nothing else is asked"
    );
    assert_eq!(judged(&bench, HostLayer::PreDnat, IN, 80), (true, false));
    bench.remove(Kind::GlobalNetworkPolicy, "raw");

    bench.apply(&policy(
        "through",
        "applyOnForward: true, ingress: [{ action: Allow, protocol: TCP, destination: { ports: [80] } }]",
    ));
    assert_eq!(judged(&bench, HostLayer::Forwarded, IN, 80), (true, true));
    assert_eq!(
        judged(&bench, HostLayer::Forwarded, IN, 22),
        (false, true),
        "what passes through has no failsafe ports"
    );
    assert_eq!(judged(&bench, HostLayer::Forwarded, OUT, 22), (true, false), "no policy speaks of egress");
    assert_eq!(
        judged(&bench, HostLayer::Local, IN, 80),
        (true, true),
        "it is asked about the node itself, too"
    );
}

#[test]
fn policies_before_translation_and_without_a_memory_do_not_concern_pods() {
    let all = |name: &str, fields: &str| policy(name, fields).replace("role == 'node'", "all()");
    let deny = "applyOnForward: true, ingress: [{ action: Deny }]";
    let pods = [local(1, "web")];
    let cluster =
        all("early", &format!("preDNAT: true, {deny}")) + &all("raw", &format!("doNotTrack: true, {deny}"));
    let bench = Bench::started(ROOM, &pods, &cluster);
    assert!(bench.passes("192.0.2.7", "10.0.0.1", 80));
    bench.apply(&all("through", deny));
    assert!(!bench.passes("192.0.2.7", "10.0.0.1", 80), "applyOnForward says nothing of pods");
}

#[test]
fn a_rule_that_means_some_addresses_of_its_own_side_allows_nothing_and_denies_all() {
    let rule = |action: &str| {
        policy("own", &format!("ingress: [{{ action: {action}, destination: {{ nets: [10.0.9.1/32] }} }}]"))
    };
    let bench = started(true, &rule("Allow"));
    assert_eq!(judged(&bench, HostLayer::Local, IN, 80), (false, true));
    bench.apply(&rule("Deny"));
    assert_eq!(judged(&bench, HostLayer::Local, IN, 80), (false, true));
}

#[test]
fn pods_of_the_node_are_asked_about_by_the_star_only() {
    let (pod, host) = ("n/p1", "10.0.9.1");
    let named = [local(1, "web"), endpoint(HostLayer::Local, false, false)];
    let bench = Bench::started(ROOM, &named, HOST);
    assert!(bench.passes(pod, host, 80) && bench.passes(host, pod, 80));
    assert!(!bench.passes("192.0.2.7", host, 80));
    let star = [local(1, "web"), endpoint(HostLayer::Local, true, false)];
    let bench = Bench::started(ROOM, &star, HOST);
    assert!(!bench.passes(pod, host, 80) && bench.passes(pod, host, 22));
    assert!(bench.passes(host, pod, 80), "the node always reaches its pods");
}

#[test]
fn labels_of_host_endpoints_mean_their_addresses_in_rules_of_others() {
    let guard = "---\napiVersion: projectcalico.org/v3\nkind: NetworkPolicy\n\
        metadata: { namespace: n, name: guard }\n\
        spec: { selector: \"app == 'web'\", ingress: [{ action: Allow, \
        source: { selector: \"role == 'node'\", namespaceSelector: global() } }] }\n";
    let bench = Bench::started(ROOM, &[local(1, "web")], &format!("{HOST}{guard}"));
    assert!(bench.passes("10.0.9.1", "10.0.0.1", 80));
    assert!(!bench.passes("10.0.9.2", "10.0.0.1", 80));
}

#[test]
fn a_host_endpoint_and_a_pod_of_the_same_policies_have_rules_of_their_own() {
    let all = policy("all", "ingress: [{ action: Allow, protocol: TCP, destination: { ports: [80] } }]")
        .replace("role == 'node'", "all()");
    for cluster in [String::new(), all] {
        let both = [local(1, "web"), endpoint(HostLayer::Local, false, false)];
        for order in [both.clone(), [both[1].clone(), both[0].clone()]] {
            let bench = Bench::started(ROOM, &order, &format!("{HOST}{cluster}"));
            assert!(judged(&bench, HostLayer::Local, IN, 22).0, "a failsafe port");
            assert!(!judged(&bench, HostLayer::Local, OUT, 81).0, "the default");
            bench.enforcer.admit(local(2, "web")).unwrap();
            bench.enforcer.admit(endpoint(HostLayer::Local, false, false)).unwrap();
            assert!(!judged(&bench, HostLayer::Local, IN, 81).0);
            assert_eq!(
                bench.passes("192.0.2.7", "10.0.0.2", 22),
                cluster.is_empty(),
                "pods have no failsafe ports"
            );
        }
    }
}
