//! What `cambricctl service` tells.

use anyhow::{Context, Result, ensure};
use integration::{
    needs_root,
    testbed::{Asking, NODE4, Node},
};
use serde_json::{Value, json};

use crate::{
    manifests::{file, service, slice},
    shop::{BALANCER4, CLUSTER4, CLUSTER6, EXTERNAL4, NODE_PORT, at, shop},
};

/// The ports of a service, and the backends of its port of TCP with this family's addresses.
fn backends(detail: &Value, v4: bool) -> Vec<Value> {
    let ports = detail["ports"].as_array().into_iter().flatten().filter(|port| port["protocol"] == "TCP");
    let all = ports.flat_map(|port| port["backends"].as_array().into_iter().flatten());
    all.filter(|it| it["address"].as_str().is_some_and(|it| it.contains('.') == v4)).cloned().collect()
}

#[test]
fn a_service_is_told_with_its_backends_and_their_hits() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let shop = shop(&node)?;
    let terminating = json!({"conditions": {"ready": false, "serving": true, "terminating": true}});
    let elsewhere = json!({"nodeName": "other", "conditions": {"ready": false}});
    shop.serve_each(&node, &json!({}), &[json!({})])?;
    for to in [at(CLUSTER4, 80), at(EXTERNAL4, 80), at(NODE4, NODE_PORT)] {
        for _ in 0..3 {
            shop.client.ask_tcp(to)?;
        }
    }
    for _ in 0..4 {
        node.neighbour.ask_tcp(at(NODE4, NODE_PORT))?;
    }
    shop.serve_each(&node, &json!({}), &[terminating, elsewhere])?;

    let list = node.ctl(&["service", "list"])?;
    let web = list.as_array().and_then(|all| all.iter().find(|it| it["name"] == "web")).context("web")?;
    ensure!(web["cluster_ips"] == json!([CLUSTER4, CLUSTER6]), "{web}");
    ensure!(
        web["external_ips"] == json!([EXTERNAL4]) && web["load_balancer_ips"] == json!([BALANCER4]),
        "{web}"
    );
    ensure!(web["backends"] == json!({"ready": 0, "all": 4}), "two families, two pods: {web}");
    ensure!(web["hits"] == 13, "nine from inside and four from outside: {web}");

    let detail = node.ctl(&["service", "show", "shop/web"])?;
    let [first, second] = &backends(&detail, true)[..] else { panic!("{detail}") };
    let (first, second) =
        if first["address"] == json!(shop.backends[0].ipv4()) { (first, second) } else { (second, first) };
    ensure!(
        first["hits"] == 13 && first["local"] == true && first["state"] == "terminating-serving",
        "{first}"
    );
    ensure!(second["hits"] == 0 && second["local"] == false && second["state"] == "not-ready", "{second}");
    ensure!(second["node"] == "other", "{second}");
    let frontends = detail["ports"][0]["frontends"].to_string();
    for address in [CLUSTER4, EXTERNAL4, BALANCER4, "0.0.0.0"] {
        ensure!(frontends.contains(&format!("\"{address}\"")), "{address} in {frontends}");
    }

    let table = node.ctl_output(&["service", "show", "shop/web"])?;
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    for words in ["shop/web", "30080", "terminating", "other", CLUSTER6, "13"] {
        ensure!(table.contains(words), "{words} in {table}");
    }
    Ok(())
}

#[test]
fn what_is_wrong_with_a_service_is_told() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let _shop = shop(&node)?;
    let spec = json!({
        "type": "NodePort", "clusterIP": "10.96.0.77", "clusterIPs": ["10.96.0.77"],
        "ports": [{"name": "tcp", "port": 80, "nodePort": NODE_PORT}],
    });
    node.apply("zoo.yaml", &file(&[service("zoo", &spec)]))?;
    let zoo = node.ctl(&["service", "show", "shop/zoo"])?;
    let problems = zoo["problems"].to_string();
    ensure!(problems.contains(&format!("port {NODE_PORT}")), "{zoo}");
    ensure!(zoo["problem_count"].as_u64() >= Some(1), "{zoo}");
    ensure!(zoo["ports"][0]["backends"] == json!([]), "{zoo}");
    let table = node.ctl_output(&["service", "list"])?;
    ensure!(String::from_utf8_lossy(&table.stdout).contains("zoo"), "{table:?}");

    let missing = node.ctl_output(&["service", "show", "shop/nobody"])?;
    ensure!(!missing.status.success(), "{missing:?}");
    let said = String::from_utf8_lossy(&missing.stderr).into_owned();
    ensure!(said.contains("there is no service shop/nobody"), "{said}");
    Ok(())
}

#[test]
fn endpoints_that_none_can_be_are_told_and_never_met() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let shop = shop(&node)?;
    let special = ["127.0.0.1", "169.254.169.254", "224.0.0.1", "0.0.0.0", "255.255.255.255"];
    let mut endpoints: Vec<_> =
        special.iter().map(|it| json!({"addresses": [it], "conditions": {"ready": true}})).collect();
    endpoints.push(json!({"addresses": [shop.backends[0].ipv4()], "nodeName": "node"}));
    let spec = json!({"clusterIP": "10.96.0.50", "clusterIPs": ["10.96.0.50"], "externalIPs": ["127.0.0.1"]});
    node.apply("odd.yaml", &file(&[service("odd", &spec), slice("odd", "IPv4", &endpoints)]))?;
    for _ in 0..16 {
        ensure!(shop.client.ask_tcp(at("10.96.0.50", 80))?.name == shop.backends[0].name());
    }
    let detail = node.ctl(&["service", "show", "shop/odd"])?;
    ensure!(detail["backends"]["all"] == 1, "{detail}");
    let problems = detail["problems"].to_string();
    for address in special {
        ensure!(problems.contains(address), "{address} in {problems}");
    }
    ensure!(problems.contains("spec.externalIPs[0]: 127.0.0.1 is a loopback address"), "{problems}");
    Ok(())
}
