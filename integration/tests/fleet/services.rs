//! Services whose backends are on other nodes, in the subnet and beyond.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};
use integration::{
    fleet::{Fleet, Subnet},
    needs_root,
    testbed::{Asking, Node},
};
use serde_json::{Value, json};

use crate::scene::{ONE, PORT, Serving, THREE, TWO, all_reach_all, in_time, is_seen_as};

/// A service with one backend.
struct Service {
    name: &'static str,
    number: u8,
    node_port: u16,
}

/// Beyond the router, and in the subnet.
const FAR: Service = Service { name: "far", number: 10, node_port: 30_010 };
const NEAR: Service = Service { name: "near", number: 20, node_port: 30_020 };

impl Service {
    fn cluster_ips(&self) -> [IpAddr; 2] {
        let number = self.number;
        [[10, 96, 0, number].into(), [0xfd00, 0x96, 0, 0, 0, 0, 0, number.into()].into()]
    }

    fn put(&self, fleet: &Fleet, backend: &Serving<'_>, node: &str, more: &Value) -> Result<()> {
        let name = self.name;
        let [v4, v6] = self.cluster_ips();
        let ports = json!([
            {"name": "tcp", "port": 80, "nodePort": self.node_port},
            {"name": "udp", "port": 80, "protocol": "UDP", "nodePort": self.node_port},
        ]);
        let mut object = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": name},
            "spec": {"type": "NodePort", "clusterIP": v4, "clusterIPs": [v4, v6], "ports": ports},
        });
        for (key, value) in more.as_object().into_iter().flatten() {
            object["spec"][key] = value.clone();
        }
        fleet.put(&object)?;
        for (family, address) in ["IPv4", "IPv6"].iter().zip(backend.pod.addresses()) {
            fleet.put(&json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
                "metadata": {
                    "namespace": "shop", "name": format!("{name}-{}", family.to_lowercase()),
                    "labels": {"kubernetes.io/service-name": name},
                },
                "ports": [{"name": "tcp", "port": PORT}, {"name": "udp", "port": PORT, "protocol": "UDP"}],
                "endpoints": [{"addresses": [address], "nodeName": node, "conditions": {"ready": true}}],
            }))?;
        }
        Ok(())
    }
}

/// Who is seen by the backend when the router asks for a service at node one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    TheNode,
    TheClient,
}

fn are_served(flags: &[&str], seen: Seen) -> Result<()> {
    let fleet = Fleet::new()?;
    let one = fleet.node("one", ONE, flags)?;
    let two = fleet.node("two", TWO, flags)?;
    let three = fleet.node("three", THREE, flags)?;
    let client = Serving::on(&fleet, &one, "client")?;
    let (near, far) = (Serving::on(&fleet, &two, "near")?, Serving::on(&fleet, &three, "far")?);
    in_time("all reach all", || all_reach_all(&[&client, &near, &far]))?;
    NEAR.put(&fleet, &near, "two", &json!({}))?;
    FAR.put(&fleet, &far, "three", &json!({}))?;

    let router: [IpAddr; 2] = [Subnet::First.router().0.into(), Subnet::First.router().1.into()];
    let of_node: Vec<_> = ONE.addresses().into_iter().chain(ONE.gateways()).collect();
    for service in [&NEAR, &FAR] {
        let name = service.name;
        for to in service.cluster_ips() {
            let to = SocketAddr::new(to, 80);
            in_time(&format!("{name} is in force"), || is_seen_as(&client.pod, to, client.pod.addresses()))?;
            in_time(&format!("{name} from the node"), || is_seen_as(&one, to, &of_node))?;
        }
        let own = if seen == Seen::TheNode { &of_node[..] } else { &router[..] };
        for to in ONE.addresses() {
            let to = SocketAddr::new(to, service.node_port);
            in_time(&format!("{name} from outside"), || is_seen_as(&fleet.router, to, own))?;
            let mut conversation = fleet.router.converse(to)?;
            for _ in 0..3 {
                conversation.carries(20_000).with_context(|| format!("{name} from outside"))?;
            }
        }
        // At other nodes: to them the pod's node is the client, unless the backend's own answers.
        for to in TWO.addresses().into_iter().chain(THREE.addresses()) {
            let to = SocketAddr::new(to, service.node_port);
            let whoever: Vec<_> =
                of_node.iter().copied().chain(TWO.addresses()).chain(TWO.gateways()).collect();
            let whoever: Vec<_> =
                whoever.into_iter().chain(THREE.addresses()).chain(THREE.gateways()).collect();
            in_time(&format!("{name} at another node"), || is_seen_as(&client.pod, to, &whoever))?;
        }
    }
    is_local(&fleet, &far, &three)
}

/// With `externalTrafficPolicy: Local` the backend's node alone serves, and the client is seen.
fn is_local(fleet: &Fleet, far: &Serving<'_>, three: &Node) -> Result<()> {
    FAR.put(fleet, far, "three", &json!({"externalTrafficPolicy": "Local"}))?;
    let router: [IpAddr; 2] = [Subnet::Second.router().0.into(), Subnet::Second.router().1.into()];
    for (there, elsewhere) in THREE.addresses().into_iter().zip(ONE.addresses()) {
        let at = |address| SocketAddr::new(address, FAR.node_port);
        in_time("the client is seen", || is_seen_as(&fleet.router, at(there), &router))?;
        in_time("nobody else serves", || {
            ensure!(fleet.router.ask_tcp(at(elsewhere)).is_err(), "{}", three.log());
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn services_reach_backends_of_other_nodes() -> Result<()> {
    needs_root!();
    are_served(&[], Seen::TheNode)
}

#[test]
fn services_reach_backends_of_other_nodes_packet_by_packet() -> Result<()> {
    needs_root!();
    are_served(&["--socket-lb=off", "--routing=vxlan"], Seen::TheNode)
}

#[test]
fn backends_of_other_nodes_answer_directly_whatever_the_way_to_them() -> Result<()> {
    needs_root!();
    are_served(&["--external-service-mode=dsr"], Seen::TheClient)
}
