//! What the daemon waits for before it can serve, and what it answers meanwhile.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use ipamd_api::{
    Reply, Request,
    policy::PolicyStatus,
    wire::{AttachMode, Status},
};
use tokio::{sync::SetOnce, time::timeout};

use crate::{
    cluster::SourceState,
    requests::{NodeService, Session},
    server::{Replies, Service},
};

/// How long a client waits for a start.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why the daemon does not serve yet.
#[derive(Debug, Default)]
pub struct Waiting(Mutex<Option<String>>);

impl Waiting {
    /// Notes what is waited for: a clause that says what is missing.
    pub fn set(&self, missing: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(missing);
    }

    fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The daemon's socket before and after the node can be served: at first it only tells what it waits for.
#[derive(Debug)]
pub struct Door {
    node_name: String,
    started: Instant,
    waiting: Arc<Waiting>,
    source: OnceLock<Arc<dyn SourceState>>,
    service: SetOnce<NodeService>,
}

impl Door {
    /// A door behind which nobody is yet.
    pub fn new(node_name: String, waiting: Arc<Waiting>) -> Self {
        Self { node_name, started: Instant::now(), waiting, source: OnceLock::new(), service: SetOnce::new() }
    }

    /// Has the state of the cluster's source told.
    pub fn tell_of(&self, source: Arc<dyn SourceState>) {
        // There is one source.
        let _ = self.source.set(source);
    }

    /// Lets everybody in.
    pub fn open(&self, service: NodeService) {
        // There is one node.
        let _ = self.service.set(service);
    }

    fn status(&self) -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node_name: self.node_name.clone(),
            ready: false,
            problems: vec![self.waiting.get().unwrap_or_else(|| "the daemon is starting".into())],
            endpoints: 0,
            attach_mode: AttachMode::Tcx,
            uplinks: Vec::new(),
            uptime_seconds: self.started.elapsed().as_secs(),
            conntrack: BTreeMap::new(),
            drops: BTreeMap::new(),
            untracked: 0,
            policy: PolicyStatus::default(),
            events_lost: 0,
            events_suppressed: 0,
            cluster: self.source.get().map(|source| source.status()),
        }
    }
}

impl Service for Door {
    type Session = Session;

    async fn answer(
        &self,
        request: Request,
        session: &mut Session,
        replies: &mut Replies<'_>,
    ) -> io::Result<()> {
        // A start takes a moment, and is no reason to turn anybody away.
        let asks_why = request == Request::Status && self.waiting.get().is_some();
        let patience = if asks_why { Duration::ZERO } else { PATIENCE };
        match (timeout(patience, self.service.wait()).await, request) {
            (Ok(service), request) => service.answer(request, session, replies).await,
            (Err(_), Request::Status) => replies.send(&Reply::Status(Box::new(self.status()))).await,
            // As if no daemon were here: an ADD is told to come again, a DEL leaves a note of what it has deleted.
            (Err(_), _) => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }

    fn misunderstood(&self) {
        if let Some(service) = self.service.get() {
            service.misunderstood();
        }
    }
}
