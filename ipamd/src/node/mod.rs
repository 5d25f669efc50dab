//! The node: its attachments, from reservation to release, and everything that is asked about them.
//!
//! One lock guards the records and the addresses. It is held for map lookups and for single system calls on the
//! programs' maps, never while waiting; so a record and what the programs know of it change together.

mod adopt;
mod chained;
mod check;
mod commit;
mod kernel;
mod namespaces;
mod ports;
mod release;
mod repair;
mod report;
mod reserve;
mod resume;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ipamd_api::{
    ApiError, AttachmentKey, ErrorKind,
    wire::{self, MapUse, Reservation},
};

pub use kernel::Kernel;
pub use repair::Leak;

use ipamd_addresses::{
    attachment::Attachment,
    ipam::{Allocator, Pool},
};
use ipamd_datapath::nearly_full;
use ipamd_model::endpoint::FALLBACK_MTU;
use ipamd_plan::records::Placed;
use ipamd_policy::enforce::{Enforcer, LocalEndpoint};
use ipamd_runtime::monotonic::Moment;
use ipamd_services::Balancer;
use ipamd_store::{Batch, Loaded, Store, StoreError, Ticket, endpoint_files::EndpointFiles};

/// How long the store may take for its last batches when the daemon ends.
const FLUSHES_WITHIN: Duration = Duration::from_millis(500);

/// One attachment as the daemon holds it.
#[derive(Debug)]
struct Record {
    attachment: Attachment,
    /// Resolves when the record is durable; the commit that waits for it takes it.
    stored: Option<Ticket>,
    /// Where it is, from the commit on.
    committed: Option<Placed>,
    /// When it was last asked for, on the monotonic clock: if somebody sets the wall clock, an ADD under way must not
    /// look old.
    touched: Moment,
}

#[derive(Debug)]
struct State {
    allocator: Allocator,
    records: BTreeMap<AttachmentKey, Record>,
    /// The cursors as they were last stored.
    cursors: BTreeMap<String, IpAddr>,
    /// Host ends that are being removed.
    leaving: BTreeSet<u32>,
}

/// The results of the last pass of the reconciliation, for `status`.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// The uplinks.
    pub uplinks: Vec<wire::Uplink>,
    /// Problems that need an operator, a sentence each.
    pub problems: Vec<String>,
}

/// How attachments of this node get their interfaces and addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttachmentMode {
    /// Cambric makes the interface and assigns addresses from these pools.
    Own(Vec<Pool>),
    /// A plugin before Cambric in the chain does both.
    Chained,
}

/// The node. Shared by the server, the reconciliation and the metrics.
#[derive(Debug)]
pub struct Node {
    name: String,
    is_chained: bool,
    kernel: Arc<dyn Kernel>,
    policy: Arc<Enforcer>,
    services: Arc<Balancer>,
    store: Store,
    /// The files of the committed endpoints, beside the socket.
    files: EndpointFiles,
    /// Whether traffic of adopted endpoints, whose pods are unknown, is allowed.
    lets_unknown_pass: bool,
    state: Mutex<State>,
    findings: Mutex<Findings>,
    /// How full the maps of flows are, by their names.
    flows: Mutex<BTreeMap<String, MapUse>>,
    maps: Mutex<BTreeMap<String, MapUse>>,
    mtu: Mutex<u32>,
    /// The failure of the store that keeps it from taking records.
    store_failure: Mutex<Option<String>>,
    /// Why the Node's new pod CIDRs are not used.
    refused_prefixes: Mutex<Option<String>>,
    started: Instant,
}

impl Node {
    /// Resumes from the store, the programs' maps and the endpoints' files. What one of them has lost is restored from
    /// the others.
    pub fn new(
        name: String,
        mode: AttachmentMode,
        (store, mut loaded): (Store, Loaded),
        files: EndpointFiles,
        kernel: Box<dyn Kernel>,
        policy: Arc<Enforcer>,
        services: Arc<Balancer>,
    ) -> Result<Self, ApiError> {
        let entries = kernel.endpoints().map_err(internal)?;
        let found = resume::complete(&mut loaded, &files, kernel.as_ref());
        let (is_chained, pools) = match mode {
            AttachmentMode::Own(pools) => (false, pools),
            AttachmentMode::Chained => (true, Vec::new()),
        };
        let allocator = Allocator::new(pools, &loaded.attachments, &loaded.cursors);
        let resume = |attachment: Attachment| {
            let known = attachment.ips().find_map(|ip| entries.get(&ip));
            let known = known.map(|entry| Placed { ifindex: entry.ifindex, slot: entry.slot });
            let committed = known.or_else(|| resume::placed(&attachment, &found, kernel.as_ref()));
            // Of a time in the future the clock was set back, perhaps by years, which must not protect for as long.
            let touched = Moment::now().before(now().abs_diff(attachment.created));
            (attachment.key.clone(), Record { attachment, stored: None, committed, touched })
        };
        let records = loaded.attachments.into_iter().map(resume).collect();
        let state = State { allocator, records, cursors: loaded.cursors, leaving: BTreeSet::new() };
        let store_failure = store.unwritable().map(ToString::to_string);
        let node = Self {
            name,
            is_chained,
            kernel: Arc::from(kernel),
            policy,
            services,
            store,
            files,
            lets_unknown_pass: false,
            state: Mutex::new(state),
            findings: Mutex::default(),
            flows: Mutex::default(),
            maps: Mutex::default(),
            mtu: Mutex::new(FALLBACK_MTU),
            store_failure: Mutex::new(store_failure),
            refused_prefixes: Mutex::default(),
            started: Instant::now(),
        };
        node.store_restored(&found.lost)?;
        node.keep_files();
        Ok(node)
    }

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
        *lock(&self.refused_prefixes) = problem;
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
        *lock(&self.mtu) = mtu;
    }

    /// Sets the results of a pass of the reconciliation.
    pub fn set_findings(&self, findings: Findings) {
        *lock(&self.findings) = findings;
    }

    /// Sets the use of the maps of flows, the waiting lines included.
    pub fn set_flow_use(&self, flows: BTreeMap<String, MapUse>) {
        *lock(&self.flows) = flows;
    }

    /// Sets the use of all maps (that of flows is from the last sweep), and logs each map that has become nearly full.
    pub fn set_map_use(&self, mut maps: BTreeMap<String, MapUse>) {
        maps.extend(lock(&self.flows).clone());
        let mut known = lock(&self.maps);
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

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn submit(&self, batch: Batch) -> Result<Ticket, ApiError> {
        self.store.submit(batch).map_err(|error| self.refusal(&error))
    }

    /// Converts an error of the store. A lasting one is kept for [`Self::status`].
    fn refusal(&self, error: &StoreError) -> ApiError {
        let kind = match error {
            StoreError::Busy => ErrorKind::TryAgainLater,
            StoreError::Unencodable { .. } => ErrorKind::InvalidRequest,
            StoreError::Write { .. } => {
                *lock(&self.store_failure) = Some(error.to_string());
                ErrorKind::TryAgainLater
            }
            _ => {
                *lock(&self.store_failure) = Some(error.to_string());
                ErrorKind::Internal
            }
        };
        ApiError::new(kind, error.to_string())
    }

    /// The reservation as the plugin gets it.
    fn reservation(&self, record: &Record) -> Reservation {
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

/// The attachment as policy needs it.
fn local_endpoint(attachment: &Attachment) -> LocalEndpoint {
    LocalEndpoint {
        key: attachment.key.clone(),
        pod: attachment.pod.clone(),
        labels: attachment.labels.clone(),
        addresses: attachment.ips().collect(),
    }
}

/// Locks a mutex that a panicking thread may have held. Each critical section leaves the state consistent at every step
/// that can panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Seconds since the Unix epoch.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// An internal error.
fn internal(error: impl std::fmt::Display) -> ApiError {
    ApiError::new(ErrorKind::Internal, error.to_string())
}

#[cfg(test)]
mod tests;
