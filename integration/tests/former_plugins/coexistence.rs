//! A node that has moved beside one that has not: where both route directly, their pods reach each other, and policy knows
//! them.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use integration::{
    fleet::{Fleet, Place, Subnet},
    needs_root,
    testbed::{Machine as _, Netns, eventually},
};
use serde_json::json;

const MOVED: Place = Place::new(Subnet::First, 11);
const UNMOVED: Place = Place::new(Subnet::First, 12);
const POD_OF_UNMOVED: Ipv4Addr = Ipv4Addr::new(10, 244, 12, 5);
/// How long a change may take to be in force, on a machine that runs other tests.
const PATIENCE: Duration = Duration::from_secs(20);

/// A node as Flannel leaves it with direct routes: a bridge, a pod at it, and a route to the other node's pods.
struct Unmoved {
    _node: Netns,
    pod: Netns,
}

impl Unmoved {
    fn new(fleet: &Fleet) -> Result<Self> {
        fleet.register("unmoved", UNMOVED)?;
        let (node, pod) = (Netns::new("unmoved")?, Netns::new("unmovedpod")?);
        let name = |netns: &Netns| -> Result<String> {
            Ok(netns.path().file_name().context("a name")?.to_string_lossy().into_owned())
        };
        let router = fleet.router.netns();
        node.ip(&format!("link add eth0 type veth peer name unmoved netns {}", name(router)?))?;
        router.ip("link set unmoved master lan1 up")?;
        node.ip(&format!("address add {}/24 dev eth0", UNMOVED.ipv4()))?;
        node.ip("link set eth0 up")?;
        node.ip("link add cni0 type bridge")?;
        node.ip("address add 10.244.12.1/24 dev cni0")?;
        node.ip("link set cni0 up")?;
        node.ip(&format!("link add veth7 type veth peer name eth0 netns {}", name(&pod)?))?;
        node.ip("link set veth7 master cni0 up")?;
        node.ip(&format!("route add 10.244.11.0/24 via {}", MOVED.ipv4()))?;
        node.sysctl("net/ipv4/ip_forward", "1")?;
        pod.ip(&format!("address add {POD_OF_UNMOVED}/24 dev eth0"))?;
        pod.ip("link set eth0 up")?;
        pod.ip("route add default via 10.244.12.1")?;
        fleet.put(&json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "old", "namespace": "shop", "uid": "old", "labels": {"app": "old"}},
            "spec": {"nodeName": "unmoved", "containers": []},
            "status": {"podIPs": [{"ip": POD_OF_UNMOVED.to_string()}]},
        }))?;
        Ok(Self { _node: node, pod })
    }
}

/// The address that one is seen with by the other, if it is let in.
fn seen_as(from: &Netns, to: &Netns, address: IpAddr) -> Result<IpAddr> {
    let listener = to.inside(|| TcpListener::bind((address, 8080)))?;
    let target = SocketAddr::new(address, 8080);
    let _stream = from.inside(|| TcpStream::connect_timeout(&target, Duration::from_secs(2)))?;
    Ok(listener.accept()?.1.ip())
}

#[test]
fn pods_of_moved_and_unmoved_nodes_reach_each_other_where_both_route_directly() -> Result<()> {
    needs_root!();
    let fleet = Fleet::new()?;
    let unmoved = Unmoved::new(&fleet)?;
    let moved = fleet.node("moved", MOVED, &[])?;
    let object = |addresses: &[IpAddr]| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "new", "namespace": "shop", "uid": "new", "labels": {"app": "new"}},
            "spec": {"nodeName": "moved", "containers": []},
            "status": {"podIPs": addresses.iter().map(|ip| json!({"ip": ip.to_string()})).collect::<Vec<_>>()},
        })
    };
    fleet.put(&object(&[]))?;
    let pod = moved.kubelet_sandbox("shop/new", "new")?.add()?;
    fleet.put(&object(pod.addresses()))?;
    let address = *pod.addresses().iter().find(|address| address.is_ipv4()).context("an address")?;
    let old = IpAddr::from(POD_OF_UNMOVED);

    let both = || {
        seen_as(pod.netns(), &unmoved.pod, old).is_ok_and(|seen| seen == address)
            && seen_as(&unmoved.pod, pod.netns(), address).is_ok_and(|seen| seen == old)
    };
    ensure!(eventually(PATIENCE, both), "{}", moved.log());

    // The moved pod's policy knows the unmoved one by its labels.
    let guard = |app: &str| {
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "guard", "namespace": "shop"},
            "spec": {
                "podSelector": {"matchLabels": {"app": "new"}},
                "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": app}}}]}],
            },
        })
    };
    let admitted = || seen_as(&unmoved.pod, pod.netns(), address).is_ok();
    fleet.put(&guard("somebody"))?;
    ensure!(eventually(PATIENCE, || !admitted()), "refused");
    fleet.put(&guard("old"))?;
    ensure!(eventually(PATIENCE, admitted), "admitted: {}", moved.log());
    Ok(())
}
