//! The thread that follows the cluster: what its source tells is enforced at once, on the spot.

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    sync::{
        Arc,
        mpsc::{SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use tokio::sync::oneshot;

use crate::{
    cluster::{Source, Standalone, directory::Directory, objects::Batch},
    config::Config,
    memory,
    metrics::Metrics,
    node::Node,
    policy::enforce::Enforcer,
    services::{Balancer, Gone, NodeAddresses},
};

/// What the thread works with.
#[derive(Clone, Debug)]
pub struct Followers {
    /// Whose endpoints are concerned.
    pub node: Arc<Node>,
    /// What enforces.
    pub policy: Arc<Enforcer>,
    /// What balances.
    pub services: Arc<Balancer>,
    /// Whom the endpoints are told to that services no longer have.
    pub gone: SyncSender<Vec<Gone>>,
    /// What counts.
    pub metrics: Arc<Metrics>,
}

/// The running thread. Dropping it waits until the batch under way is enforced.
#[derive(Debug)]
pub struct Following {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Following {
    /// Follows the source that is configured. When this returns, the cluster as the source told it first is enforced.
    ///
    /// # Errors
    /// Why the source cannot be read, or what it told could not be enforced.
    pub fn start(config: &Config, followers: Followers) -> anyhow::Result<Self> {
        let node_addresses = node_addresses(config)?;
        let node_ports = NodeAddresses::new(node_addresses, &config.node_port_addresses);
        match &config.cluster {
            crate::cluster::Cluster::None => Self::follow(Standalone::default(), followers, node_ports),
            crate::cluster::Cluster::Dir(path) => Self::follow(Directory::open(path)?, followers, node_ports),
        }
    }

    fn follow(
        mut source: impl Source + 'static,
        followers: Followers,
        node_addresses: NodeAddresses,
    ) -> anyhow::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let (begun, first) = sync_channel(1);
        // Events of the source are waited for by this thread alone, so that a long change keeps nobody else waiting.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = thread::Builder::new().name("cluster".into()).spawn(move || {
            runtime.block_on(async {
                let first = source.next().await;
                let started = followers.begin(first, node_addresses);
                // Reading the whole cluster takes several times what is kept of it.
                memory::give_back();
                let failed = started.is_err();
                // Nobody waits for it if the daemon is on its way out.
                let _ = begun.send(started);
                if failed {
                    return;
                }
                let endless = async {
                    loop {
                        tokio::select! {
                            batch = source.next() => followers.apply(batch),
                            () = until(followers.services.next_parting()) => followers.part(),
                        }
                    }
                };
                tokio::select! {
                    () = endless => {}
                    _ = stopped => {}
                }
            });
        })?;
        let following = Self { stop: Some(stop), thread: Some(thread) };
        first.recv().map_err(|_| io::Error::other("the source of the cluster has failed"))??;
        Ok(following)
    }
}

impl Followers {
    fn begin(&self, first: Batch, node_addresses: NodeAddresses) -> anyhow::Result<()> {
        let own = node_addresses.all.clone();
        let applied = self.services.start(node_addresses, self.node.host_ports(), &first.changes)?;
        self.metrics.service_change(applied.took);
        tracing::info!(services = applied.services, took = ?applied.took, "services are in force");
        let slots = self.policy.start(self.node.local_endpoints(), own, without_services(first))?;
        self.node.set_slots(slots);
        Ok(())
    }

    fn apply(&self, batch: Batch) {
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
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("following the cluster has failed");
        }
    }
}

/// The node's own addresses, by which it always reaches its endpoints: those it has, and the pools' gateways, which it
/// is about to have.
fn node_addresses(config: &Config) -> io::Result<BTreeSet<IpAddr>> {
    let interfaces = nix::ifaddrs::getifaddrs()?;
    let addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    });
    Ok(addresses.chain(config.pools.iter().map(crate::ipam::Pool::gateway)).collect())
}
