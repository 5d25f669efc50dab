//! Ports of the node that lead to one container: CNI's `portMappings`.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration::{
    needs_root,
    testbed::{Answering, Asking, Machine, NEIGHBOUR4, NODE4, NODE6, Node, Pod, eventually},
};
use serde_json::{Value, json};

use crate::shop::at;

fn add<'n>(node: &'n Node, name: &str, mappings: &Value) -> Result<Pod<'n>> {
    let sandbox = node.sandbox(name)?;
    let result = sandbox.cni("ADD").set("runtimeConfig", json!({"portMappings": mappings})).run()?;
    sandbox.added(result)
}

#[test]
fn a_port_of_the_node_leads_to_its_container() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let mapping = |protocol: &str| json!({"hostPort": 8000, "containerPort": 8080, "protocol": protocol});
    let web = add(&node, "web", &json!([mapping("tcp"), mapping("udp")]))?;
    let _server = Answering::start(&web, "web", 8080)?;
    let other = node.add_pod("other")?;
    for to in [at(NODE4, 8000), at(NODE6, 8000)] {
        for answer in
            [node.neighbour.ask_tcp(to)?, node.neighbour.ask_udp(to)?, other.ask_tcp(to)?, node.ask_tcp(to)?]
        {
            ensure!(answer.name == "web" && answer.peer == to, "{answer:?}");
        }
    }
    ensure!(node.neighbour.ask_tcp(at(NODE4, 8000))?.client.ip() == NEIGHBOUR4, "the client is seen");
    ensure!(node.ask_tcp(at("127.0.0.1", 8000))?.name == "web");
    ensure!(web.ask_tcp(at(NODE4, 8000))?.name == "web", "it reaches itself");
    // A daemon that comes anew has it at once.
    node.kill_daemon();
    ensure!(node.neighbour.ask_tcp(at(NODE4, 8000))?.name == "web");
    node.start_daemon()?;
    ensure!(node.neighbour.ask_tcp(at(NODE4, 8000))?.name == "web");
    web.del()?;
    ensure!(node.neighbour.ask_tcp(at(NODE4, 8000)).is_err());
    Ok(())
}

#[test]
fn one_port_may_lead_elsewhere_at_another_address_and_by_another_protocol() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let port = |rest: Value| {
        let mut mapping = json!({"hostPort": 8000, "containerPort": 8080});
        for (key, value) in rest.as_object().into_iter().flatten() {
            mapping[key] = value.clone();
        }
        json!([mapping])
    };
    let first = add(&node, "first", &port(json!({"hostIP": NODE4.to_string()})))?;
    let second = add(&node, "second", &port(json!({"hostIP": "127.0.0.1"})))?;
    let third = add(&node, "third", &port(json!({"hostIP": NODE4.to_string(), "protocol": "UDP"})))?;
    let _servers = [
        Answering::start(&first, "first", 8080)?,
        Answering::start(&second, "second", 8080)?,
        Answering::start(&third, "third", 8080)?,
    ];
    ensure!(node.neighbour.ask_tcp(at(NODE4, 8000))?.name == "first");
    ensure!(node.ask_tcp(at("127.0.0.1", 8000))?.name == "second");
    // Loopback is each namespace's own.
    let other = node.add_pod("other")?;
    for to in ["127.0.0.1", "0.0.0.0", "::ffff:127.0.0.1"] {
        ensure!(other.ask_tcp(at(to, 8000)).is_err(), "{to} of a pod is not the node's");
    }
    ensure!(node.neighbour.ask_udp(at(NODE4, 8000))?.name == "third");
    Ok(())
}

#[test]
fn an_address_that_is_not_the_nodes_is_nobodys_to_map() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let mapping = |ip: &str| json!([{"hostPort": 53, "containerPort": 8080, "hostIP": ip}]);
    for ip in ["192.0.2.99", "10.96.0.10", "8.8.8.8", "fd00:96::10"] {
        let Err(refused) = add(&node, "thief", &mapping(ip)) else { panic!("{ip} is mapped") };
        let said = format!("{refused:#}");
        ensure!(said.contains(ip) && said.contains("is no address of this node"), "{said}");
    }
    // One that comes is served as long as it stays; the container keeps running.
    let uplink = node.status()?["uplinks"][0]["name"].as_str().unwrap_or_default().to_owned();
    let netns = node.netns();
    netns.ip(&format!("addr add 192.0.2.99/24 dev {uplink}"))?;
    let added = eventually(Duration::from_secs(20), || add(&node, "web", &mapping("192.0.2.99")).is_ok());
    ensure!(added, "an address that came is known soon");
    Ok(())
}

#[test]
fn a_port_that_a_process_of_the_node_has_is_refused() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let process = Answering::start(&node, "process", 2222)?;
    for protocol in ["tcp", "udp"] {
        let mapping = json!([{"hostPort": 2222, "containerPort": 8080, "protocol": protocol}]);
        let Err(refused) = add(&node, "web", &mapping) else { panic!("{protocol} is mapped") };
        let said = format!("{refused:#}");
        ensure!(said.contains(&format!("2222/{protocol}")) && said.contains("listens"), "{said}");
    }
    ensure!(node.neighbour.ask_tcp(at(NODE4, 2222))?.name == "process");
    drop(process);
    let web = add(&node, "web", &json!([{"hostPort": 2222, "containerPort": 8080}]))?;
    let _server = Answering::start(&web, "web", 8080)?;
    ensure!(node.neighbour.ask_tcp(at(NODE4, 2222))?.name == "web");
    Ok(())
}

#[test]
fn a_process_that_comes_to_a_port_that_leads_elsewhere_is_told_of() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let _shop = crate::shop::shop(&node)?;
    let _process = Answering::start(&node, "process", crate::shop::NODE_PORT)?;
    let told = || {
        node.status().is_ok_and(|status| {
            let problems = status["problems"].as_array().cloned().unwrap_or_default();
            let text = |it: &Value| it.as_str().unwrap_or_default().to_owned();
            problems.iter().map(text).any(|it| it.contains("listens at") && it.contains("shop/web"))
        })
    };
    // A look may take its share of the time and no more, so a busy machine looks rarely.
    ensure!(eventually(Duration::from_mins(2), told), "{}", node.status()?["problems"]);
    Ok(())
}
