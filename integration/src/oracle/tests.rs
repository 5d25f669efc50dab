//! The oracle, held against tables that were made by hand.

use serde_json::{Value, json};

use super::{Cluster, Direction, Flow, Local, protocol};

const PEER: &str = "10.0.0.2";
const OUTSIDE: &str = "198.51.100.1";

/// Pod `x/a`, which is here, at 10.0.0.1.
fn local() -> Local {
    Local {
        container: "c".to_owned(),
        pod: Some(("x".to_owned(), "a".to_owned())),
        labels: [("told".to_owned(), "by-runtime".to_owned())].into(),
        addresses: vec!["10.0.0.1".parse().expect("an address")],
    }
}

/// Pod `x/b`, which is elsewhere, at 10.0.0.2.
fn peer() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": "x", "name": "b", "labels": {"role": "peer"}},
        "spec": {"containers": [{"ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIPs": [{"ip": PEER}]},
    })
}

fn calico(spec: &Value) -> Value {
    json!({"apiVersion": "projectcalico.org/v3", "kind": "GlobalNetworkPolicy", "metadata": {"name": "p"}, "spec": spec})
}

/// Ingress and egress of the pod with a peer, by TCP to port 80.
fn verdicts(documents: &[Value], peer: &str) -> [bool; 2] {
    let cluster = Cluster::new(documents, &[local()]);
    let flow = Flow { protocol: protocol::TCP, source_port: 40_000, destination_port: 80 };
    let own = local().addresses[0];
    Direction::BOTH.map(|direction| {
        cluster.verdict(&local().identity(), direction, own, peer.parse().expect("an address"), flow)
    })
}

#[test]
fn types_follow_from_rules_where_there_are_none() {
    let (deny, none) = (json!([{"action": "Deny"}]), json!(null));
    for (types, ingress, egress, policed) in [
        (&none, &none, &none, [true, false]),
        (&json!([]), &json!([]), &json!([]), [true, false]),
        (&none, &deny, &none, [true, false]),
        (&none, &none, &deny, [false, true]),
        (&none, &json!([]), &deny, [false, true]),
        (&none, &deny, &deny, [true, true]),
        (&json!(["Egress"]), &deny, &none, [false, true]),
        (&json!(["Ingress", "Egress"]), &none, &none, [true, true]),
    ] {
        let spec = json!({"types": types, "ingress": ingress, "egress": egress});
        assert_eq!(verdicts(&[calico(&spec)], PEER), policed.map(|it| !it), "{spec}");
    }
}

#[test]
fn kubernetes_always_means_ingress_unless_told() {
    let none = json!(null);
    for (types, egress, policed) in [
        (&none, &none, [true, false]),
        (&none, &json!([]), [true, false]),
        (&none, &json!([{"to": [{"podSelector": {"matchLabels": {"no": "body"}}}]}]), [true, true]),
        (&json!(["Egress"]), &none, [false, true]),
    ] {
        let policy = json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"namespace": "x", "name": "p"},
            "spec": {"podSelector": {}, "policyTypes": types, "egress": egress},
        });
        assert_eq!(verdicts(&[policy, peer()], PEER), policed.map(|it| !it), "{types} {egress}");
    }
}

#[test]
fn what_nobody_writes_is_known_all_the_same() {
    for (subject, expected) in [
        ("projectcalico.org/namespace == 'x'", true),
        ("projectcalico.org/serviceaccount == 'default'", true),
        ("projectcalico.org/orchestrator == 'k8s'", true),
        ("told == 'by-runtime'", true),
        ("has(role)", false),
    ] {
        let spec = json!({"selector": subject, "ingress": [{"action": "Deny"}]});
        assert_eq!(verdicts(&[calico(&spec)], PEER), [!expected, true], "{subject}");
    }
    for (namespaces, expected) in [
        ("projectcalico.org/name == 'x'", true),
        ("kubernetes.io/metadata.name == 'x'", true),
        ("all()", true),
        ("global()", false),
        ("!has(anything)", true),
    ] {
        let source = json!({"namespaceSelector": namespaces});
        let spec = json!({"ingress": [{"action": "Deny", "source": source}, {"action": "Allow"}]});
        assert_eq!(verdicts(&[calico(&spec), peer()], PEER), [!expected, true], "{namespaces}");
        assert_eq!(verdicts(&[calico(&spec), peer()], OUTSIDE), [true, true], "{namespaces}");
    }
}

#[test]
fn the_labels_of_a_pods_document_count_before_the_runtimes() {
    let deny = |selector: &str| calico(&json!({"selector": selector, "ingress": [{"action": "Deny"}]}));
    let document = |labels: Value| {
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"namespace": "x", "name": "a", "labels": labels},
            "spec": {"serviceAccountName": "robot"},
            "status": {"podIPs": [{"ip": "10.0.0.77"}]},
        })
    };
    let without = document(json!(null));
    assert_eq!(verdicts(&[deny("has(told)"), without.clone()], PEER), [false, true]);
    assert_eq!(verdicts(&[deny("has(told)"), document(json!({}))], PEER), [true, true]);
    assert_eq!(
        verdicts(&[deny("projectcalico.org/serviceaccount == 'robot'"), without], PEER),
        [false, true]
    );
    // Its address is the endpoint's, not what the document still says.
    let from_pods =
        json!({"ingress": [{"action": "Deny", "source": {"selector": "all()"}}, {"action": "Allow"}]});
    let documents = [calico(&from_pods), document(json!({}))];
    assert_eq!(verdicts(&documents, "10.0.0.77"), [true, true]);
    assert_eq!(verdicts(&documents, "10.0.0.1"), [false, true]);
}

#[test]
fn pods_that_have_ended_or_share_the_hosts_network_have_no_address() {
    let from_peer = calico(
        &json!({"ingress": [{"action": "Deny", "source": {"selector": "role == 'peer'"}}, {"action": "Allow"}]}),
    );
    let with = |change: fn(&mut Value)| {
        let mut pod = peer();
        change(&mut pod);
        verdicts(&[from_peer.clone(), pod], PEER)[0]
    };
    assert!(!with(|_| {}));
    assert!(with(|pod| pod["status"]["phase"] = json!("Succeeded")));
    assert!(with(|pod| pod["status"]["phase"] = json!("Failed")));
    assert!(with(|pod| pod["spec"]["hostNetwork"] = json!(true)));
    assert!(!with(|pod| pod["spec"]["hostNetwork"] = json!(false)));
}

#[test]
fn named_ports_are_of_pods_and_protocols() {
    let rule = |ports| json!({"types": ["Egress"], "egress": [{"action": "Allow", "destination": {"ports": ports}}]});
    let cluster = Cluster::new(&[calico(&rule(json!(["http"]))), peer()], &[local()]);
    for (peer, protocol, port, expected) in [
        (PEER, protocol::TCP, 8080, true),
        (PEER, protocol::TCP, 80, false),
        (PEER, protocol::UDP, 8080, false),
        (OUTSIDE, protocol::TCP, 8080, false),
    ] {
        let flow = Flow { protocol, source_port: 8080, destination_port: port };
        let peer = peer.parse().expect("an address");
        let verdict =
            cluster.verdict(&local().identity(), Direction::Egress, local().addresses[0], peer, flow);
        assert_eq!(verdict, expected, "{peer} {flow}");
    }
}
