//! The other nodes of the cluster, as its source tells of them, for whoever leads packets there.

use std::{
    collections::BTreeSet,
    io::{self, PipeReader, PipeWriter, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ipnetwork::IpNetwork;
use tokio::sync::Notify;

use ipamd_model::objects::{Change, Kind, Node, Nodes, Object};

/// The other nodes.
#[derive(Debug)]
pub struct Peers {
    own: Box<str>,
    own_came: Notify,
    own_moved: Notify,
    nodes: Mutex<Arc<Nodes>>,
    wake: PipeWriter,
    woken: Mutex<Option<PipeReader>>,
}

impl Peers {
    /// None yet; `own` is this node.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn new(own: &str) -> io::Result<Self> {
        let (woken, wake) = io::pipe()?;
        // A pipe that is full has woken already.
        nix::fcntl::fcntl(&wake, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
        Ok(Self {
            own: own.into(),
            own_came: Notify::new(),
            own_moved: Notify::new(),
            nodes: Mutex::default(),
            wake,
            woken: Mutex::new(Some(woken)),
        })
    }

    /// Takes changes of the cluster in, of which those of nodes matter.
    pub fn apply(&self, changes: &[Change]) {
        if !changes.iter().any(|change| matches!(change, Change::Put(Object::Node(_))) || is_removal(change))
        {
            return;
        }
        let mut nodes = self.nodes();
        let mut moved = false;
        for change in changes {
            match change {
                Change::Put(Object::Node(node))
                    if nodes.get(&node.name).is_none_or(|it| !same_place(it, node)) =>
                {
                    let before =
                        Arc::make_mut(&mut nodes).insert(Arc::clone(&node.name), Arc::new(node.clone()));
                    if *node.name == *self.own {
                        self.own_moved.notify_one();
                        if before.is_none() {
                            self.own_came.notify_one();
                        }
                    }
                    moved = true;
                }
                Change::Remove(id) if id.kind == Kind::Node => {
                    let is_known = Arc::make_mut(&mut nodes).remove(&id.name).is_some();
                    if is_known && *id.name == *self.own {
                        self.own_moved.notify_one();
                    }
                    moved |= is_known;
                }
                _ => {}
            }
        }
        drop(nodes);
        if moved {
            // See above.
            let _ = (&self.wake).write(&[0]);
        }
    }

    /// All nodes now.
    pub fn all(&self) -> Arc<Nodes> {
        Arc::clone(&self.nodes())
    }

    /// Waits until this node has an object in the cluster that it had not before.
    pub async fn own_came(&self) {
        self.own_came.notified().await;
    }

    /// Waits until this node's object says that its pods have their addresses from other prefixes than these, and returns it.
    /// Without an object there are none.
    pub async fn own_cidrs_differ(&self, cidrs: &BTreeSet<IpNetwork>) -> Option<Arc<Node>> {
        loop {
            // Told from here on, whatever is said while the object is looked at.
            let moved = self.own_moved.notified();
            let own = self.all().get(&*self.own).map(Arc::clone);
            let said: BTreeSet<_> = own.iter().flat_map(|node| node.pod_cidrs.iter().copied()).collect();
            if said != *cidrs {
                return own;
            }
            moved.await;
        }
    }

    /// What becomes readable when nodes change; for one listener.
    pub fn woken(&self) -> Option<PipeReader> {
        self.woken.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn nodes(&self) -> MutexGuard<'_, Arc<Nodes>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_removal(change: &Change) -> bool {
    matches!(change, Change::Remove(id) if id.kind == Kind::Node)
}

/// Whether packets reach both in the same way.
fn same_place(a: &Node, b: &Node) -> bool {
    (&a.addresses, &a.internal, &a.pod_cidrs) == (&b.addresses, &b.internal, &b.pod_cidrs)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use ipamd_model::objects::ObjectId;

    fn node(name: &str, address: &str, label: &str) -> Change {
        Change::Put(Object::Node(Node {
            name: name.into(),
            labels: [("l", label)].into_iter().collect(),
            addresses: Vec::new(),
            internal: vec![address.parse().unwrap()],
            pod_cidrs: Vec::new(),
        }))
    }

    #[tokio::test]
    async fn other_prefixes_of_this_node_are_waited_for() {
        let with = |cidrs: &[&str]| match node("a", "10.0.0.1", "x") {
            Change::Put(Object::Node(node)) => {
                let pod_cidrs = cidrs.iter().map(|it| it.parse().unwrap()).collect();
                Change::Put(Object::Node(Node { pod_cidrs, ..node }))
            }
            other => other,
        };
        let peers = Peers::new("a").unwrap();
        let now = BTreeSet::from(["10.1.0.0/24".parse().unwrap()]);
        let differ = async |peers: &Peers| {
            tokio::time::timeout(std::time::Duration::from_millis(20), peers.own_cidrs_differ(&now))
                .await
                .is_ok()
        };
        for (change, expected) in [
            (with(&["10.1.0.0/24"]), false),
            (with(&[]), true),
            (Change::Remove(ObjectId::global(Kind::Node, "a")), true),
            (with(&["10.2.0.0/24"]), true),
        ] {
            peers.apply(&[change]);
            assert_eq!(differ(&peers).await, expected);
        }
    }

    #[test]
    fn only_what_leads_packets_elsewhere_wakes() {
        let peers = Peers::new("a").unwrap();
        let mut woken = peers.woken().unwrap();
        assert!(peers.woken().is_none());
        peers.apply(&[node("a", "10.0.0.1", "x"), node("b", "10.0.0.2", "x")]);
        assert_eq!(woken.read(&mut [0; 8]).unwrap(), 1);
        peers.apply(&[node("a", "10.0.0.1", "y"), Change::Remove(ObjectId::global(Kind::Node, "c"))]);
        peers.apply(&[Change::Remove(ObjectId::global(Kind::Node, "b"))]);
        assert_eq!(woken.read(&mut [0; 8]).unwrap(), 1);
        assert_eq!(peers.all().keys().map(|it| &**it).collect::<Vec<_>>(), ["a"]);
    }
}
