//! What the daemon waits for before it can serve, and what it answers meanwhile.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use ipamd_api::{
    ApiError, ErrorKind, Reply, Request,
    policy::PolicyStatus,
    wire::{AttachMode, Status},
};
use tokio::{sync::SetOnce, time::timeout};

use crate::{
    cluster::SourceState,
    requests::{NodeService, Session},
    server::{Replies, Service},
    supervisor,
};

/// How long a client waits for a start.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a DEL does, which has a note to leave.
const PATIENCE_OF_DEL: Duration = Duration::from_millis(500);

/// Why the daemon does not serve yet.
#[derive(Debug, Default)]
pub struct Waiting(Mutex<Option<String>>);

impl Waiting {
    /// Notes what is waited for: a clause that says what is missing.
    pub fn set(&self, missing: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(missing);
    }

    /// The same in words.
    pub fn missing(&self) -> String {
        self.get().unwrap_or_else(|| "the daemon is starting".into())
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

    fn missing(&self) -> String {
        self.waiting.missing()
    }

    fn status(&self) -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node_name: self.node_name.clone(),
            ready: false,
            problems: vec![self.missing()],
            cannot_add: Vec::new(),
            limited: Vec::new(),
            endpoints: 0,
            attach_mode: AttachMode::Tcx,
            uplinks: Vec::new(),
            uptime_seconds: self.started.elapsed().as_secs(),
            conntrack: BTreeMap::new(),
            maps: BTreeMap::new(),
            drops: BTreeMap::new(),
            untracked: 0,
            policy: PolicyStatus::default(),
            events_lost: 0,
            events_suppressed: 0,
            answers_suppressed: 0,
            cluster: self.source.get().map(|source| source.status()),
            busy: supervisor::busy(),
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
        let patience = match &request {
            Request::Status if self.waiting.get().is_some() => Duration::ZERO,
            Request::Release { .. } => PATIENCE_OF_DEL,
            _ => PATIENCE,
        };
        match (timeout(patience, self.service.wait()).await, request) {
            (Ok(service), request) => service.answer(request, session, replies).await,
            (Err(_), Request::Status) => replies.send(&Reply::Status(Box::new(self.status()))).await,
            // An ADD comes again, a DEL leaves a note of what it has deleted.
            (Err(_), _) => {
                let why = format!("the Cambric daemon does not serve yet: {}", self.missing());
                replies.send(&Reply::Error(ApiError::new(ErrorKind::TryAgainLater, why))).await
            }
        }
    }

    fn is_under_way(&self, session: &Session) -> bool {
        self.service.get().is_some_and(|service| service.is_under_way(session))
    }

    async fn gone(&self, session: &mut Session) {
        if let Some(service) = self.service.get() {
            service.gone(session).await;
        }
    }

    fn misunderstood(&self) {
        if let Some(service) = self.service.get() {
            service.misunderstood();
        }
    }
}
