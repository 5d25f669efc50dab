//! The daemon's socket before and after the node can be served.

use std::{
    collections::BTreeMap,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use ipamd_api::{
    ApiError, ErrorKind, Reply, Request,
    policy::PolicyStatus,
    wire::{AttachMode, DenyStatus, Status},
};
use ipamd_runtime::supervisor;
use tokio::{sync::SetOnce, time::timeout};

use crate::{
    requests::{NodeService, Session},
    server::{Replies, Service},
    startup_reason::StartupReason,
};

/// How long a client waits for a start.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a DEL does, which has a note to leave.
const PATIENCE_OF_DEL: Duration = Duration::from_millis(500);

/// The daemon's socket before and after the node can be served: at first it only tells what it waits for.
#[derive(Debug)]
pub struct StartupGate {
    node_name: String,
    started: Instant,
    reason: Arc<StartupReason>,
    service: SetOnce<NodeService>,
}

impl StartupGate {
    /// A gate behind which no node is yet.
    pub fn new(node_name: String, reason: Arc<StartupReason>) -> Self {
        Self { node_name, started: Instant::now(), reason, service: SetOnce::new() }
    }

    /// Lets requests through to the node.
    pub fn open(&self, service: NodeService) {
        // There is one node.
        let _ = self.service.set(service);
    }

    fn missing(&self) -> String {
        self.reason.missing()
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
            deny: DenyStatus::default(),
            host_endpoints: Vec::new(),
            cluster: self.reason.source(),
            busy: supervisor::busy(),
        }
    }
}

impl Service for StartupGate {
    type Session = Session;

    async fn answer(
        &self,
        request: Request,
        session: &mut Session,
        replies: &mut Replies<'_>,
    ) -> io::Result<()> {
        // A start takes a moment, and is no reason to turn anybody away.
        let patience = match &request {
            Request::Status if self.reason.get().is_some() => Duration::ZERO,
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
