//! Rules that mean the endpoints of Services.

use super::*;

/// An EndpointSlice of `n/db`: 10.0.1.`last` on port 5432.
fn slice(name: &str, last: u8, port: u16) -> String {
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
         metadata: {{ namespace: n, name: {name}, labels: {{ kubernetes.io/service-name: db }} }}\n\
         ports: [ {{ port: {port} }} ]\nendpoints: [ {{ addresses: [ 10.0.1.{last} ] }} ]\n"
    )
}

fn policy(spec: &str) -> String {
    format!(
        "---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{ name: g }}\n\
         spec: {{ selector: app == 'guarded', {spec} }}\n"
    )
}

const TO_DB: &str = "egress: [ { action: Allow, destination: { services: { name: db, namespace: n } } } ]";
const FROM_DB: &str = "ingress: [ { action: Allow, source: { services: { name: db, namespace: n } } } ]";

#[test]
fn egress_to_a_service_is_to_the_ports_of_its_endpoints() {
    let cluster = policy(&format!("types: [Egress], {TO_DB}")) + &slice("db-1", 1, 5432);
    let bench = Bench::started(ROOM, &[local(1, "guarded")], &cluster);
    assert!(bench.passes("n/p1", "10.0.1.1", 5432));
    assert!(!bench.passes("n/p1", "10.0.1.1", 80) && !bench.passes("n/p1", "10.0.1.2", 5432));
    // Another slice of it, whose endpoint has another port.
    bench.apply(&slice("db-2", 2, 5433));
    assert!(bench.passes("n/p1", "10.0.1.2", 5433) && !bench.passes("n/p1", "10.0.1.2", 5432));
    assert!(bench.passes("n/p1", "10.0.1.1", 5432) && !bench.passes("n/p1", "10.0.1.1", 5433));
    // An endpoint moves, and a slice goes.
    bench.apply(&slice("db-1", 3, 5432));
    assert!(bench.passes("n/p1", "10.0.1.3", 5432) && !bench.passes("n/p1", "10.0.1.1", 5432));
    bench.remove(Kind::EndpointSlice, "db-2");
    assert!(!bench.passes("n/p1", "10.0.1.2", 5433));
}

#[test]
fn ingress_from_a_service_is_from_its_endpoints_whatever_their_ports() {
    let cluster = policy(&format!("types: [Ingress], {FROM_DB}")) + &slice("db-1", 1, 5432);
    let bench = Bench::started(ROOM, &[local(1, "guarded")], &cluster);
    assert!(bench.passes("10.0.1.1", "n/p1", 80) && !bench.passes("10.0.1.2", "n/p1", 80));
}

#[test]
fn endpoints_count_as_long_as_a_rule_names_their_service() {
    let cluster =
        slice("db-1", 1, 5432) + &slice("other", 2, 80).replace("service-name: db", "service-name: other");
    let bench = Bench::started(ROOM, &[local(1, "guarded")], &cluster);
    assert_eq!(bench.apply(&slice("db-1", 2, 5432)).writes, Writes::default());
    assert!(bench.tables.peers().keys().all(|net| !net.to_string().starts_with("10.0.1.")));
    bench.apply(&policy(&format!("types: [Egress], {TO_DB}")));
    assert!(bench.passes("n/p1", "10.0.1.2", 5432) && !bench.passes("n/p1", "10.0.1.2", 80));
    assert_eq!(bench.apply(&slice("db-1", 1, 5432)).writes.peers, 2, "one comes and one goes");
    bench.remove(Kind::GlobalNetworkPolicy, "g");
    assert!(bench.passes("n/p1", "10.0.1.2", 80));
    assert!(bench.tables.peers().keys().all(|net| !net.to_string().starts_with("10.0.1.")));
    // A policy in place of another one that names the same service changes nothing of its endpoints.
    bench.apply(&policy(&format!("types: [Egress], {TO_DB}")));
    bench.apply(&policy(&format!("order: 5, types: [Egress], {TO_DB}")));
    assert!(bench.passes("n/p1", "10.0.1.1", 5432));
}

/// A selector of pods and network sets finds no endpoints by the label of their slice.
#[test]
fn endpoints_are_no_pods() {
    let by_label =
        "egress: [ { action: Allow, destination: { selector: has(kubernetes.io/service-name) } } ]";
    let other = policy(&format!("types: [Ingress], {FROM_DB}")).replace("name: g", "name: h");
    let cluster = policy(&format!("types: [Egress], {by_label}")) + &other + &slice("db-1", 1, 5432);
    let bench = Bench::started(ROOM, &[local(1, "guarded")], &cluster);
    assert!(!bench.passes("n/p1", "10.0.1.1", 5432));
}
