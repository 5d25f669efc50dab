//! What the daemon counts and measures, in Prometheus' terms.

mod http;

use std::{fmt::Write as _, sync::atomic::AtomicU64, time::Duration};

use ipamd_api::{ErrorKind, wire::Pool};
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

pub use http::serve;

use crate::node::Node;

/// Bounds of the latency histograms, in seconds: an ADD's share in the daemon is a few milliseconds, most of it disk.
const LATENCIES: [f64; 11] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    request: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabels {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RepairLabels {
    subject: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PoolLabels {
    pool: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ConntrackLabels {
    family: String,
}

type Gauges<L> = Family<L, Gauge<u64, AtomicU64>>;

/// The daemon's metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Histogram>,
    errors: Family<ErrorLabels, Counter>,
    repairs: Family<RepairLabels, Counter>,
    addresses: Gauges<PoolLabels>,
    endpoints: Gauge<u64, AtomicU64>,
    drops: Family<ReasonLabels, Counter>,
    untracked: Counter,
    conntrack: Gauges<ConntrackLabels>,
    conntrack_capacity: Gauges<ConntrackLabels>,
    problems: Gauge<u64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("cambric"),
            requests: Family::new_with_constructor(|| Histogram::new(LATENCIES)),
            errors: Family::default(),
            repairs: Family::default(),
            addresses: Family::default(),
            endpoints: Gauge::default(),
            drops: Family::default(),
            untracked: Counter::default(),
            conntrack: Family::default(),
            conntrack_capacity: Family::default(),
            problems: Gauge::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let registry = &mut self.registry;
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "What is running", build);
        registry.register_with_unit(
            "requests",
            "Time from a request's arrival to its answer, by request and outcome",
            Unit::Seconds,
            self.requests.clone(),
        );
        registry.register("errors", "Requests refused, by the sort of error", self.errors.clone());
        registry.register(
            "repairs",
            "Things found amiss and put right, by what they were",
            self.repairs.clone(),
        );
        registry.register("pool_addresses", "Addresses of each pool, used and free", self.addresses.clone());
        registry.register("endpoints", "Committed endpoints", self.endpoints.clone());
        registry.register("drops", "Packets dropped by the programs, by reason", self.drops.clone());
        registry.register(
            "untracked_flows",
            "Flows that passed although conntrack could not take them",
            self.untracked.clone(),
        );
        registry.register(
            "conntrack_entries",
            "Connections remembered, as of the last sweep",
            self.conntrack.clone(),
        );
        registry.register(
            "conntrack_capacity",
            "Connections that can be remembered",
            self.conntrack_capacity.clone(),
        );
        registry.register(
            "problems",
            "Things that need a person; cambricctl status names them",
            self.problems.clone(),
        );
    }

    /// Counts a request and how long it took.
    pub fn request(&self, request: &'static str, took: Duration, error: Option<ErrorKind>) {
        let outcome = if error.is_some() { "error" } else { "ok" };
        self.requests.get_or_create(&RequestLabels { request, outcome }).observe(took.as_secs_f64());
        if let Some(kind) = error {
            self.error(kind);
        }
    }

    /// Counts an error.
    pub fn error(&self, kind: ErrorKind) {
        let kind = match kind {
            ErrorKind::UnsupportedVersion => "unsupported_version",
            ErrorKind::InvalidRequest => "invalid_request",
            ErrorKind::PoolExhausted => "pool_exhausted",
            ErrorKind::AddressUnavailable => "address_unavailable",
            ErrorKind::InUse => "in_use",
            ErrorKind::NotFound => "not_found",
            ErrorKind::TryAgainLater => "try_again_later",
            ErrorKind::Internal => "internal",
            _ => "other",
        };
        self.errors.get_or_create(&ErrorLabels { kind }).inc();
    }

    /// Counts a repair.
    pub fn repair(&self, subject: &'static str) {
        self.repairs.get_or_create(&RepairLabels { subject }).inc();
    }

    /// Everything in Prometheus' text format, with what `node` says now.
    pub fn render(&self, node: &Node) -> String {
        let status = node.status();
        self.endpoints.set(status.endpoints);
        self.problems.set(status.problems.len() as u64);
        for Pool { name, capacity, used, .. } in node.pools() {
            for (state, count) in [("used", used), ("free", capacity.saturating_sub(used))] {
                self.addresses.get_or_create(&PoolLabels { pool: name.clone(), state }).set(count);
            }
        }
        for (reason, count) in status.drops {
            let total = self.drops.get_or_create(&ReasonLabels { reason });
            // The programs count; the maps may be new after a reboot only.
            total.inc_by(count.saturating_sub(total.get()));
        }
        self.untracked.inc_by(status.untracked.saturating_sub(self.untracked.get()));
        for (family, used) in status.conntrack {
            let labels = ConntrackLabels { family };
            self.conntrack.get_or_create(&labels).set(used.entries);
            self.conntrack_capacity.get_or_create(&labels).set(used.capacity);
        }
        let mut text = String::new();
        if let Err(error) = text::encode(&mut text, &self.registry) {
            let _ = writeln!(text, "# {error}");
        }
        text
    }
}
