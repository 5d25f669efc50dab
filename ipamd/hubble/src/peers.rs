//! Where the other nodes are, for Hubble's relay, which asks one node for all of them.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use ipamd_model::objects::{Change, Kind, Object};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::{
    cluster_name::CLUSTER,
    proto::peer::{ChangeNotification, ChangeNotificationType, NotifyRequest, Tls, peer_server},
};

/// How many notifications wait for a client that reads slowly. What has changed meanwhile is told as it is then.
const WAITING: usize = 64;

/// The nodes by name, with the address that others reach them at.
pub type Nodes = BTreeMap<Arc<str>, IpAddr>;

/// The nodes of the cluster.
#[derive(Debug, Default)]
pub struct Peers {
    /// Changed as a whole, so that whoever reads has no lock for long.
    nodes: watch::Sender<Arc<Nodes>>,
    changing: Mutex<()>,
}

impl Peers {
    /// Applies changes of the cluster.
    pub fn apply(&self, changes: &[Change]) {
        if !changes.iter().any(|it| it.kind() == Kind::Node) {
            return;
        }
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut nodes = Nodes::clone(&self.nodes.borrow());
        for change in changes {
            match change {
                Change::Put(Object::Node(node)) => {
                    match node.internal.first().or_else(|| node.addresses.first()) {
                        Some(address) => nodes.insert(Arc::clone(&node.name), *address),
                        None => nodes.remove(&node.name),
                    };
                }
                Change::Remove(id) if id.kind == Kind::Node => {
                    nodes.remove(&id.name);
                }
                _ => {}
            }
        }
        if nodes != **self.nodes.borrow() {
            self.nodes.send_replace(Arc::new(nodes));
        }
    }
}

/// How nodes are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// By TLS at this port, which is the same on all nodes.
    Tls(u16),
    /// No node is reached but by its own socket, so this node's peers are none.
    Locally,
}

/// Tells clients of the nodes.
#[derive(Clone, Debug)]
pub struct PeerService {
    peers: Arc<Peers>,
    reached: Reached,
}

impl PeerService {
    /// Tells of those nodes.
    pub fn new(peers: Arc<Peers>, reached: Reached) -> Self {
        Self { peers, reached }
    }
}

#[tonic::async_trait]
impl peer_server::Peer for PeerService {
    type NotifyStream = ReceiverStream<Result<ChangeNotification, Status>>;

    async fn notify(&self, _: Request<NotifyRequest>) -> Result<Response<Self::NotifyStream>, Status> {
        let (told, received) = mpsc::channel(WAITING);
        let mut nodes = self.peers.nodes.subscribe();
        let reached = self.reached;
        tokio::spawn(async move {
            let mut known = Arc::<Nodes>::default();
            loop {
                let now = Arc::clone(&nodes.borrow_and_update());
                for notification in changes(&known, &now, reached) {
                    if told.send(Ok(notification)).await.is_err() {
                        return;
                    }
                }
                known = now;
                tokio::select! {
                    changed = nodes.changed() => if changed.is_err() { return },
                    () = told.closed() => return,
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(received)))
    }
}

/// What a client that knows of some nodes is told, so that it knows of these.
fn changes(known: &Nodes, now: &Nodes, reached: Reached) -> Vec<ChangeNotification> {
    let Reached::Tls(port) = reached else { return Vec::new() };
    let told = |name: &str, address: IpAddr, change: ChangeNotificationType| ChangeNotification {
        name: name.to_owned(),
        address: std::net::SocketAddr::new(address, port).to_string(),
        r#type: change.into(),
        tls: Some(Tls { server_name: server_name(name) }),
    };
    let gone = known.iter().filter(|(name, _)| !now.contains_key(*name));
    let gone = gone.map(|(name, address)| told(name, *address, ChangeNotificationType::PeerDeleted));
    let there = now.iter().filter_map(|(name, address)| match known.get(name) {
        None => Some(told(name, *address, ChangeNotificationType::PeerAdded)),
        Some(before) if before != address => Some(told(name, *address, ChangeNotificationType::PeerUpdated)),
        Some(_) => None,
    });
    gone.chain(there).collect()
}

/// The name that a node's certificate is for, as with Cilium. A dot would make it another level, which a wildcard does not cover.
fn server_name(node: &str) -> String {
    format!("{}.{CLUSTER}.hubble-grpc.cilium.io", node.replace('.', "-"))
}

#[cfg(test)]
mod tests {
    use ipamd_model::objects::{Node, ObjectId};

    use super::*;

    fn node(name: &str, last: u8) -> Change {
        Change::Put(Object::Node(Node {
            name: name.into(),
            labels: [("a", "b")].into_iter().collect(),
            addresses: vec![[203, 0, 113, last].into()],
            internal: vec![[192, 0, 2, last].into()],
            pod_cidrs: Vec::new(),
        }))
    }

    fn told(known: &Nodes, now: &Nodes) -> Vec<(String, String, i32)> {
        let changes = changes(known, now, Reached::Tls(4244));
        changes.into_iter().map(|it| (it.name, it.address, it.r#type)).collect()
    }

    #[test]
    fn a_client_is_told_what_has_changed_since_it_was_told() {
        let peers = Peers::default();
        let now = || Arc::clone(&peers.nodes.borrow());
        let none = now();
        peers.apply(&[node("a", 1), node("b.example", 2)]);
        let two = now();
        let expected =
            [("a".into(), "192.0.2.1:4244".into(), 1), ("b.example".into(), "192.0.2.2:4244".into(), 1)];
        assert_eq!(told(&none, &two), expected);
        peers.apply(&[node("a", 3), Change::Remove(ObjectId::global(Kind::Node, "b.example")), node("c", 4)]);
        let expected = [
            ("b.example".into(), "192.0.2.2:4244".into(), 2),
            ("a".into(), "192.0.2.3:4244".into(), 3),
            ("c".into(), "192.0.2.4:4244".into(), 1),
        ];
        assert_eq!(told(&two, &now()), expected);
        assert_eq!(changes(&none, &two, Reached::Locally), []);
        assert_eq!(server_name("b.example"), "b-example.default.hubble-grpc.cilium.io");
    }
}
