//! Ports of the node that lead to containers: who may have which, what CHECK says, and what outlives the daemon.

use anyhow::{Context, Result, ensure};
use integration::{
    needs_root,
    testbed::{Invocation, NODE4, Node, Pod},
};
use serde_json::{Value, json};

fn asking<'n>(invocation: Invocation<'n>, mappings: &Value) -> Invocation<'n> {
    invocation.set("runtimeConfig", json!({"portMappings": mappings}))
}

fn add<'n>(node: &'n Node, name: &str, mappings: &Value) -> Result<Pod<'n>> {
    let sandbox = node.sandbox(name)?;
    let result = asking(sandbox.cni("ADD"), mappings).run()?;
    sandbox.added(result)
}

/// What the daemon has recorded of a pod's ports.
fn recorded(node: &Node, pod: &Pod<'_>) -> Result<Value> {
    Ok(node.ctl(&["endpoint", "show", &pod.ipv4().to_string()])?["port_mappings"].clone())
}

fn web(host_port: u16) -> Value {
    json!({"hostPort": host_port, "containerPort": 80, "protocol": "TCP", "hostIP": ""})
}

#[test]
fn a_port_is_one_containers_until_it_is_deleted() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let first = add(&node, "first", &json!([web(8080), {"containerPort": 81}]))?;
    let expected = json!([{"host_port": 8080, "container_port": 80, "protocol": 6}]);
    ensure!(recorded(&node, &first)? == expected, "{}", recorded(&node, &first)?);

    let second = node.sandbox("second")?;
    let overlapping = json!([{"hostPort": 8080, "containerPort": 80, "hostIP": NODE4}]);
    let refused = asking(second.cni("ADD"), &overlapping).refusal()?;
    ensure!(refused.code == 108, "{refused}");
    let words = ["192.0.2.2:8080/tcp", "8080/tcp leads to", first.name()];
    ensure!(words.iter().all(|word| refused.message.contains(word)), "{refused}");
    ensure!(node.pod_links()?.len() == 1, "{:?}", node.pod_links()?);
    asking(second.cni("ADD"), &json!([{"hostPort": 8080, "containerPort": 80, "protocol": "udp"}])).run()?;
    second.cni("DEL").run()?;

    first.del()?;
    asking(second.cni("ADD"), &overlapping).run()?;
    second.cni("DEL").run()?;
    node.is_left_clean()?;
    Ok(())
}

#[test]
fn garbage_collection_frees_a_port() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let _left = add(&node, "left", &json!([web(8080)]))?;
    let sandbox = node.sandbox("next")?;
    ensure!(asking(sandbox.cni("ADD"), &json!([web(8080)])).refusal()?.code == 108);
    node.cni("GC", "any").set("cni.dev/valid-attachments", json!([])).run()?;
    asking(sandbox.cni("ADD"), &json!([web(8080)])).run()?;
    Ok(())
}

#[test]
fn what_cannot_be_mapped_is_named() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let sandbox = node.sandbox("a")?;
    for (mappings, named) in [
        (json!([{"hostPort": 80}]), "runtimeConfig.portMappings[0].containerPort is missing; it must be"),
        (
            json!([{"hostPort": 80, "containerPort": 1, "protocol": "icmp"}]),
            "portMappings[0].protocol must be",
        ),
        (
            json!([web(80), {"hostPort": 80, "containerPort": 81}]),
            "runtimeConfig.portMappings[1] must not overlap with the mapping 80/tcp",
        ),
    ] {
        let refused = asking(sandbox.cni("ADD"), &mappings).refusal()?;
        ensure!(refused.code == 7 && refused.message.contains(named), "{refused}");
    }
    node.is_left_clean()?;
    Ok(())
}

#[test]
fn check_names_each_port_that_differs() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let pod = add(&node, "a", &json!([web(8080), web(8081)]))?;
    asking(pod.cni("CHECK"), &json!([web(8081), web(8080)])).run().context("as it was added")?;
    let refused = asking(pod.cni("CHECK"), &json!([web(8081), web(8082)])).refusal()?;
    ensure!(refused.code == 104, "{refused}");
    for part in ["lacks the port 8082/tcp to 80", "has the port 8080/tcp to 80"] {
        ensure!(refused.details.contains(part), "{part}: {refused}");
    }
    ensure!(!refused.details.contains("8081"), "{refused}");
    Ok(())
}

#[test]
fn ports_outlive_the_daemon() -> Result<()> {
    needs_root!();
    let node = Node::start()?;
    let mappings =
        json!([web(8080), {"hostPort": 53, "containerPort": 5353, "protocol": "udp", "hostIP": "::"}]);
    let pod = add(&node, "a", &mappings)?;
    let before = recorded(&node, &pod)?;
    ensure!(before.as_array().is_some_and(|ports| ports.len() == 2), "{before}");
    for _ in 0..2 {
        node.kill_daemon();
        node.start_daemon()?;
        ensure!(recorded(&node, &pod)? == before);
        asking(pod.cni("CHECK"), &mappings).run()?;
        let refused = asking(node.sandbox("b")?.cni("ADD"), &json!([web(8080)])).refusal()?;
        ensure!(refused.code == 108, "{refused}");
    }
    // Another ADD is refused and leaves it as it stands.
    ensure!(asking(pod.cni("ADD"), &mappings).refusal()?.code == 107);
    ensure!(recorded(&node, &pod)? == before);
    pod.del()?;
    add(&node, "b", &mappings)?.del()?;
    node.is_left_clean()?;
    Ok(())
}
