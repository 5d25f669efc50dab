//! The nodes of the cluster with their addresses and pod CIDRs, from which the reconciliation makes routes.

use std::{
    collections::BTreeSet,
    io::{self, PipeReader, PipeWriter, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ipnetwork::IpNetwork;
use tokio::sync::Notify;

use ipamd_model::objects::{Change, Kind, Node, Nodes, Object};

/// The nodes of the cluster.
#[derive(Debug)]
pub struct RemoteNodes {
    own: Box<str>,
    own_node_added: Notify,
    own_node_changed: Notify,
    nodes: Mutex<Arc<Nodes>>,
    wake: PipeWriter,
    woken: Mutex<Option<PipeReader>>,
}

impl RemoteNodes {
    /// No nodes yet; `own` is the name of this node.
    ///
    /// # Errors
    /// There are no descriptors left.
    pub fn new(own: &str) -> io::Result<Self> {
        let (woken, wake) = io::pipe()?;
        // If the pipe is full, its reader has been woken already.
        nix::fcntl::fcntl(&wake, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
        Ok(Self {
            own: own.into(),
            own_node_added: Notify::new(),
            own_node_changed: Notify::new(),
            nodes: Mutex::default(),
            wake,
            woken: Mutex::new(Some(woken)),
        })
    }

    /// Applies changes of the cluster. Only those of nodes matter.
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
                    if nodes.get(&node.name).is_none_or(|it| !same_routes(it, node)) =>
                {
                    let before =
                        Arc::make_mut(&mut nodes).insert(Arc::clone(&node.name), Arc::new(node.clone()));
                    if *node.name == *self.own {
                        self.own_node_changed.notify_one();
                        if before.is_none() {
                            self.own_node_added.notify_one();
                        }
                    }
                    moved = true;
                }
                Change::Remove(id) if id.kind == Kind::Node => {
                    let is_known = Arc::make_mut(&mut nodes).remove(&id.name).is_some();
                    if is_known && *id.name == *self.own {
                        self.own_node_changed.notify_one();
                    }
                    moved |= is_known;
                }
                _ => {}
            }
        }
        drop(nodes);
        if moved {
            self.wake();
        }
    }

    /// Makes the pipe readable: something has changed that the reconciliation applies.
    pub fn wake(&self) {
        // If the pipe is full, its reader has been woken already.
        let _ = (&self.wake).write(&[0]);
    }

    /// All nodes now.
    pub fn all(&self) -> Arc<Nodes> {
        Arc::clone(&self.nodes())
    }

    /// Waits until this node's Node appears in the cluster, also after it was deleted.
    pub async fn own_node_added(&self) {
        self.own_node_added.notified().await;
    }

    /// Waits until this node's Node has other pod CIDRs than these, and returns it. A Node that does not exist has
    /// none.
    pub async fn own_pod_cidrs_differ(&self, cidrs: &BTreeSet<IpNetwork>) -> Option<Arc<Node>> {
        loop {
            // Registered before the object is read, so that no change in between is missed.
            let moved = self.own_node_changed.notified();
            let own = self.all().get(&*self.own).map(Arc::clone);
            let named: BTreeSet<_> = own.iter().flat_map(|node| node.pod_cidrs.iter().copied()).collect();
            if named != *cidrs {
                return own;
            }
            moved.await;
        }
    }

    /// A pipe that becomes readable when nodes change. There is one reader; a second call returns `None`.
    pub fn wake_pipe(&self) -> Option<PipeReader> {
        self.woken.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn nodes(&self) -> MutexGuard<'_, Arc<Nodes>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_removal(change: &Change) -> bool {
    matches!(change, Change::Remove(id) if id.kind == Kind::Node)
}

/// Whether the routes to both are the same.
fn same_routes(a: &Node, b: &Node) -> bool {
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
        let remote_nodes = RemoteNodes::new("a").unwrap();
        let now = BTreeSet::from(["10.1.0.0/24".parse().unwrap()]);
        let differ = async |remote_nodes: &RemoteNodes| {
            tokio::time::timeout(
                std::time::Duration::from_millis(20),
                remote_nodes.own_pod_cidrs_differ(&now),
            )
            .await
            .is_ok()
        };
        for (change, expected) in [
            (with(&["10.1.0.0/24"]), false),
            (with(&[]), true),
            (Change::Remove(ObjectId::global(Kind::Node, "a")), true),
            (with(&["10.2.0.0/24"]), true),
        ] {
            remote_nodes.apply(&[change]);
            assert_eq!(differ(&remote_nodes).await, expected);
        }
    }

    #[test]
    fn only_what_leads_packets_elsewhere_wakes() {
        let remote_nodes = RemoteNodes::new("a").unwrap();
        let mut woken = remote_nodes.wake_pipe().unwrap();
        assert!(remote_nodes.wake_pipe().is_none());
        remote_nodes.apply(&[node("a", "10.0.0.1", "x"), node("b", "10.0.0.2", "x")]);
        assert_eq!(woken.read(&mut [0; 8]).unwrap(), 1);
        remote_nodes.apply(&[node("a", "10.0.0.1", "y"), Change::Remove(ObjectId::global(Kind::Node, "c"))]);
        remote_nodes.apply(&[Change::Remove(ObjectId::global(Kind::Node, "b"))]);
        assert_eq!(woken.read(&mut [0; 8]).unwrap(), 1);
        assert_eq!(remote_nodes.all().keys().map(|it| &**it).collect::<Vec<_>>(), ["a"]);
    }
}
