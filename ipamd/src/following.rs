//! The thread that follows the cluster: what its source tells is enforced at once, on the spot.

use std::{
    collections::BTreeSet,
    io,
    net::IpAddr,
    sync::{Arc, mpsc::sync_channel},
    thread::{self, JoinHandle},
};

use tokio::sync::oneshot;

use crate::{
    cluster::{Source, Standalone, directory::Directory},
    config::Config,
    memory,
    metrics::Metrics,
    node::Node,
    policy::enforce::Enforcer,
};

/// What the thread works with.
#[derive(Clone, Debug)]
pub struct Followers {
    /// Whose endpoints are concerned.
    pub node: Arc<Node>,
    /// What enforces.
    pub policy: Arc<Enforcer>,
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
        match &config.cluster {
            crate::cluster::Cluster::None => Self::follow(Standalone::default(), followers, node_addresses),
            crate::cluster::Cluster::Dir(path) => {
                Self::follow(Directory::open(path)?, followers, node_addresses)
            }
        }
    }

    fn follow(
        mut source: impl Source + 'static,
        followers: Followers,
        node_addresses: BTreeSet<IpAddr>,
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
                        let batch = source.next().await;
                        let applied = followers.policy.apply(batch);
                        followers.metrics.policy_change(applied.took);
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
    fn begin(
        &self,
        first: crate::cluster::objects::Batch,
        node_addresses: BTreeSet<IpAddr>,
    ) -> anyhow::Result<()> {
        let slots = self.policy.start(self.node.local_endpoints(), node_addresses, first)?;
        self.node.set_slots(slots);
        Ok(())
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
