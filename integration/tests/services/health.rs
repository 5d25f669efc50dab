//! `healthCheckNodePort`: what a load balancer outside asks the node.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use integration::{
    needs_root,
    testbed::{Machine, NODE4, NODE6, Node, eventually},
};
use serde_json::{Value, json};

use crate::{
    manifests::{file, service},
    shop::{Shop, at, shop},
};

const CHECKED: u16 = 30_900;

/// Asks as a load balancer does; the status and the body.
fn ask(from: &impl Machine, at: SocketAddr) -> io::Result<(u16, String)> {
    from.netns().inside(|| {
        let patience = Duration::from_secs(2);
        let mut stream = TcpStream::connect_timeout(&at, patience)?;
        stream.set_read_timeout(Some(patience))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let wrong = || io::Error::new(io::ErrorKind::InvalidData, text.clone());
        let (head, body) = text.split_once("\r\n\r\n").ok_or_else(wrong)?;
        let status = head.split(' ').nth(1).and_then(|it| it.parse().ok()).ok_or_else(wrong)?;
        Ok((status, body.to_owned()))
    })
}

/// Whether all who may ask hear this, soon.
fn hear(node: &Node, status: u16, endpoints: u64) -> Result<()> {
    for address in [at(NODE4, CHECKED), at(NODE6, CHECKED)] {
        // The port opens on a thread of its own.
        let opened = eventually(Duration::from_secs(5), || {
            ask(&node.neighbour, address).is_ok_and(|(said, _)| said == status)
        });
        ensure!(opened, "{address} does not say {status}: {:?}", ask(&node.neighbour, address));
        for (said, body) in [ask(&node.neighbour, address)?, ask(node, address)?] {
            let body: Value = serde_json::from_str(&body).with_context(|| body.clone())?;
            let service = json!({"namespace": "shop", "name": "web"});
            ensure!(said == status && body["service"] == service, "{said}: {body}");
            ensure!(body["localEndpoints"] == endpoints, "{body}");
        }
    }
    Ok(())
}

fn serve(shop: &Shop<'_>, node: &Node, policy: &str, rests: &[Value]) -> Result<()> {
    let spec = json!({"externalTrafficPolicy": policy, "healthCheckNodePort": CHECKED});
    shop.serve_each(node, &spec, rests)
}

#[test]
fn the_node_says_whether_it_has_endpoints() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let shop = shop(&node)?;
    let elsewhere = json!({"nodeName": "other"});
    serve(&shop, &node, "Local", &[json!({}), elsewhere.clone()])?;
    hear(&node, 200, 1)?;
    serve(&shop, &node, "Local", &[json!({}), json!({})])?;
    hear(&node, 200, 2)?;
    serve(&shop, &node, "Local", &[elsewhere, json!({"conditions": {"ready": false}})])?;
    hear(&node, 503, 0)?;
    serve(&shop, &node, "Local", &[json!({})])?;
    hear(&node, 200, 1)?;
    // Without the daemon nobody answers, and a balancer goes elsewhere; then it is as before.
    node.kill_daemon();
    ensure!(ask(&node.neighbour, at(NODE4, CHECKED)).is_err());
    node.start_daemon()?;
    hear(&node, 200, 1)?;
    serve(&shop, &node, "Cluster", &[json!({})])?;
    let closed = eventually(Duration::from_secs(5), || ask(&node.neighbour, at(NODE4, CHECKED)).is_err());
    ensure!(closed, "any node may be sent to, and none is asked");
    Ok(())
}

#[test]
fn a_port_that_is_claimed_twice_stays_the_first_ones() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let shop = shop(&node)?;
    serve(&shop, &node, "Local", &[json!({})])?;
    hear(&node, 200, 1)?;
    // It comes before the first by its name, and has no endpoints here.
    let spec = json!({
        "type": "LoadBalancer", "clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.5"],
        "externalTrafficPolicy": "Local", "healthCheckNodePort": CHECKED,
    });
    node.apply("a.yaml", &file(&[service("a", &spec)]))?;
    hear(&node, 200, 1)?;
    let problems = node.ctl(&["service", "show", "shop/a"])?["problems"].to_string();
    let said =
        format!("healthCheckNodePort {CHECKED} is that of the service shop/web: give each one of its own");
    ensure!(problems.contains(&said), "{problems}");
    let problems = node.ctl(&["service", "show", "shop/web"])?["problems"].to_string();
    ensure!(!problems.contains("healthCheckNodePort"), "{problems}");
    // Nothing changes for the first when the second goes; and the second gets it when the first goes.
    node.withdraw("a.yaml")?;
    hear(&node, 200, 1)?;
    node.apply("a.yaml", &file(&[service("a", &spec)]))?;
    node.withdraw("web.yaml")?;
    let handed = eventually(Duration::from_secs(5), || {
        ask(&node.neighbour, at(NODE4, CHECKED))
            .is_ok_and(|(status, body)| status == 503 && body.contains("\"a\""))
    });
    ensure!(handed, "{:?}", ask(&node.neighbour, at(NODE4, CHECKED)));
    Ok(())
}
