//! Policy between nodes: whatever way a packet takes, its true sender is policed, at both ends.

use std::{net::IpAddr, time::Duration};

use anyhow::{Result, ensure};
use integration::{
    fleet::{Fleet, Placed},
    needs_root,
    testbed::{Flowing, Machine, Node, allowed, case, denied, eventually, hold, tcp, udp},
};
use serde_json::{Value, json};

use crate::scene::{ONE, PATIENCE, PORT, Serving, THREE, TWO, all_reach_all, in_time};

const FLOW: u16 = 9000;

/// A policy for one pod of `shop`.
fn policy(app: &str, spec: &Value) -> Value {
    let mut object = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": format!("of-{app}"), "namespace": "shop"},
        "spec": {"podSelector": {"matchLabels": {"app": app}}},
    });
    for (key, value) in spec.as_object().into_iter().flatten() {
        object["spec"][key] = value.clone();
    }
    object
}

fn from(peers: &Value) -> Value {
    json!({"ingress": [{"from": peers}]})
}

struct Scene {
    fleet: Fleet,
    nodes: [Node; 3],
}

impl Scene {
    fn new(flags: &[&str]) -> Result<Self> {
        let fleet = Fleet::new()?;
        fleet.put(&json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop", "labels": {"team": "shop"}},
        }))?;
        let nodes = [("one", ONE), ("two", TWO), ("three", THREE)];
        let [one, two, three] = nodes.map(|(name, place)| fleet.node(name, place, flags));
        Ok(Self { nodes: [one?, two?, three?], fleet })
    }

    fn pods(&self) -> Result<[Serving<'_>; 3]> {
        let [one, two, three] = &self.nodes;
        let pods = [
            Serving::on(&self.fleet, one, "a")?,
            Serving::on(&self.fleet, two, "b")?,
            Serving::on(&self.fleet, three, "c")?,
        ];
        in_time("all reach all", || all_reach_all(&pods.iter().collect::<Vec<_>>()))?;
        Ok(pods)
    }
}

fn is_policed(flags: &[&str]) -> Result<()> {
    let it = Scene::new(flags)?;
    let [a, b, c] = it.pods()?;
    let [one, two, three] = &it.nodes;
    let service = tcp(PORT);

    // At the receiver: one pod, by its label. Nodes are peers as all others, but a pod's own node.
    for (app, friend) in [("c", "a"), ("b", "a")] {
        it.fleet.put(&policy(app, &from(&json!([{"podSelector": {"matchLabels": {"app": friend}}}]))))?;
    }
    in_time("the receivers guard themselves", || {
        let mut table = allowed(&a.pod, &c.pod, service);
        table.extend(allowed(&a.pod, &b.pod, udp(PORT)));
        table.extend(denied(&b.pod, &c.pod, service));
        table.extend(denied(&c.pod, &b.pod, service));
        for (node, pod) in [(one, &c), (one, &b), (two, &c), (three, &b)] {
            table.extend(denied(node, &pod.pod, service));
        }
        table.extend(allowed(three, &c.pod, service));
        table.extend(allowed(two, &b.pod, service));
        hold(table)
    })?;

    // By the namespace's labels, and by prefixes: of pods, and of nodes. Through the overlay a node has the address of its
    // pods' gateway.
    let of_node = |node: IpAddr| json!({"ipBlock": {"cidr": format!("{node}/{}", if node.is_ipv4() { 32 } else { 128 })}});
    it.fleet.put(&policy("b", &from(&json!([{"namespaceSelector": {"matchLabels": {"team": "shop"}}}]))))?;
    let gateways: Vec<_> = ONE.gateways().into_iter().chain(ONE.addresses()).map(of_node).collect();
    let mut blocks = gateways.clone();
    blocks.push(of_node(b.pod.ipv4().into()));
    it.fleet.put(&policy("c", &from(&json!(blocks))))?;
    in_time("the receivers guard themselves otherwise", || {
        let mut table = allowed(&a.pod, &b.pod, service);
        table.extend(allowed(&c.pod, &b.pod, service));
        table.extend(denied(one, &b.pod, service));
        table.extend(allowed(one, &c.pod, service));
        table.extend(denied(two, &c.pod, service));
        table.extend(denied(&a.pod, &c.pod, service));
        table.extend([
            case(&b.pod, c.pod.ipv4().into(), service, true, "c"),
            case(&b.pod, c.pod.ipv6().into(), service, false, "c"),
        ]);
        hold(table)
    })?;
    for app in ["b", "c"] {
        it.fleet.delete(&policy(app, &json!({})))?;
    }

    // At the sender: one pod, and one node by its addresses.
    let to: Vec<_> = THREE.addresses().into_iter().map(of_node).collect();
    let mut to = json!(to);
    to.as_array_mut()
        .into_iter()
        .for_each(|to| to.push(json!({"podSelector": {"matchLabels": {"app": "c"}}})));
    it.fleet.put(&policy("a", &json!({"policyTypes": ["Egress"], "egress": [{"to": to}]})))?;
    let _of_nodes =
        [two.serve(&TWO.addresses(), &[tcp(443)])?, three.serve(&THREE.addresses(), &[tcp(443)])?];
    in_time("the sender is guarded", || {
        let mut table = allowed(&a.pod, &c.pod, service);
        table.extend(denied(&a.pod, &b.pod, service));
        table.extend(allowed(&b.pod, &a.pod, service));
        table.extend(allowed(&a.pod, &Placed(three, THREE), tcp(443)));
        table.extend(denied(&a.pod, &Placed(two, TWO), tcp(443)));
        hold(table)
    })
}

#[test]
fn policy_holds_directly_and_through_the_overlay() -> Result<()> {
    needs_root!();
    is_policed(&[])
}

#[test]
fn policy_holds_through_the_overlay_alone() -> Result<()> {
    needs_root!();
    is_policed(&["--routing=vxlan"])
}

#[test]
fn a_change_of_policy_reaches_connections_between_nodes() -> Result<()> {
    needs_root!();
    let it = Scene::new(&[])?;
    let [a, b, c] = it.pods()?;
    let pace = Duration::from_millis(5);
    let ends = [(&a, &c, 0), (&a, &c, 1), (&a, &b, 0), (&a, &b, 1)];
    let flows =
        ends.map(|(from, to, family)| from.pod.tcp_flow(&to.pod, (to.pod.addresses()[family], FLOW), pace));
    let flows = flows.into_iter().collect::<Result<Vec<_>>>()?;
    ensure!(flows.iter().all(integration::testbed::Flow::goes_on));
    for (app, directions) in [("a", "Egress"), ("b", "Ingress"), ("c", "Ingress")] {
        let closed = policy(app, &json!({"policyTypes": [directions]}));
        it.fleet.put(&closed)?;
        let concerned: Vec<_> = match app {
            "a" => flows.iter().collect(),
            "b" => flows[2..].iter().collect(),
            _ => flows[..2].iter().collect(),
        };
        let silent = || concerned.iter().all(|flow| flow.is_silent_for(Duration::from_millis(500)));
        ensure!(eventually(PATIENCE, silent), "{app} is closed, and connections go on");
        it.fleet.delete(&closed)?;
        ensure!(
            eventually(PATIENCE, || concerned.iter().all(|flow| flow.goes_on())),
            "{app} is open again: {:?}",
            concerned.iter().map(|flow| flow.faults()).collect::<Vec<_>>()
        );
    }
    for flow in flows {
        flow.end().whole("a connection")?;
    }
    Ok(())
}
