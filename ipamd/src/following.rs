//! The thread that follows the cluster: what its source tells is enforced at once, on the spot.

use std::{
    collections::{BTreeSet, HashSet},
    io,
    net::IpAddr,
    sync::{Arc, mpsc::SyncSender},
    thread::JoinHandle,
    time::Instant,
};

use tokio::sync::oneshot;

use crate::{backlog::Backlog, metrics::Metrics, node::Node, peers::Peers, startup_reason::StartupReason};
use ipamd_config::{Cluster, Config};
use ipamd_model::objects::{self, Batch, Change, Object, ObjectId};
use ipamd_policy::enforce::Enforcer;
use ipamd_runtime::memory;
use ipamd_runtime::supervisor;
use ipamd_services::{Balancer, Gone, NodeAddresses};
use ipamd_sources::{
    Source, SourceState, Standalone,
    directory::Directory,
    kube::{Access, Asking, Kube, NetworkCondition},
};

/// Where the copy of the cluster's last state is, in the state directory.
const COPY: &str = "cluster";

/// What the thread works with.
#[derive(Clone, Debug)]
pub struct Followers {
    /// Whose endpoints are concerned.
    pub node: Arc<Node>,
    /// What enforces.
    pub policy: Arc<Enforcer>,
    /// What balances.
    pub services: Arc<Balancer>,
    /// The other nodes.
    pub peers: Arc<Peers>,
    /// Whom the endpoints are told to that services no longer have.
    pub gone: SyncSender<Vec<Gone>>,
    /// What counts.
    pub metrics: Arc<Metrics>,
}

/// What is to follow, from the source's first words on.
#[derive(Debug)]
struct Start {
    followers: Followers,
    node_addresses: NodeAddresses,
    begun: oneshot::Sender<anyhow::Result<()>>,
}

/// A source that is being read for the first time.
#[derive(Debug)]
pub struct Opening {
    following: Following,
    first: oneshot::Receiver<Option<objects::Node>>,
}

/// A source that has told everything once, of which nothing is in force yet.
#[derive(Debug)]
pub struct Opened {
    following: Following,
    /// This node's own object, if the cluster has one.
    pub own: Option<objects::Node>,
}

/// The running thread. Dropping it waits a moment for the batch under way to be enforced; what is in the kernel is whole at any
/// instant.
#[derive(Debug)]
pub struct Following {
    stop: Option<oneshot::Sender<()>>,
    start: Option<oneshot::Sender<Start>>,
    thread: Option<JoinHandle<()>>,
    /// How up to date the source is.
    pub state: Option<Arc<dyn SourceState>>,
    /// Asks the source for a pod by its name, where there is somebody to ask.
    pub asking: Option<Asking>,
    /// Tells the cluster that this node has a network, where there is somebody to tell.
    pub network: Option<NetworkCondition>,
}

impl Following {
    /// Opens the source that is configured, and begins to read it. `waiting` is told what that waits for.
    ///
    /// # Errors
    /// Why the source cannot be read.
    pub async fn open(config: &Config, waiting: Arc<StartupReason>) -> anyhow::Result<Opening> {
        let own = OwnNode { name: config.node_name.clone(), needs_pools: config.needs_pools(), waiting };
        match &config.cluster {
            Cluster::None => Self::spawn(own, || Ok((Standalone::default(), None, None))),
            Cluster::Dir(path) => {
                let source = Directory::open(path)?;
                Self::spawn(own, || Ok((source, None, None)))
            }
            Cluster::Kube(kubeconfig) => {
                let access =
                    Access { kubeconfig: kubeconfig.clone(), server: config.kube_api_server.clone() };
                let client = access.config().await?;
                own.waiting
                    .set(format!("the Kubernetes API at {} has not told everything yet", client.cluster_url));
                let (copy, node) = (config.state_dir.join(COPY), config.node_name.clone());
                Self::spawn(own, move || {
                    let (source, asking, network) = Kube::open(&client, &node, &copy)?;
                    Ok((source, Some(asking), Some(network)))
                })
            }
        }
    }

    fn spawn<S: Source + 'static>(
        own: OwnNode,
        open: impl FnOnce() -> anyhow::Result<(S, Option<Asking>, Option<NetworkCondition>)>,
    ) -> anyhow::Result<Opening> {
        let (stop, stopped) = oneshot::channel();
        let (start, started) = oneshot::channel();
        let (tell, first) = oneshot::channel();
        // Events of the source are waited for by this thread alone, so that a long change keeps nobody else waiting.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (source, asking, network) = {
            let _guard = runtime.enter();
            open()?
        };
        let state = source.state();
        let thread = supervisor::spawn("cluster", move || {
            runtime.block_on(async {
                tokio::spawn(supervisor::heart());
                tokio::select! {
                    () = run(source, own, tell, started) => {}
                    _ = stopped => {}
                }
            });
        })?;
        let following =
            Self { stop: Some(stop), start: Some(start), thread: Some(thread), state, asking, network };
        Ok(Opening { following, first })
    }
}

impl Opening {
    /// How up to date the source is.
    pub fn state(&self) -> Option<Arc<dyn SourceState>> {
        self.following.state.clone()
    }

    /// Waits until the source has told everything once.
    ///
    /// # Errors
    /// It never will.
    pub async fn opened(self) -> anyhow::Result<Opened> {
        let own = self.first.await.map_err(|_| io::Error::other("the source of the cluster has failed"))?;
        Ok(Opened { following: self.following, own })
    }
}

impl Opened {
    /// Puts in force what was told, and goes on with what is told from here on. When this returns, the cluster as the
    /// source told it first is enforced.
    ///
    /// # Errors
    /// What of it cannot be enforced.
    pub async fn follow(mut self, config: &Config, followers: Followers) -> anyhow::Result<Following> {
        let node_addresses = NodeAddresses::new(node_addresses(config)?, &config.node_port_addresses);
        let failed = || io::Error::other("the source of the cluster has failed");
        let (begun, beginning) = oneshot::channel();
        let start = self.following.start.take().ok_or_else(failed)?;
        start.send(Start { followers, node_addresses, begun }).map_err(|_| failed())?;
        beginning.await.map_err(|_| failed())??;
        Ok(self.following)
    }
}

/// What must be known of this node before it can begin.
struct OwnNode {
    name: String,
    /// Whether its Node must say which prefixes its pods have their addresses from.
    needs_pools: bool,
    waiting: Arc<StartupReason>,
}

impl OwnNode {
    /// This node's object among changes; the last one counts.
    fn find(&self, batch: &Batch) -> Option<objects::Node> {
        let own = ObjectId::global(objects::Kind::Node, &self.name);
        batch.changes.iter().rev().find(|change| change.id() == own).and_then(|change| match change {
            Change::Put(Object::Node(node)) => Some(node.clone()),
            _ => None,
        })
    }

    fn is_enough(&self, node: Option<&objects::Node>) -> bool {
        !self.needs_pools || node.is_some_and(|node| !node.pod_cidrs.is_empty())
    }

    fn wait_for(&self, node: Option<&objects::Node>) {
        let name = &self.name;
        let missing = match node {
            None => format!(
                "the cluster has no Node named {name:?} yet, which would say from which prefixes pods get their addresses (see --node-name and --pool)"
            ),
            Some(_) => format!(
                "the Node {name:?} has no spec.podCIDRs yet, from which pods would get their addresses (see --pool)"
            ),
        };
        tracing::warn!("waiting: {missing}");
        self.waiting.set(missing);
    }
}

/// The last change of each object, in the order of these: what was told of an object before is nothing any more. So a wait takes
/// no more room than the cluster has objects.
fn latest(before: Vec<Change>, more: Vec<Change>) -> Vec<Change> {
    let told: HashSet<_> = more.iter().map(Change::id).collect();
    let mut all = before;
    all.retain(|change| !told.contains(&change.id()));
    all.extend(more);
    all
}

async fn run<S: Source>(
    mut source: S,
    own: OwnNode,
    tell: oneshot::Sender<Option<objects::Node>>,
    start: oneshot::Receiver<Start>,
) {
    let mut first = source.next().await;
    let mut node = own.find(&first);
    while !own.is_enough(node.as_ref()) {
        own.wait_for(node.as_ref());
        let more = source.next().await;
        first.changes = latest(first.changes, more.changes);
        first.refusals = more.refusals.or(first.refusals);
        node = own.find(&first);
    }
    // Nobody waits for it if the daemon is on its way out.
    let _ = tell.send(node);
    let Ok(Start { followers, node_addresses, begun }) = start.await else { return };
    let started = followers.begin(first, node_addresses);
    source.in_force();
    // Reading the whole cluster takes several times what is kept of it.
    memory::give_back();
    let failed = started.is_err();
    let _ = begun.send(started);
    if failed {
        return;
    }
    let mut backlog = Backlog::default();
    let mut is_large = false;
    loop {
        let idle = backlog.is_empty();
        // Whoever reads the source goes on between two pieces of a large change.
        tokio::task::yield_now().await;
        let told = tokio::select! {
            biased;
            batch = source.next() => Some(batch),
            () = until(followers.services.next_parting()) => None,
            () = std::future::ready(()), if !idle => None,
        };
        followers.part();
        let mut refusals = None;
        if let Some(batch) = told {
            is_large |= batch.changes.len() > LARGE;
            refusals = batch.refusals;
            backlog.push(batch.changes);
        } else if idle {
            continue;
        }
        followers.apply(Batch { changes: backlog.pop().unwrap_or_default(), refusals });
        if backlog.is_empty() {
            source.in_force();
            if std::mem::take(&mut is_large) {
                memory::give_back();
            }
        }
    }
}

/// A batch of so many changes takes memory worth giving back.
const LARGE: usize = 1000;

impl Followers {
    fn begin(&self, first: Batch, node_addresses: NodeAddresses) -> anyhow::Result<()> {
        let own = node_addresses.all.clone();
        self.peers.apply(&first.changes);
        let applied = self.services.start(node_addresses, self.node.host_ports(), &first.changes)?;
        self.metrics.service_change(applied.took);
        tracing::info!(services = applied.services, took = ?applied.took, "services are in force");
        let slots = self.policy.start(self.node.local_endpoints(), own, without_services(first))?;
        self.node.set_slots(slots);
        Ok(())
    }

    fn apply(&self, batch: Batch) {
        self.peers.apply(&batch.changes);
        let applied = self.services.apply(&batch.changes);
        if applied.services > 0 {
            self.metrics.service_change(applied.took);
        }
        let batch = without_services(batch);
        if !batch.changes.is_empty() || batch.refusals.is_some() {
            let applied = self.policy.apply(batch);
            self.metrics.policy_change(applied.took);
        }
    }

    fn part(&self) {
        let gone = self.services.part();
        if !gone.is_empty() && self.gone.try_send(gone).is_err() {
            // Their sockets end by themselves, when nobody answers.
            tracing::warn!("sockets of endpoints that are gone are not ended: too many are waiting for that");
        }
    }
}

/// What policy is about.
fn without_services(mut batch: Batch) -> Batch {
    batch.changes.retain(|change| !change.id().kind.is_of_services());
    batch
}

/// Waits until then; without a time, for good.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self
            .thread
            .take()
            .is_some_and(|thread| supervisor::join_within(thread, supervisor::FAREWELL).is_none())
        {
            tracing::info!(
                "stopped in the midst of a large change of the cluster; the next start puts it in force"
            );
        }
    }
}

/// The node's own addresses, by which it always reaches its endpoints: those it has, and the pools' gateways, which it
/// is about to have.
pub fn node_addresses(config: &Config) -> io::Result<BTreeSet<IpAddr>> {
    let interfaces = nix::ifaddrs::getifaddrs()?;
    let addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    });
    Ok(addresses.chain(config.pools.iter().map(ipamd_addresses::ipam::Pool::gateway)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipamd_model::objects::Kind;

    fn node(pod_cidr: &str) -> Change {
        let node = objects::Node {
            name: "own".into(),
            pod_cidrs: vec![pod_cidr.parse().unwrap()],
            labels: ipamd_model::labels::Labels::default(),
            addresses: Vec::new(),
            internal: Vec::new(),
        };
        Change::Put(Object::Node(node))
    }

    fn gone(name: &str) -> Change {
        Change::Remove(ObjectId::global(Kind::Node, name))
    }

    #[test]
    fn of_each_object_the_last_change_is_kept() {
        let mut all = Vec::new();
        for round in 0..1000 {
            all = latest(all, vec![node(&format!("10.{}.0.0/24", round % 200)), gone("other")]);
        }
        assert_eq!(all, [node("10.199.0.0/24"), gone("other")]);
        assert_eq!(latest(all, vec![gone("own")]), [gone("other"), gone("own")]);
    }

    #[test]
    fn a_node_that_was_deleted_says_nothing_of_pools() {
        let own = OwnNode { name: "own".into(), needs_pools: true, waiting: Arc::default() };
        let found = |changes: Vec<Change>| own.find(&Batch { changes, refusals: None }).is_some();
        assert!(found(vec![gone("own"), node("10.0.0.0/24"), gone("other")]));
        assert!(!found(vec![node("10.0.0.0/24"), gone("own")]));
    }
}
