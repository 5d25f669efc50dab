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
    wire::{AttachMode, ClusterStatus, Status},
};
use tokio::{sync::SetOnce, time::timeout};

use crate::{
    requests::{NodeService, Session},
    server::{Replies, Service},
};
use ipamd_runtime::supervisor;
use ipamd_sources::SourceState;

/// How long a client waits for a start.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a DEL does, which has a note to leave.
const PATIENCE_OF_DEL: Duration = Duration::from_millis(500);

/// Why the daemon does not serve yet.
#[derive(Debug, Default)]
pub struct Waiting {
    missing: Mutex<Option<String>>,
    source: OnceLock<Arc<dyn SourceState>>,
}

/// So many resources are named that the cluster's source has not told of.
const NAMED: usize = 3;

impl Waiting {
    /// Notes what is waited for: a clause that says what is missing.
    pub fn set(&self, missing: String) {
        *self.missing.lock().unwrap_or_else(PoisonError::into_inner) = Some(missing);
    }

    /// Has the state of the cluster's source told beside it.
    pub fn tell_of(&self, source: Arc<dyn SourceState>) {
        // There is one source.
        let _ = self.source.set(source);
    }

    /// The same in words, and what the cluster's source has not told yet, and why.
    pub fn missing(&self) -> String {
        let missing = self.get().unwrap_or_else(|| "the daemon is starting".into());
        match self.source() {
            Some(status) => missing + &untold(&status),
            None => missing,
        }
    }

    fn source(&self) -> Option<ClusterStatus> {
        self.source.get().map(|source| source.status())
    }

    fn get(&self) -> Option<String> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What a source has not told, as the end of a sentence: which resources are not listed yet, and what the trouble is.
pub fn untold(status: &ClusterStatus) -> String {
    let mut text = String::new();
    let unlisted = &status.unlisted;
    if !unlisted.is_empty() {
        let more = match unlisted.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let named = &unlisted[..unlisted.len().min(NAMED)];
        text = format!("; not listed yet: {}{more}", named.join(", "));
    }
    if let Some(trouble) = &status.trouble {
        text = format!("{text}; {trouble}");
    }
    text
}

/// The daemon's socket before and after the node can be served: at first it only tells what it waits for.
#[derive(Debug)]
pub struct Door {
    node_name: String,
    started: Instant,
    waiting: Arc<Waiting>,
    service: SetOnce<NodeService>,
}

impl Door {
    /// A door behind which nobody is yet.
    pub fn new(node_name: String, waiting: Arc<Waiting>) -> Self {
        Self { node_name, started: Instant::now(), waiting, service: SetOnce::new() }
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
            cluster: self.waiting.source(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_source_has_not_told_is_named_with_why() {
        let status = |unlisted: &[&str], trouble: Option<&str>| ClusterStatus {
            unlisted: unlisted.iter().map(|it| (*it).to_owned()).collect(),
            trouble: trouble.map(ToOwned::to_owned),
            ..ClusterStatus::default()
        };
        assert_eq!(untold(&status(&[], None)), "");
        assert_eq!(
            untold(&status(&["tiers"], Some("tiers: no (403)"))),
            "; not listed yet: tiers; tiers: no (403)"
        );
        assert_eq!(untold(&status(&["a", "b", "c", "d", "e"], None)), "; not listed yet: a, b, c and 2 more");
    }
}
