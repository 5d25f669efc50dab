//! Services of pods whose interfaces another plugin makes.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use integration::{
    needs_root,
    testbed::{Asking, First, NODE4, NODE6, Node, Settings},
};
use serde_json::json;

use crate::shop::{CLUSTER4, CLUSTER6, NODE_PORT, at, shop_of};

fn served(first: First, socket_lb: &str) -> Result<()> {
    let settings = Settings::default().behind_others().cluster().flag(format!("--socket-lb={socket_lb}"));
    let node = Node::start_with(settings)?;
    let shop = shop_of(&node, |name| node.sandbox_of(name, &[])?.add_behind(&node, first))?;
    let own: Vec<IpAddr> = shop.client.addresses().to_vec();
    for to in [at(CLUSTER4, 80), at(CLUSTER6, 80), at(NODE4, NODE_PORT), at(NODE6, NODE_PORT)] {
        for _ in 0..8 {
            let asked = shop.client.ask_tcp(to).and_then(|tcp| Ok([tcp, shop.client.ask_udp(to)?]));
            for answer in asked.with_context(|| format!("{to}: {:?}", node.status()))? {
                ensure!(own.contains(&answer.client.ip()), "{to}: {answer:?}");
            }
            // The node itself, and a backend that may be led to itself.
            node.ask_tcp(to)?;
            shop.backends[0].ask_tcp(to)?;
            shop.backends[0].ask_udp(to)?;
        }
    }
    for to in [at(NODE4, NODE_PORT), at(NODE6, NODE_PORT)] {
        for _ in 0..4 {
            node.neighbour.ask_tcp(to)?;
            node.neighbour.ask_udp(to)?;
        }
    }
    // A connection lives on without the daemon, and with the next one.
    let mut stands = shop.client.converse(at(CLUSTER4, 80))?;
    stands.goes_on()?;
    node.kill_daemon();
    stands.goes_on()?;
    node.start_daemon()?;
    stands.goes_on()?;
    // Without endpoints it is refused at once.
    shop.serve_each(&node, &json!({}), &[])?;
    ensure!(shop.client.ask_tcp(at(CLUSTER4, 80)).is_err());
    Ok(())
}

#[test]
fn pods_behind_a_bridge_are_led_by_their_sockets() -> Result<()> {
    needs_root!();
    served(First::Bridge, "on")
}

#[test]
fn packets_of_pods_behind_a_bridge_are_translated() -> Result<()> {
    needs_root!();
    served(First::Bridge, "off")
}

#[test]
fn packets_of_routed_pods_are_translated() -> Result<()> {
    needs_root!();
    served(First::Ptp, "off")
}
