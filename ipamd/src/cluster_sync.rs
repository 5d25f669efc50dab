//! The thread that keeps this node in step with the cluster. It takes batches of changes from the source and applies
//! them at once, in this order: other nodes, services, policy.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    io,
    net::IpAddr,
    sync::{Arc, mpsc::SyncSender},
    thread::JoinHandle,
    time::Instant,
};

use tokio::sync::oneshot;

use crate::{
    backlog::Backlog,
    deny_sets::DenyPrefixes,
    host_endpoints::HostEndpoints,
    metrics::Metrics,
    node::Node,
    pending_changes::{Pending, PendingChanges},
    remote_nodes::RemoteNodes,
    resolvers::Resolvers,
    startup_reason::StartupReason,
};
use ipamd_config::{Cluster, Config};
use ipamd_datapath::Datapath;
use ipamd_hubble::cluster::ClusterView;
use ipamd_model::objects::{self, Batch, Change, Object, ObjectId};
use ipamd_policy::enforce::{Enforcer, Writes};
use ipamd_runtime::memory;
use ipamd_runtime::supervisor;
use ipamd_services::{Balancer, NodeAddresses, RemovedBackend};
use ipamd_sources::{
    Source, SourceState, Standalone,
    directory::Directory,
    kube::{Access, Kube, NetworkCondition, PodLookup},
};

/// The file of the copy of the cluster's state, in the state directory.
const COPY: &str = "cluster";

/// What changes of the cluster are applied to.
#[derive(Clone, Debug)]
pub struct SyncTargets {
    /// The node, for its endpoints and host ports.
    pub node: Arc<Node>,
    /// Policy.
    pub policy: Arc<Enforcer>,
    /// Services.
    pub services: Arc<Balancer>,
    /// The DNS resolvers.
    pub resolvers: Arc<Resolvers>,
    /// The deny sets.
    pub deny_prefixes: Arc<DenyPrefixes>,
    /// What Hubble's API tells of the cluster, if it is served.
    pub hubble: Option<Arc<ClusterView>>,
    /// The host endpoints of this node.
    pub hosts: Arc<HostEndpoints>,
    /// What the programs ask of host endpoints.
    pub datapath: Arc<Datapath>,
    /// The routes to other nodes follow from these.
    pub remote_nodes: Arc<RemoteNodes>,
    /// The socket-termination thread gets the backends that services no longer have.
    pub removed_backends: SyncSender<Vec<RemovedBackend>>,
    /// The metrics of changes.
    pub metrics: Arc<Metrics>,
}

/// Asks the thread to apply the first state of the cluster, and to go on from there.
#[derive(Debug)]
struct StartRequest {
    targets: SyncTargets,
    node_addresses: NodeAddresses,
    begun: oneshot::Sender<anyhow::Result<()>>,
}

/// A source whose first lists are not complete yet.
#[derive(Debug)]
pub struct InitialSync {
    sync: ClusterSync,
    /// The API server's address, if the configuration has one and no name.
    pub api_server: Option<IpAddr>,
    first: oneshot::Receiver<Option<objects::Node>>,
}

/// A source whose first state is complete. Nothing of it is in force yet.
#[derive(Debug)]
pub struct Synced {
    sync: ClusterSync,
    /// This node's own object, if the cluster has one.
    pub own: Option<objects::Node>,
}

/// The running thread. Dropping it waits a moment for the current batch. A batch that is cut short does no harm: the
/// tables in the kernel are consistent at any instant.
#[derive(Debug)]
pub struct ClusterSync {
    stop: Option<oneshot::Sender<()>>,
    start: Option<oneshot::Sender<StartRequest>>,
    thread: Option<JoinHandle<()>>,
    /// How up to date the source is.
    pub state: Option<Arc<dyn SourceState>>,
    /// Looks a pod up by its name; `None` without an API server.
    pub pod_lookup: Option<PodLookup>,
    /// Clears the node's condition NetworkUnavailable; `None` without an API server.
    pub network: Option<NetworkCondition>,
}

impl ClusterSync {
    /// Opens the configured source and begins to read it. `startup` is told what the daemon waits for.
    ///
    /// # Errors
    /// Why the source cannot be read.
    pub async fn open(config: &Config, startup: Arc<StartupReason>) -> anyhow::Result<InitialSync> {
        let own = OwnNode { name: config.node_name.clone(), needs_pools: config.needs_pools(), startup };
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
                own.startup.set(format!(
                    "the Kubernetes API at {} has not listed everything yet",
                    client.cluster_url
                ));
                let (copy, node) = (config.state_dir.join(COPY), config.node_name.clone());
                let host = client.cluster_url.host().unwrap_or_default();
                let api_server = host.trim_matches(['[', ']']).parse().ok();
                let begun = Self::spawn(own, move || {
                    let (source, pod_lookup, network) = Kube::open(&client, &node, &copy)?;
                    Ok((source, Some(pod_lookup), Some(network)))
                })?;
                Ok(InitialSync { api_server, ..begun })
            }
        }
    }

    fn spawn<S: Source + 'static>(
        own: OwnNode,
        open: impl FnOnce() -> anyhow::Result<(S, Option<PodLookup>, Option<NetworkCondition>)>,
    ) -> anyhow::Result<InitialSync> {
        let (stop, stopped) = oneshot::channel();
        let (start, started) = oneshot::channel();
        let (tell, first) = oneshot::channel();
        // This thread alone waits for events of the source, so a long change keeps nobody else waiting.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (source, pod_lookup, network) = {
            let _guard = runtime.enter();
            open()?
        };
        let pending = Arc::new(PendingChanges::default());
        let with_pending =
            |source| Arc::new(Pending { source, changes: Arc::clone(&pending) }) as Arc<dyn SourceState>;
        let state = source.state().map(with_pending);
        let thread = supervisor::spawn("cluster", move || {
            runtime.block_on(async {
                tokio::spawn(supervisor::heart());
                tokio::select! {
                    () = run(source, own, tell, started, pending) => {}
                    _ = stopped => {}
                }
            });
        })?;
        let sync =
            Self { stop: Some(stop), start: Some(start), thread: Some(thread), state, pod_lookup, network };
        Ok(InitialSync { sync, api_server: None, first })
    }
}

impl InitialSync {
    /// How up to date the source is.
    pub fn state(&self) -> Option<Arc<dyn SourceState>> {
        self.sync.state.clone()
    }

    /// Waits until the first state of the cluster is complete.
    ///
    /// # Errors
    /// It never will.
    pub async fn finished(self) -> anyhow::Result<Synced> {
        let own = self.first.await.map_err(|_| io::Error::other("the source of the cluster has failed"))?;
        Ok(Synced { sync: self.sync, own })
    }
}

impl Synced {
    /// Applies the first state of the cluster and keeps applying changes. When this returns, the first state is
    /// enforced.
    ///
    /// # Errors
    /// What of it cannot be enforced.
    pub async fn start(mut self, config: &Config, targets: SyncTargets) -> anyhow::Result<ClusterSync> {
        let node_addresses = NodeAddresses::new(node_addresses(config)?, &config.node_port_addresses);
        let failed = || io::Error::other("the source of the cluster has failed");
        let (begun, beginning) = oneshot::channel();
        let start = self.sync.start.take().ok_or_else(failed)?;
        start.send(StartRequest { targets, node_addresses, begun }).map_err(|_| failed())?;
        beginning.await.map_err(|_| failed())??;
        Ok(self.sync)
    }
}

/// What the daemon must know of its own Node before it can begin.
struct OwnNode {
    name: String,
    /// Whether the pools come from the Node's podCIDRs, so that the daemon cannot begin without them.
    needs_pools: bool,
    startup: Arc<StartupReason>,
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
        self.startup.set(missing);
    }
}

/// Both lists of changes in their order, with only the last change of each object. So a long wait takes no more memory
/// than the cluster has objects.
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
    start: oneshot::Receiver<StartRequest>,
    pending: Arc<PendingChanges>,
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
    let Ok(StartRequest { targets, node_addresses, begun }) = start.await else { return };
    pending.set(first.changes.iter());
    let started = targets.apply_first(first, node_addresses);
    pending.clear();
    source.acknowledge();
    // Reading the whole cluster takes several times the memory of what is kept of it.
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
        // The tasks that read the source run between two pieces of a large change.
        tokio::task::yield_now().await;
        let told = tokio::select! {
            biased;
            batch = source.next() => Some(batch),
            () = until(targets.services.next_drain_end()) => None,
            () = until(targets.deny_prefixes.next_look()) => None,
            () = std::future::ready(()), if !idle => None,
        };
        targets.end_drained();
        targets.deny_prefixes.look();
        let mut refusals = None;
        if let Some(batch) = told {
            is_large |= batch.changes.len() > LARGE;
            refusals = batch.refusals;
            backlog.push(batch.changes);
            pending.set(backlog.waiting());
        } else if idle {
            continue;
        }
        targets.apply(Batch { changes: backlog.pop().unwrap_or_default(), refusals });
        pending.set(backlog.waiting());
        if backlog.is_empty() {
            source.acknowledge();
            if std::mem::take(&mut is_large) {
                memory::give_back();
            }
        }
    }
}

/// After a batch of more changes than this, free memory is given back to the system.
const LARGE: usize = 1000;

impl SyncTargets {
    fn apply_first(&self, first: Batch, node_addresses: NodeAddresses) -> anyhow::Result<()> {
        let own = node_addresses.all.clone();
        self.remote_nodes.apply(&first.changes);
        self.resolvers.apply(&first.changes, true);
        self.deny_prefixes.apply(&first.changes, true);
        self.hubble.iter().for_each(|view| view.apply(&first.changes));
        let applied = self.services.start(node_addresses, self.node.host_ports(), &first.changes)?;
        self.metrics.service_change(applied.took);
        tracing::info!(services = applied.services, took = ?applied.took, "services programmed");
        let asked = self.datapath.host_slots()?;
        let hosts = self.hosts.first(&first.changes, &asked, &interfaces()?);
        let endpoints = self.node.local_endpoints().into_iter().chain(hosts);
        let slots = self.policy.start(endpoints, own, for_policy(first))?;
        self.hosts.started(&slots);
        self.node.set_slots(slots);
        Ok(())
    }

    fn apply(&self, batch: Batch) {
        self.remote_nodes.apply(&batch.changes);
        self.resolvers.apply(&batch.changes, false);
        self.deny_prefixes.apply(&batch.changes, false);
        self.hubble.iter().for_each(|view| view.apply(&batch.changes));
        let applied = self.services.apply(&batch.changes);
        if applied.services > 0 {
            self.metrics.service_change(applied.took);
        }
        let batch = for_policy(batch);
        if !batch.changes.is_empty() || batch.refusals.is_some() {
            // Endpoints come and go all the time, and few rules name their Service.
            let of_slices = batch.refusals.is_none()
                && batch.changes.iter().all(|it| it.kind() == objects::Kind::EndpointSlice);
            let of_hosts: Vec<_> =
                batch.changes.iter().filter(|it| it.kind() == objects::Kind::HostEndpoint).cloned().collect();
            let applied = self.policy.apply(batch);
            self.hosts.apply(&of_hosts);
            if !of_slices || applied.writes != Writes::default() {
                self.metrics.policy_change(applied.took, self.policy.longest_change());
            }
        }
    }

    fn end_drained(&self) {
        let removed = self.services.expire_drained();
        if !removed.is_empty() && self.removed_backends.try_send(removed).is_err() {
            // Those sockets end by themselves when their peer does not answer.
            tracing::warn!("sockets of removed backends are not ended: the queue is full");
        }
    }
}

/// The node's interfaces by index, each with its name and its addresses.
fn interfaces() -> io::Result<BTreeMap<u32, (String, Vec<IpAddr>)>> {
    let mut found: BTreeMap<u32, (String, Vec<IpAddr>)> = BTreeMap::new();
    for interface in nix::ifaddrs::getifaddrs()? {
        // One that has just gone has no index any more.
        let Ok(index) = nix::net::if_::if_nametoindex(interface.interface_name.as_str()) else { continue };
        let (_, addresses) =
            found.entry(index).or_insert_with(|| (interface.interface_name.clone(), Vec::new()));
        addresses.extend(ip_of(&interface));
    }
    Ok(found)
}

/// The IP address of an entry; `None` if it is of another family.
fn ip_of(interface: &nix::ifaddrs::InterfaceAddress) -> Option<IpAddr> {
    let address = interface.address?;
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}

/// The changes that concern policy. Its rules may mean the endpoints of a Service, but never the Service itself.
fn for_policy(mut batch: Batch) -> Batch {
    batch.changes.retain(|change| change.kind() != objects::Kind::Service);
    batch
}

/// Waits until a time; for ever if there is none.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

impl Drop for ClusterSync {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self
            .thread
            .take()
            .is_some_and(|thread| supervisor::join_within(thread, supervisor::FAREWELL).is_none())
        {
            tracing::info!("stopped during a large change of the cluster; the next start applies it");
        }
    }
}

/// The node's own addresses: those of its interfaces, and the pools' gateways, which the reconciliation adds. Policy
/// never keeps the node from its endpoints, so it must know them.
pub fn node_addresses(config: &Config) -> io::Result<BTreeSet<IpAddr>> {
    let interfaces = nix::ifaddrs::getifaddrs()?;
    let addresses = interfaces.filter_map(|interface| ip_of(&interface));
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
        let own = OwnNode { name: "own".into(), needs_pools: true, startup: Arc::default() };
        let found = |changes: Vec<Change>| own.find(&Batch { changes, refusals: None }).is_some();
        assert!(found(vec![gone("own"), node("10.0.0.0/24"), gone("other")]));
        assert!(!found(vec![node("10.0.0.0/24"), gone("own")]));
    }
}
