//! A service of every sort of address, with two backends and a client.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use integration::testbed::{Answering, Node, Pod};
use serde_json::{Value, json};

use crate::manifests::{endpoint, file, service, slice};

pub const CLUSTER4: &str = "10.96.0.10";
pub const CLUSTER6: &str = "fd00:96::10";
pub const NODE_PORT: u16 = 30_080;
pub const EXTERNAL4: &str = "203.0.113.10";
pub const BALANCER4: &str = "203.0.113.20";

#[expect(clippy::needless_pass_by_value, reason = "addresses are small, and calls read better so")]
pub fn at(address: impl ToString, port: u16) -> SocketAddr {
    SocketAddr::new(address.to_string().parse::<IpAddr>().expect("an address"), port)
}

/// Pods and what they serve.
pub struct Shop<'n> {
    pub client: Pod<'n>,
    pub backends: Vec<Pod<'n>>,
    pub servers: Vec<Answering>,
}

/// Two backends and a client, and a service of every sort of address.
pub fn shop(node: &Node) -> Result<Shop<'_>> {
    shop_of(node, |name| node.add_pod_of(name, &[]))
}

/// The same, of pods that are made otherwise.
pub fn shop_of<'n>(node: &'n Node, make: impl Fn(&str) -> Result<Pod<'n>>) -> Result<Shop<'n>> {
    let backends = vec![make("shop/b1")?, make("shop/b2")?];
    let servers =
        backends.iter().map(|pod| Answering::start(pod, pod.name(), 8080)).collect::<Result<_>>()?;
    let shop = Shop { client: make("shop/client")?, backends, servers };
    shop.serve(node, &json!({}), &json!({}))?;
    Ok(shop)
}

impl Shop<'_> {
    /// Puts the service in force, with more of its `spec` and of all its endpoints.
    pub fn serve(&self, node: &Node, spec: &Value, rest: &Value) -> Result<()> {
        let rests = vec![rest.clone(); self.backends.len()];
        self.serve_each(node, spec, &rests)
    }

    /// The same, with as many backends as there are in `rests`, and more of each.
    pub fn serve_each(&self, node: &Node, more: &Value, rests: &[Value]) -> Result<()> {
        let mut spec = json!({
            "type": "LoadBalancer", "clusterIP": CLUSTER4, "clusterIPs": [CLUSTER4, CLUSTER6],
            "externalIPs": [EXTERNAL4],
            "ports": [
                {"name": "tcp", "port": 80, "targetPort": 8080, "nodePort": NODE_PORT},
                {"name": "udp", "port": 80, "targetPort": 8080, "protocol": "UDP", "nodePort": NODE_PORT},
            ],
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        let mut web = service("web", &spec);
        web["status"] = json!({"loadBalancer": {"ingress": [{"ip": BALANCER4}]}});
        let v4: Vec<_> =
            self.backends.iter().zip(rests).map(|(pod, rest)| endpoint(pod.ipv4(), rest)).collect();
        let v6: Vec<_> =
            self.backends.iter().zip(rests).map(|(pod, rest)| endpoint(pod.ipv6(), rest)).collect();
        node.apply("web.yaml", &file(&[web, slice("web", "IPv4", &v4), slice("web", "IPv6", &v6)]))?;
        Ok(())
    }
}
