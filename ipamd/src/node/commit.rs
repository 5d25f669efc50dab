//! The second half of ADD: the interface stands, and its traffic is let through.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ipamd_api::{ApiError, AttachmentKey, ErrorKind, wire::Commit};
use tokio::{task::JoinHandle, time::timeout};

use super::{internal_error::internal, records::local_endpoint, this_node::Node};
use ipamd_model::endpoint::Slot;
use ipamd_plan::records::{Placed, entry};
use ipamd_store::Batch;

/// How long an ADD or DEL waits for a change of the whole cluster to be in force.
const PATIENCE: Duration = Duration::from_millis(50);
/// And how long for its own policy, and for that of other pods that came before it.
const PATIENCE_WITH_OTHERS: Duration = Duration::from_secs(2);
/// How often it is looked then what is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The patience of one ADD or DEL, whatever it waits for: policy, services, or one after the other.
pub(super) struct Patience {
    began: Instant,
    /// How long changes of the cluster had taken then.
    changes: Duration,
}

impl Patience {
    pub fn begin(node: &Node) -> Self {
        Self::begun_at(Instant::now(), node)
    }

    /// One that began then, when changes had taken as long as now.
    pub(super) fn begun_at(began: Instant, node: &Node) -> Self {
        Self { began, changes: node.time_of_changes() }
    }

    /// How long is waited until it is asked (again) whether it is over.
    fn step(&self) -> Duration {
        PATIENCE.saturating_sub(self.began.elapsed()).max(LOOK_EVERY)
    }

    /// Whether it is over: most of the time went to changes of the cluster, or it was long.
    pub(super) fn is_over(&self, node: &Node) -> bool {
        let waited = self.began.elapsed();
        let is_behind_changes = node.time_of_changes().saturating_sub(self.changes) >= PATIENCE / 2;
        waited >= if is_behind_changes { PATIENCE } else { PATIENCE_WITH_OTHERS }
    }
}

impl Node {
    /// Tells the programs of an attachment once its record is durable.
    ///
    /// # Errors
    /// Why not; the programs go on dropping everything of the interface then.
    pub async fn commit(&self, request: &Commit) -> Result<(), ApiError> {
        let key = &request.key;
        let stored = {
            let mut state = self.state();
            let record = state.records.get_mut(key).ok_or_else(|| unknown(key))?;
            match record.stored.take() {
                Some(ticket) => ticket,
                // Another commit took it. An empty batch is durable when all before it are.
                None => self.submit(Batch::new())?,
            }
        };
        let has_programs = self.has_programs(key, request.host_ifindex)?;
        stored.wait().await.map_err(|error| self.refusal(&error))?;
        has_programs.await.map_err(internal)??;
        let patience = Patience::begin(self);
        let slot = self.admit(key, &patience).await?;
        self.enforce(key, Placed { ifindex: request.host_ifindex, slot })?;
        self.enable_socket_lb(key, request.netns_cookie)?;
        self.keep_file(key);
        self.program_host_ports(key, &patience).await?;
        tracing::info!(%key, ifindex = request.host_ifindex, "endpoint added");
        Ok(())
    }

    /// Has the host end run this daemon's programs. The plugin attached what was pinned when it opened the pins: a daemon that
    /// started since has pinned programs of its own, and its first pass did not see an interface that was about to be.
    fn has_programs(
        &self,
        key: &AttachmentKey,
        ifindex: u32,
    ) -> Result<JoinHandle<Result<(), ApiError>>, ApiError> {
        let host_ifname = key.host_ifname();
        self.is_at(&host_ifname, ifindex)?;
        let kernel = Arc::clone(&self.kernel);
        let key = key.clone();
        Ok(tokio::task::spawn_blocking(move || {
            let repairs = kernel.heal_programs(&host_ifname, ifindex).map_err(internal)?;
            for repair in repairs {
                tracing::info!(%key, "{repair}: the daemon was started in the midst of the ADD");
            }
            Ok(())
        }))
    }

    /// Refuses what is not the index of that host end.
    fn is_at(&self, host_ifname: &str, ifindex: u32) -> Result<(), ApiError> {
        if self.kernel.link_index(host_ifname) == Some(ifindex) {
            return Ok(());
        }
        Err(ApiError::new(
            ErrorKind::InvalidRequest,
            format!(
                "there is no interface {host_ifname} of index {ifindex} in the daemon's network namespace"
            ),
        ))
    }

    /// Keeps who it is beside the socket.
    fn keep_file(&self, key: &AttachmentKey) {
        // Under the lock: a release that comes now removes it again.
        let state = self.state();
        let Some(record) = state.records.get(key) else { return };
        if let Some(at) = record.committed {
            self.files.put(&record.attachment, at.ifindex);
        }
    }

    /// Has the attachment's policy put into the tables. A large change of the cluster is not waited for: until it is in force,
    /// and then this attachment's policy, nothing of the attachment passes.
    async fn admit(&self, key: &AttachmentKey, patience: &Patience) -> Result<Slot, ApiError> {
        let endpoint = local_endpoint(&self.state().records.get(key).ok_or_else(|| unknown(key))?.attachment);
        let mut admission = self.policy.queue(endpoint).map_err(internal)?;
        drop(self.take_in());
        loop {
            if let Some(outcome) = admission.within(patience.step()).await {
                return outcome.map_err(internal);
            }
            if patience.is_over(self) {
                tracing::info!(
                    %key,
                    "a large policy change is under way; the endpoint has no traffic until its policy is in force"
                );
                return admission.go_on().map_err(internal);
            }
        }
    }

    /// For how long changes of the cluster have kept others from policy and services, all together.
    fn time_of_changes(&self) -> Duration {
        self.policy.time_of_changes() + self.services.time_of_changes()
    }

    /// Has endpoints and their ports of the node be taken into the tables that wait for that, unless that is about to be done. Each
    /// on a thread of its own: a change of services keeps no policy waiting.
    fn take_in(&self) -> Vec<JoinHandle<()>> {
        let mut taking = Vec::new();
        if self.policy.needs_taking() {
            let policy = Arc::clone(&self.policy);
            taking.push(tokio::task::spawn_blocking(move || policy.take()));
        }
        if self.services.needs_taking() {
            let services = Arc::clone(&self.services);
            taking.push(tokio::task::spawn_blocking(move || services.take()));
        }
        taking
    }

    /// The same, and waits for it unless a large change is under way, after which it is done.
    pub(super) async fn taken_in(&self, patience: &Patience) {
        for mut taking in self.take_in() {
            while timeout(patience.step(), &mut taking).await.is_err() {
                if patience.is_over(self) {
                    return;
                }
            }
        }
    }

    /// Has the node's ports that the container asked for lead to it.
    async fn program_host_ports(&self, key: &AttachmentKey, patience: &Patience) -> Result<(), ApiError> {
        let (mappings, addresses) = {
            let state = self.state();
            let Some(record) = state.records.get(key) else { return Err(unknown(key)) };
            let attachment = &record.attachment;
            (attachment.port_mappings.clone(), attachment.first_ips().collect::<Vec<_>>())
        };
        if mappings.is_empty() {
            return Ok(());
        }
        self.services.set_host_ports_later(key, mappings, addresses);
        self.taken_in(patience).await;
        Ok(())
    }

    /// Has the container's sockets be led to services' backends.
    fn enable_socket_lb(&self, key: &AttachmentKey, cookie: Option<u64>) -> Result<(), ApiError> {
        let mut state = self.state();
        let (Some(cookie), Some(record)) = (cookie, state.records.get_mut(key)) else { return Ok(()) };
        self.kernel.put_namespace(cookie).map_err(internal)?;
        if record.attachment.netns_cookie.replace(cookie) != Some(cookie) {
            let mut batch = Batch::new();
            batch.put(&record.attachment).map_err(|error| self.refusal(&error))?;
            // Nobody need wait for it: a daemon that has not read it finds the map in the kernel as it is.
            drop(self.submit(batch)?);
        }
        Ok(())
    }

    fn enforce(&self, key: &AttachmentKey, at: Placed) -> Result<(), ApiError> {
        let ifindex = at.ifindex;
        let mut state = self.state();
        // It may have been released while its record was on the way to the disk.
        let Some(record) = state.records.get_mut(key) else {
            self.policy.dismiss_later(key);
            return Err(unknown(key));
        };
        self.is_at(&key.host_ifname(), ifindex)?;
        let attachment = &record.attachment;
        let entry = entry(attachment, at, false);
        for (done, ip) in attachment.ips().enumerate() {
            if let Err(error) = self.kernel.put_endpoint(ip, &entry) {
                for ip in attachment.ips().take(done) {
                    // The plugin undoes the whole of it anyway.
                    let _ = self.kernel.remove_endpoint(ip);
                }
                return Err(internal(error));
            }
        }
        record.committed = Some(at);
        // What was sent to these addresses before they existed has been judged on that.
        self.kernel.raise_epoch(&attachment.ips().collect()).map_err(internal)
    }
}

fn unknown(key: &AttachmentKey) -> ApiError {
    ApiError::new(ErrorKind::NotFound, format!("{key} has no reservation"))
}
