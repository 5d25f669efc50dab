//! Policies whose rules name a service.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration::{
    needs_root,
    testbed::{Answering, Asking, Node, Settings, eventually},
};
use serde_json::json;

use crate::shop::{CLUSTER4, CLUSTER6, at, shop};

/// Pods of the namespace may speak to the service `web`, and to nobody else.
const TO_WEB: &str = "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: { namespace: shop, name: to-web }\n\
    spec: { types: [Egress], egress: [ { action: Allow, destination: { services: { name: web } } } ] }\n";

#[test]
fn a_pod_that_may_speak_to_a_service_reaches_its_endpoints_and_nothing_else() -> Result<()> {
    needs_root!();
    for mode in ["on", "off"] {
        let node = Node::start_with(Settings::default().cluster().flag(format!("--socket-lb={mode}")))?;
        let shop = shop(&node)?;
        let other = node.add_pod_of("shop/other", &[])?;
        let _other = Answering::start(&other, other.name(), 8080)?;
        let (first, second) = (&shop.backends[0], &shop.backends[1]);
        let _beside = Answering::start(first, first.name(), 8081)?;
        let reaches = |to| shop.client.ask_tcp(to).is_ok();
        ensure!(reaches(at(other.ipv4(), 8080)) && reaches(at(first.ipv4(), 8081)));
        node.apply("to-web.yaml", TO_WEB)?;
        for to in [at(CLUSTER4, 80), at(CLUSTER6, 80), at(first.ipv4(), 8080), at(second.ipv6(), 8080)] {
            ensure!(reaches(to), "--socket-lb={mode}: {to}");
            shop.client.ask_udp(to)?;
        }
        for to in [at(other.ipv4(), 8080), at(other.ipv6(), 8080), at(first.ipv4(), 8081)] {
            ensure!(!reaches(to), "--socket-lb={mode}: {to}");
        }
        // The second is no endpoint any more.
        shop.serve_each(&node, &json!({}), &[json!({})])?;
        let is_closed = || !reaches(at(second.ipv4(), 8080));
        ensure!(eventually(Duration::from_secs(10), is_closed), "--socket-lb={mode}: it is reached still");
        ensure!(reaches(at(CLUSTER4, 80)), "--socket-lb={mode}");
    }
    Ok(())
}
