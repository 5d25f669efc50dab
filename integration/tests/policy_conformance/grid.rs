//! Nine pods in three namespaces, all of this node, and who reaches whom.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use integration::oracle::{Cluster, Direction, Flow, Local, generate::id, product::Product, protocol};
use serde_json::{Value, json};

/// A port that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service {
    /// IP protocol number.
    pub protocol: u8,
    /// Its number.
    pub port: u16,
}

/// TCP of that port.
pub fn tcp(port: u16) -> Service {
    Service { protocol: protocol::TCP, port }
}

/// UDP of that port.
pub fn udp(port: u16) -> Service {
    Service { protocol: protocol::UDP, port }
}

/// SCTP of that port.
pub fn sctp(port: u16) -> Service {
    Service { protocol: protocol::SCTP, port }
}

/// A message of ICMP; also of ICMPv6.
pub fn icmp(protocol: u8, kind: u8, code: u8) -> Service {
    Service { protocol, port: u16::from_be_bytes([kind, code]) }
}

fn flow(service: Service) -> Flow {
    Flow { protocol: service.protocol, source_port: 40_000, destination_port: service.port }
}

/// The namespace of `x/a`.
pub fn ns(pod: &str) -> &str {
    pod.split_once('/').map_or(pod, |(namespace, _)| namespace)
}

/// The name of `x/a`.
pub fn name(pod: &str) -> &str {
    pod.split_once('/').map_or(pod, |(_, name)| name)
}

/// The pods, each with 80 and 81 of all three protocols, which have names such as `serve-80-tcp`.
pub struct Grid {
    product: Product,
    documents: Vec<Value>,
    locals: Vec<Local>,
}

const PODS: [&str; 9] = ["x/a", "x/b", "x/c", "y/a", "y/b", "y/c", "z/a", "z/b", "z/c"];

/// An address of a pod: 10.0.<namespace>.<pod>, or fd00::<namespace>:<pod>, both from 1.
pub fn address(pod: &str, v4: bool) -> IpAddr {
    let number = |name: &str, first: u8| name.bytes().next().map_or(0, |it| it - first + 1);
    let (subnet, host) = (number(ns(pod), b'x'), number(name(pod), b'a'));
    let text = if v4 { format!("10.0.{subnet}.{host}") } else { format!("fd00::{subnet}:{host}") };
    text.parse().expect("an address")
}

/// The document of a namespace.
pub fn namespace(name: &str, labels: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
}

/// The document of a pod. The service account of each is called as the pod is.
pub fn pod_document(pod: &str, labels: &Value) -> Value {
    let ports = [80, 81].into_iter().flat_map(|port| {
        ["TCP", "UDP", "SCTP"].map(|protocol| {
            let name = format!("serve-{port}-{}", protocol.to_ascii_lowercase());
            json!({"name": name, "containerPort": port, "protocol": protocol})
        })
    });
    let ips = [true, false].map(|v4| json!({"ip": address(pod, v4).to_string()}));
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": ns(pod), "name": name(pod), "labels": labels},
        "spec": {
            "serviceAccountName": name(pod),
            "containers": [{"name": "agnhost", "ports": ports.collect::<Vec<_>>()}],
        },
        "status": {"phase": "Running", "podIPs": ips},
    })
}

impl Grid {
    /// The pods in a cluster without policies.
    pub fn new() -> Result<Self> {
        let namespaces = ["x", "y", "z"].map(|name| namespace(name, &json!({"ns": name})));
        let pods = PODS.map(|pod| pod_document(pod, &json!({"pod": name(pod)})));
        let documents = namespaces.into_iter().chain(pods).collect::<Vec<_>>();
        let locals = PODS.map(|pod| Local {
            container: pod.replace('/', "-"),
            pod: Some((ns(pod).to_owned(), name(pod).to_owned())),
            labels: [].into(),
            addresses: vec![address(pod, true), address(pod, false)],
        });
        let product = Product::start(&documents, &locals, &[])?;
        let grid = Self { product, documents, locals: locals.to_vec() };
        grid.holds(|_, _, _| true)?;
        Ok(grid)
    }

    /// Puts a document, in place of one of the same id.
    pub fn put(&mut self, document: Value) -> Result<()> {
        self.product.change([], [&document])?;
        self.documents.retain(|it| id(it) != id(&document));
        self.documents.push(document);
        Ok(())
    }

    /// Removes what has the id of a document.
    pub fn remove(&mut self, document: &Value) -> Result<()> {
        self.product.change([document], [])?;
        self.documents.retain(|it| id(it) != id(document));
        Ok(())
    }

    /// Puts a policy in force alone, and compares who reaches whom.
    pub fn alone(&mut self, policy: Value, truth: impl Fn(&str, &str, Service) -> bool) -> Result<()> {
        let known = policy.clone();
        self.put(policy)?;
        self.holds(truth).with_context(|| format!("{known:#}"))?;
        self.remove(&known)
    }

    /// Fails unless this is who reaches whom: from, to, by what. Of a pod and itself nothing is said.
    pub fn holds(&self, truth: impl Fn(&str, &str, Service) -> bool) -> Result<()> {
        let services = [tcp(80), tcp(81), udp(80), udp(81), sctp(80), sctp(81)];
        let cluster = Cluster::new(&self.documents, &self.locals);
        for (from, to) in PODS.iter().flat_map(|from| PODS.map(|to| (*from, to))) {
            if from == to {
                continue;
            }
            for (service, v4) in services.into_iter().flat_map(|it| [(it, true), (it, false)]) {
                let ends = (address(from, v4), address(to, v4));
                let (sent, sent_expected) = self.ask(&cluster, from, Direction::Egress, ends.1, service)?;
                let (got, got_expected) = self.ask(&cluster, to, Direction::Ingress, ends.0, service)?;
                let truth = truth(from, to, service);
                let answers = (sent && got, sent_expected && got_expected);
                ensure!(
                    answers == (truth, truth),
                    "{from} to {to} by {service:?}: not {truth}, but (product, oracle) = {answers:?}"
                );
            }
        }
        Ok(())
    }

    /// Fails unless a flow between a pod and any address passes, or does not.
    pub fn says(
        &self,
        pod: &str,
        direction: Direction,
        peer: &str,
        service: Service,
        passes: bool,
    ) -> Result<()> {
        let cluster = Cluster::new(&self.documents, &self.locals);
        let answers = self.ask(&cluster, pod, direction, peer.parse()?, service)?;
        ensure!(
            answers == (passes, passes),
            "{direction:?} of {pod} with {peer} by {service:?}: not {passes}, but (product, oracle) = {answers:?}"
        );
        Ok(())
    }

    fn ask(
        &self,
        cluster: &Cluster,
        pod: &str,
        direction: Direction,
        peer: IpAddr,
        service: Service,
    ) -> Result<(bool, bool)> {
        let local =
            self.locals.iter().find(|it| it.container == pod.replace('/', "-")).context("no such pod")?;
        let own = address(pod, peer.is_ipv4());
        let (product, _) = self.product.verdict(local, direction, peer, &[], flow(service))?;
        Ok((product, cluster.verdict(&local.identity(), direction, own, peer, flow(service))))
    }
}
