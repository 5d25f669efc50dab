//! Requests to the node, and their answers.

use std::{io, sync::Arc, time::Instant};

use ipamd_api::{
    ApiError, ErrorKind, Reply, Request,
    wire::{ConntrackFilter, ConntrackPage},
};
use tokio::sync::mpsc;

use crate::{
    expedite::{Expedite, Hold},
    metrics::Metrics,
    node::Node,
    server::{Replies, Service},
};

/// How many pages of connections wait for a client that reads more slowly than the maps are walked.
const PAGES: usize = 2;

/// The node behind the socket.
#[derive(Debug)]
pub struct NodeService {
    node: Arc<Node>,
    metrics: Arc<Metrics>,
    expedite: Arc<Expedite>,
}

impl NodeService {
    /// Serves `node`, counting in `metrics`.
    pub fn new(node: Arc<Node>, metrics: Arc<Metrics>, expedite: Arc<Expedite>) -> Self {
        Self { node, metrics, expedite }
    }

    async fn reply(&self, request: Request) -> Result<Reply, ApiError> {
        let node = &self.node;
        Ok(match request {
            Request::Reserve(reserve) => Reply::Reservation(Box::new(node.reserve(&reserve)?)),
            Request::Commit(commit) => {
                node.commit(&commit).await?;
                Reply::Done
            }
            Request::Release { key } => {
                node.release(&key).await?;
                Reply::Done
            }
            Request::Check { key } => Reply::Checked(Box::new(node.check(&key))),
            Request::Gc { network, valid } => {
                Reply::Collected { released: node.collect(&network, &valid).await? }
            }
            Request::Status => Reply::Status(Box::new(node.status())),
            Request::Endpoints => Reply::Endpoints(node.endpoints()),
            Request::Pools => Reply::Pools(node.pools()),
            Request::Address { address } => Reply::Endpoints(node.endpoint_of(address).into_iter().collect()),
            Request::ReleaseAddress { address, force } => {
                node.release_address(address, force).await?;
                Reply::Done
            }
            _ => {
                return Err(ApiError::new(
                    ErrorKind::InvalidRequest,
                    "this daemon does not know the request",
                ));
            }
        })
    }

    /// Sends the matching connections page by page. The maps are walked on a thread of its own, for that may take
    /// long, and waits for the client.
    async fn conntrack(&self, filter: ConntrackFilter, replies: &mut Replies<'_>) -> io::Result<()> {
        let (pages, mut walked) = mpsc::channel(PAGES);
        let node = Arc::clone(&self.node);
        let walk = tokio::task::spawn_blocking(move || {
            node.kernel().conntrack(&filter, &mut |connections| pages.blocking_send(connections).is_ok())
        });
        while let Some(connections) = walked.recv().await {
            replies.send(&Reply::Conntrack(ConntrackPage { connections, last: false })).await?;
        }
        match walk.await {
            Ok(Ok(())) => {
                replies.send(&Reply::Conntrack(ConntrackPage { connections: Vec::new(), last: true })).await
            }
            Ok(Err(error)) => {
                replies.send(&Reply::Error(ApiError::new(ErrorKind::Internal, error.to_string()))).await
            }
            Err(error) => {
                replies.send(&Reply::Error(ApiError::new(ErrorKind::Internal, error.to_string()))).await
            }
        }
    }
}

impl Service for NodeService {
    /// Held from an ADD's reservation to its commit, or until its plugin is gone: between them programs are attached.
    type Session = Option<Hold>;

    async fn answer(
        &self,
        request: Request,
        session: &mut Option<Hold>,
        replies: &mut Replies<'_>,
    ) -> io::Result<()> {
        let began = Instant::now();
        match request {
            Request::Reserve(_) => *session = Some(self.expedite.hold()),
            _ => *session = None,
        }
        let name = name(&request);
        if let Request::Conntrack(filter) = request {
            let sent = self.conntrack(filter, replies).await;
            self.metrics.request(name, began.elapsed(), None);
            return sent;
        }
        let reply = self.reply(request).await;
        self.metrics.request(name, began.elapsed(), reply.as_ref().err().map(|error| error.kind));
        let reply = reply.unwrap_or_else(|error| {
            tracing::warn!(request = name, %error, "refused");
            Reply::Error(error)
        });
        replies.send(&reply).await
    }

    fn misunderstood(&self) {
        self.metrics.error(ErrorKind::InvalidRequest);
    }
}

/// A request's name in the metrics and logs.
fn name(request: &Request) -> &'static str {
    match request {
        Request::Reserve(_) => "reserve",
        Request::Commit(_) => "commit",
        Request::Release { .. } => "release",
        Request::Check { .. } => "check",
        Request::Gc { .. } => "gc",
        Request::Status => "status",
        Request::Endpoints => "endpoints",
        Request::Pools => "pools",
        Request::Address { .. } => "address",
        Request::ReleaseAddress { .. } => "release_address",
        Request::Conntrack(_) => "conntrack",
        _ => "other",
    }
}
