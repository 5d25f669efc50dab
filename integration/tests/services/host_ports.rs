//! Ports of the node that lead to one container: CNI's `portMappings`.

use anyhow::{Result, ensure};
use integration::{
    needs_root,
    testbed::{Answering, Asking, NEIGHBOUR4, NODE4, NODE6, Node, Pod},
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
    ensure!(node.neighbour.ask_udp(at(NODE4, 8000))?.name == "third");
    Ok(())
}
