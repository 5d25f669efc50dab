//! What requests are answered from.

use std::{sync::Arc, time::Duration};

use ipamd_api::{ApiError, ErrorKind, Reply};
use tokio::sync::{Semaphore, watch};

use super::{add_locks::AddLocks, session::FILE_BLOCKS};
use crate::{metrics::Metrics, monitor::Monitor, node::Node};
use ipamd_services::Listing;
use ipamd_sources::{SourceState, kube::PodLookup};

/// The node behind the socket.
#[derive(Debug)]
pub struct NodeService {
    pub(super) node: Arc<Node>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) monitor: Arc<Monitor>,
    pub(super) services: Arc<dyn Listing>,
    pub(super) stopped: watch::Receiver<bool>,
    /// The ADDs under way.
    pub(super) add_locks: AddLocks,
    /// Memory for the files of diffs.
    pub(super) files: Arc<Semaphore>,
    /// A diff compiles all policies a second time: one at a time does.
    pub(super) diffs: Semaphore,
    /// How up to date what is known of the cluster is.
    pub(super) cluster: Option<Arc<dyn SourceState>>,
    pub(super) stale_after: Duration,
    /// Looks up pods that the watch has not sent yet.
    pub(super) pod_lookup: Option<PodLookup>,
}

/// What became of a request: a reply, or `None` if its replies have been sent.
pub(super) type Answered = Result<Option<Reply>, ApiError>;

impl NodeService {
    /// Serves `node`, its events from `monitor`, and its `services`, counting in `metrics`. Endless replies end when
    /// `stopped` becomes true.
    pub fn new(
        node: Arc<Node>,
        metrics: Arc<Metrics>,
        monitor: Arc<Monitor>,
        services: Arc<dyn Listing>,
        stopped: watch::Receiver<bool>,
    ) -> Self {
        let files = Arc::new(Semaphore::new(FILE_BLOCKS));
        Self {
            node,
            metrics,
            monitor,
            services,
            stopped,
            add_locks: AddLocks::default(),
            files,
            diffs: Semaphore::new(1),
            cluster: None,
            stale_after: Duration::ZERO,
            pod_lookup: None,
        }
    }

    /// The same with the state of the cluster, which is a problem when it is stale for so long, and with a lookup of
    /// pods.
    #[must_use]
    pub fn about(
        self,
        cluster: Option<Arc<dyn SourceState>>,
        stale_after: Duration,
        pod_lookup: Option<PodLookup>,
    ) -> Self {
        Self { cluster, stale_after, pod_lookup, ..self }
    }
}

/// Does on a thread of its own what may have to wait for a change of policies under way.
pub(super) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| ApiError::new(ErrorKind::Internal, format!("the daemon has failed: {error}")))
}
