//! Which part answers which request, and what is measured of it.

use std::{io, sync::Arc, time::Instant};

use ipamd_api::{
    ApiError, ErrorKind, Reply, Request,
    wire::{ClusterStatus, Pod, Status},
};
use tokio::task::JoinHandle;

use super::{
    monitor,
    node_service::{Answered, NodeService, aside},
    session::Session,
};
use crate::{
    server::{Replies, Service},
    startup_reason::untold,
};
use ipamd_sources::is_stale;

impl NodeService {
    fn status(&self, mut status: Status) -> Status {
        status.cluster = self.cluster.as_ref().map(|cluster| cluster.status());
        if let Some(cluster) = &status.cluster
            && is_stale(cluster, self.stale_after)
        {
            status.problems.push(stale(cluster));
        }
        status.problems.extend(self.cluster.as_ref().and_then(|cluster| cluster.problem()));
        status
    }

    async fn carry_out(
        &self,
        request: Request,
        session: &mut Session,
        replies: &mut Replies<'_>,
    ) -> io::Result<Answered> {
        match request {
            Request::Conntrack(filter) => self.conntrack(filter, replies).await,
            Request::DnsNames(filter) => self.dns_names(filter, replies).await,
            Request::Policies => self.policies(replies).await,
            Request::Services => self.services(replies).await,
            Request::Service(query) => self.service(query, replies).await,
            Request::Policy(query) => self.policy(query, replies).await,
            Request::PolicyDiff => self.policy_diff(session.take_files(), false, replies).await,
            Request::PolicyDiffStaged => self.policy_diff(session.take_files(), true, replies).await,
            Request::Reserve(reserve) => Ok(match session.begin(&reserve.key, &self.add_locks).await {
                Ok(()) => {
                    let reply = self.reply(Request::Reserve(reserve)).await;
                    session.has_reserved(reply.is_ok());
                    reply.map(Some)
                }
                Err(error) => Err(error),
            }),
            Request::Commit(commit) => {
                session.asked().await;
                Ok(self.node.commit(&commit).await.map(|()| Some(Reply::Done)))
            }
            Request::PolicyDiffFile(file) => {
                Ok(session.add_file(file, &self.files).map(|()| Some(Reply::Done)))
            }
            request => Ok(self.reply(request).await.map(Some)),
        }
    }

    /// Looks up a pod that the watch has not sent yet, while the plugin makes the container's interface.
    fn look_up_pod(&self, pod: Option<&Pod>) -> Option<JoinHandle<()>> {
        let (pod_lookup, pod) = (self.pod_lookup.clone()?, pod?.clone());
        if pod_lookup.knows(&pod) {
            return None;
        }
        Some(tokio::spawn(async move {
            if let Err(error) = pod_lookup.look_up(&pod).await {
                tracing::warn!("{error}; the policies that select the pod follow from what is known of it");
            }
        }))
    }

    async fn reply(&self, request: Request) -> Result<Reply, ApiError> {
        let node = &self.node;
        Ok(match request {
            Request::Reserve(reserve) => {
                let node = Arc::clone(node);
                Reply::Reservation(Box::new(aside(move || node.reserve(&reserve)).await??))
            }
            Request::Release { key } => {
                node.release(&key).await?;
                Reply::Done
            }
            Request::Check { key } => {
                let node = Arc::clone(node);
                Reply::Checked(Box::new(aside(move || node.check(&key)).await?))
            }
            Request::Gc { network, valid } => {
                Reply::Collected { released: node.collect(&network, &valid).await? }
            }
            Request::Status => {
                let node = Arc::clone(node);
                Reply::Status(Box::new(self.status(aside(move || node.status()).await?)))
            }
            Request::Endpoints => Reply::Endpoints(node.endpoints()),
            Request::Pools => Reply::Pools(node.pools()),
            Request::Address { address } => Reply::Endpoints(node.endpoint_of(address).into_iter().collect()),
            Request::ReleaseAddress { address, force } => {
                node.release_address(address, force).await?;
                Reply::Done
            }
            Request::PolicyTrace(query) => self.policy_trace(query).await?,
            _ => {
                return Err(ApiError::new(
                    ErrorKind::InvalidRequest,
                    "this daemon does not know the request",
                ));
            }
        })
    }
}

/// The problem of a stale cluster state, in words.
fn stale(cluster: &ClusterStatus) -> String {
    let mut text = format!("the cluster ({}) is not up to date", cluster.source);
    text += &untold(cluster);
    match cluster.age_seconds {
        Some(age) => format!("{text}; what was known {age} s ago is in force"),
        None => text,
    }
}

impl Service for NodeService {
    type Session = Session;

    async fn answer(
        &self,
        request: Request,
        session: &mut Session,
        replies: &mut Replies<'_>,
    ) -> io::Result<()> {
        let began = Instant::now();
        if let Request::Reserve(reserve) = &request {
            session.ask(self.look_up_pod(reserve.pod.as_ref()));
        }
        let name = name(&request);
        let answered = match request {
            // It is answered once the client is told that it listens; what follows is no time that it waits.
            Request::Monitor(filter) => match self.monitor.subscribe(filter) {
                Ok(subscription) => {
                    self.metrics.request(name, began.elapsed(), None);
                    return self.stream(subscription, replies).await;
                }
                Err(error) => Ok(Err(monitor::refusal(&error))),
            },
            request => self.carry_out(request, session, replies).await,
        };
        if name != "reserve" {
            session.end();
        }
        let refused = answered.as_ref().ok().and_then(|answered| answered.as_ref().err());
        self.metrics.request(name, began.elapsed(), refused.map(|error| error.kind));
        match answered? {
            Ok(Some(reply)) => replies.send(&reply).await,
            Ok(None) => Ok(()),
            Err(error) => {
                tracing::warn!(request = name, %error, "request refused");
                replies.send(&Reply::Error(error)).await
            }
        }
    }

    fn is_under_way(&self, session: &Session) -> bool {
        session.is_under_way()
    }

    async fn gone(&self, session: &mut Session) {
        if let Some(key) = session.reserved()
            && let Err(error) = self.node.give_up(key).await
        {
            tracing::warn!(%key, %error, "cannot release the reservation of an aborted ADD; it is freed later as a leak");
        }
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
        Request::DnsNames(_) => "dns_names",
        Request::Policies => "policies",
        Request::Policy(_) => "policy",
        Request::PolicyTrace(_) => "policy_trace",
        Request::PolicyDiffFile(_) => "policy_diff_file",
        Request::PolicyDiff | Request::PolicyDiffStaged => "policy_diff",
        Request::Monitor(_) => "monitor",
        Request::Services => "services",
        Request::Service(_) => "service",
        _ => "other",
    }
}
