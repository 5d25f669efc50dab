//! The node itself: what is held of its attachments, and what it works with.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use ipamd_api::{
    ApiError, ErrorKind,
    wire::{MapUse, Reservation},
};

use super::{
    findings::Findings,
    kernel::Kernel,
    records::{Record, State},
};
use ipamd_addresses::attachment::Attachment;
use ipamd_datapath::nearly_full;
use ipamd_policy::enforce::Enforcer;
use ipamd_runtime::queued_lock::locked;
use ipamd_services::Balancer;
use ipamd_store::{Batch, Store, StoreError, Ticket, endpoint_files::EndpointFiles};

/// How long the store may take for its last batches when the daemon ends.
const FLUSHES_WITHIN: Duration = Duration::from_millis(500);

/// The node. Shared by the server, the reconciliation and the metrics.
#[derive(Debug)]
pub struct Node {
    pub(super) name: String,
    pub(super) is_chained: bool,
    pub(super) kernel: Arc<dyn Kernel>,
    pub(super) policy: Arc<Enforcer>,
    pub(super) services: Arc<Balancer>,
    pub(super) store: Store,
    /// The files of the committed endpoints, beside the socket.
    pub(super) files: EndpointFiles,
    /// Whether traffic of adopted endpoints, whose pods are unknown, is allowed.
    pub(super) lets_unknown_pass: bool,
    pub(super) state: Mutex<State>,
    pub(super) findings: Mutex<Findings>,
    /// How full the maps of flows are, by their names.
    pub(super) flows: Mutex<BTreeMap<String, MapUse>>,
    pub(super) maps: Mutex<BTreeMap<String, MapUse>>,
    pub(super) mtu: Mutex<u32>,
    /// The failure of the store that keeps it from taking records.
    pub(super) store_failure: Mutex<Option<String>>,
    /// Why the Node's new pod CIDRs are not used.
    pub(super) refused_prefixes: Mutex<Option<String>>,
    pub(super) started: Instant,
}

impl Node {
    /// Allows traffic of adopted endpoints, whose pods are unknown. For a node without a cluster: it has no policies
    /// that could select them.
    #[must_use]
    pub fn let_unknown_pass(self, may: bool) -> Self {
        Self { lets_unknown_pass: may, ..self }
    }

    /// Sets how long a freed address rests before another attachment gets it, while there are other addresses.
    #[must_use]
    pub fn rest_addresses(mut self, rest: Duration) -> Self {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        state.allocator.set_rest(rest);
        self
    }

    /// The kernel.
    pub fn kernel(&self) -> &dyn Kernel {
        self.kernel.as_ref()
    }

    /// Sets why the Node's new pod CIDRs are not used; `None` if there is no such problem.
    pub fn refuse_prefixes(&self, problem: Option<String>) {
        *locked(&self.refused_prefixes) = problem;
    }

    /// All attachments.
    pub fn attachments(&self) -> Vec<Attachment> {
        self.state().records.values().map(|record| record.attachment.clone()).collect()
    }

    /// The policy of its endpoints.
    pub fn policy(&self) -> &Arc<Enforcer> {
        &self.policy
    }

    /// Sets the MTU that attachments get from now on.
    pub fn set_mtu(&self, mtu: u32) {
        *locked(&self.mtu) = mtu;
    }

    /// Sets the results of a pass of the reconciliation.
    pub fn set_findings(&self, findings: Findings) {
        *locked(&self.findings) = findings;
    }

    /// Sets the use of the maps of flows, the waiting lines included.
    pub fn set_flow_use(&self, flows: BTreeMap<String, MapUse>) {
        *locked(&self.flows) = flows;
    }

    /// Sets the use of all maps (that of flows is from the last sweep), and logs each map that has become nearly full.
    pub fn set_map_use(&self, mut maps: BTreeMap<String, MapUse>) {
        maps.extend(locked(&self.flows).clone());
        let mut known = locked(&self.maps);
        for (name, used) in &maps {
            let before = known.get(name).and_then(|used| nearly_full(name, *used));
            if let (None, Some(warning)) = (before, nearly_full(name, *used)) {
                tracing::warn!(map = %name, entries = used.entries, capacity = used.capacity, "{warning}");
            }
        }
        *known = maps;
    }

    /// Closes the store once all that was submitted is written.
    ///
    /// # Errors
    /// Why the last records could not be written.
    pub fn close(self) -> Result<(), StoreError> {
        self.store.close()
    }

    /// Waits a moment for the store to have written all that was submitted.
    pub async fn flush(&self) {
        if let Ok(ticket) = self.submit(Batch::new()) {
            // What is not durable by then was not promised to anybody.
            let _ = tokio::time::timeout(FLUSHES_WITHIN, ticket.wait()).await;
        }
    }

    /// The records and the addresses. A thread that has panicked may have held the lock: each critical section leaves the state
    /// consistent at every step that can panic.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    pub(super) fn submit(&self, batch: Batch) -> Result<Ticket, ApiError> {
        self.store.submit(batch).map_err(|error| self.refusal(&error))
    }

    /// Converts an error of the store. A lasting one is kept for [`Self::status`].
    pub(super) fn refusal(&self, error: &StoreError) -> ApiError {
        let kind = match error {
            StoreError::Busy => ErrorKind::TryAgainLater,
            StoreError::Unencodable { .. } => ErrorKind::InvalidRequest,
            StoreError::Write { .. } => {
                *locked(&self.store_failure) = Some(error.to_string());
                ErrorKind::TryAgainLater
            }
            _ => {
                *locked(&self.store_failure) = Some(error.to_string());
                ErrorKind::Internal
            }
        };
        ApiError::new(kind, error.to_string())
    }

    /// The reservation as the plugin gets it.
    pub(super) fn reservation(&self, record: &Record) -> Reservation {
        let attachment = &record.attachment;
        let host_ifname = attachment.key.host_ifname();
        let committed =
            record.committed.is_some_and(|at| self.kernel.link_index(&host_ifname) == Some(at.ifindex));
        let [from_endpoint_link, to_endpoint_link] = self.kernel.link_pins(&host_ifname);
        Reservation {
            addresses: attachment.addresses.clone(),
            host_mac: attachment.host_mac,
            container_mac: attachment.container_mac,
            mtu: attachment.mtu,
            attach_mode: self.kernel.attach_mode(),
            from_endpoint: self.kernel.program_path("from_endpoint"),
            to_endpoint: self.kernel.program_path("to_endpoint"),
            from_endpoint_link,
            to_endpoint_link,
            host_ifname,
            committed,
            port_mappings: attachment.port_mappings.clone(),
            chained: attachment.chained,
            without_link: true,
        }
    }
}
