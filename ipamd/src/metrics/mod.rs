//! The daemon's metrics for Prometheus.

mod cluster;
mod http;

use std::{
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use ipamd_api::{ErrorKind, wire::Pool};
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

pub use http::{Served, serve};

use crate::node::Node;
use ipamd_sources::{SourceState, is_stale};

/// Bounds of the latency histograms, in seconds: an ADD's share in the daemon is a few milliseconds, most of it disk.
const LATENCIES: [f64; 11] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0];

/// Bounds of the time that a change of policies takes, in seconds: a write for each endpoint or pod concerned.
const POLICY_LATENCIES: [f64; 13] =
    [0.000_05, 0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];

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

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MapLabels {
    map: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PolicyLabels {
    state: &'static str,
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
    map_entries: Gauges<MapLabels>,
    map_capacity: Gauges<MapLabels>,
    policy_changes: Histogram,
    policy_longest_hold: Gauge<f64, AtomicU64>,
    service_changes: Histogram,
    policies: Gauges<PolicyLabels>,
    policy_refused: Gauge<u64, AtomicU64>,
    policy_maps: Gauge<u64, AtomicU64>,
    policy_classes: Gauge<u64, AtomicU64>,
    policy_memory: Gauge<u64, AtomicU64>,
    events_lost: Counter,
    events_suppressed: Counter,
    answers_suppressed: Counter,
    problems: Gauge<u64, AtomicU64>,
    kubernetes_event_failures: Counter,
    source: Option<Arc<dyn SourceState>>,
    stale_after: Duration,
    /// Held during a scrape: two scrapes at a time would add the kernel's counts twice.
    scrape: Mutex<()>,
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
            map_entries: Family::default(),
            map_capacity: Family::default(),
            policy_changes: Histogram::new(POLICY_LATENCIES),
            policy_longest_hold: Gauge::default(),
            service_changes: Histogram::new(POLICY_LATENCIES),
            policies: Family::default(),
            policy_refused: Gauge::default(),
            policy_maps: Gauge::default(),
            policy_classes: Gauge::default(),
            policy_memory: Gauge::default(),
            events_lost: Counter::default(),
            events_suppressed: Counter::default(),
            answers_suppressed: Counter::default(),
            problems: Gauge::default(),
            kubernetes_event_failures: Counter::default(),
            source: None,
            stale_after: Duration::ZERO,
            scrape: Mutex::default(),
        };
        metrics.register();
        metrics.register_policy();
        metrics
    }
}

impl Metrics {
    /// Metrics that include those of the cluster's source. A source that has been stale for `stale_after` counts as a
    /// problem.
    pub fn about(source: Option<Arc<dyn SourceState>>, stale_after: Duration) -> Self {
        let mut metrics = Self { source: source.clone(), stale_after, ..Self::default() };
        if let Some(source) = source {
            metrics.registry.register_collector(Box::new(cluster::Cluster(source)));
        }
        metrics
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "Version of the daemon", build);
        registry.register_with_unit(
            "requests",
            "Time from a request's arrival to its answer, by request and outcome",
            Unit::Seconds,
            self.requests.clone(),
        );
        registry.register("errors", "Refused requests, by kind of error", self.errors.clone());
        registry.register(
            "repairs",
            "Repairs of state that others changed or removed, by subject",
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
            "Entries of conntrack, as of the last sweep",
            self.conntrack.clone(),
        );
        registry.register("conntrack_capacity", "Capacity of conntrack", self.conntrack_capacity.clone());
        registry.register(
            "map_entries",
            "Entries of each map, at most a minute old",
            self.map_entries.clone(),
        );
        registry.register("map_capacity", "Capacity of each map", self.map_capacity.clone());
        registry.register(
            "problems",
            "Problems that need an operator; cambricctl status names them",
            self.problems.clone(),
        );
        registry.register(
            "kubernetes_event_failures",
            "Kubernetes Events that the API server refused",
            self.kubernetes_event_failures.clone(),
        );
    }

    fn register_policy(&mut self) {
        let registry = &mut self.registry;
        registry.register_with_unit(
            "policy_change",
            "Time from receiving a change of policies until it is enforced",
            Unit::Seconds,
            self.policy_changes.clone(),
        );
        registry.register_with_unit(
            "policy_longest_hold",
            "Longest time since the start for which a change of the cluster has kept endpoints from policy",
            Unit::Seconds,
            self.policy_longest_hold.clone(),
        );
        registry.register_with_unit(
            "service_change",
            "Time from receiving a change of services until it is in the tables",
            Unit::Seconds,
            self.service_changes.clone(),
        );
        registry.register(
            "policies",
            "Policies by state: enforced, or left out because they do not fit or name an unknown tier",
            self.policies.clone(),
        );
        registry.register(
            "policy_refused",
            "Objects of the cluster that were refused; cambricctl policy list names them",
            self.policy_refused.clone(),
        );
        registry.register("policy_maps", "Policy maps in force", self.policy_maps.clone());
        registry.register(
            "policy_classes",
            "Classes of addresses that policies tell apart",
            self.policy_classes.clone(),
        );
        registry.register_with_unit(
            "policy_memory",
            "Kernel memory of the policy tables",
            Unit::Bytes,
            self.policy_memory.clone(),
        );
        registry.register(
            "events_lost",
            "Events lost because the ring buffer was full",
            self.events_lost.clone(),
        );
        registry.register(
            "events_suppressed",
            "Events suppressed by the rate limit",
            self.events_suppressed.clone(),
        );
        registry.register(
            "answers_suppressed",
            "Resets and ICMP errors suppressed by the rate limit",
            self.answers_suppressed.clone(),
        );
    }

    /// Measures a change of policies.
    pub fn policy_change(&self, took: Duration, longest_hold: Duration) {
        self.policy_changes.observe(took.as_secs_f64());
        self.policy_longest_hold.set(longest_hold.as_secs_f64());
    }

    /// Counts a change of services.
    pub fn service_change(&self, took: Duration) {
        self.service_changes.observe(took.as_secs_f64());
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
            ErrorKind::PortInUse => "port_in_use",
            ErrorKind::NotFound => "not_found",
            ErrorKind::TryAgainLater => "try_again_later",
            ErrorKind::Internal => "internal",
            _ => "other",
        };
        self.errors.get_or_create(&ErrorLabels { kind }).inc();
    }

    /// Counts Events that the API server did not take.
    pub fn kubernetes_event_failures(&self, count: u64) {
        self.kubernetes_event_failures.inc_by(count);
    }

    /// Counts a repair.
    pub fn repair(&self, subject: &'static str) {
        self.repairs.get_or_create(&RepairLabels { subject }).inc();
    }

    /// Everything in Prometheus' text format, with what `node` says now.
    pub fn render(&self, node: &Node) -> String {
        let status = node.status();
        let _alone = self.scrape.lock().unwrap_or_else(PoisonError::into_inner);
        self.endpoints.set(status.endpoints);
        // A cluster that is not told of is one more, as in cambricctl status.
        let is_stale = |it: &Arc<dyn SourceState>| is_stale(&it.status(), self.stale_after);
        let stale = self.source.as_ref().is_some_and(is_stale);
        let of_source = self.source.as_ref().is_some_and(|it| it.problem().is_some());
        self.problems.set(status.problems.len() as u64 + u64::from(stale) + u64::from(of_source));
        for Pool { name, capacity, used, .. } in node.pools() {
            for (state, count) in [("used", used), ("free", capacity.saturating_sub(used))] {
                self.addresses.get_or_create(&PoolLabels { pool: name.clone(), state }).set(count);
            }
        }
        for (reason, count) in status.drops {
            let total = self.drops.get_or_create(&ReasonLabels { reason });
            // The programs count in maps, which are new only after a reboot.
            total.inc_by(count.saturating_sub(total.get()));
        }
        self.untracked.inc_by(status.untracked.saturating_sub(self.untracked.get()));
        for (family, used) in status.conntrack {
            let labels = ConntrackLabels { family };
            self.conntrack.get_or_create(&labels).set(used.entries);
            self.conntrack_capacity.get_or_create(&labels).set(used.capacity);
        }
        for (map, used) in status.maps {
            let labels = MapLabels { map };
            self.map_entries.get_or_create(&labels).set(used.entries);
            self.map_capacity.get_or_create(&labels).set(used.capacity);
        }
        let policy = &status.policy;
        for (state, count) in [("enforced", policy.policies), ("left_out", policy.left_out)] {
            self.policies.get_or_create(&PolicyLabels { state }).set(count);
        }
        self.policy_refused.set(policy.refused);
        self.policy_maps.set(policy.maps);
        self.policy_classes.set(policy.classes);
        self.policy_memory.set(policy.bytes);
        self.events_lost.inc_by(status.events_lost.saturating_sub(self.events_lost.get()));
        self.events_suppressed.inc_by(status.events_suppressed.saturating_sub(self.events_suppressed.get()));
        self.answers_suppressed
            .inc_by(status.answers_suppressed.saturating_sub(self.answers_suppressed.get()));
        let mut text = String::new();
        if let Err(error) = text::encode(&mut text, &self.registry) {
            let _ = writeln!(text, "# {error}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ipamd_api::wire::ClusterStatus;

    use super::*;
    use ipamd_sources::SourceCounts;

    #[derive(Debug)]
    struct Source;

    impl SourceState for Source {
        fn status(&self) -> ClusterStatus {
            ClusterStatus { age_seconds: Some(1), ..ClusterStatus::default() }
        }

        fn counts(&self) -> Vec<(String, SourceCounts)> {
            vec![("pods".to_owned(), SourceCounts::default())]
        }
    }

    /// The names of all metrics as they are scraped.
    fn scraped() -> BTreeSet<String> {
        let metrics = Metrics::about(Some(Arc::new(Source)), Duration::ZERO);
        // What has no sample is not scraped.
        metrics.request("status", Duration::ZERO, Some(ErrorKind::Internal));
        metrics.repair("link");
        drop(metrics.addresses.get_or_create(&PoolLabels { pool: "four".to_owned(), state: "used" }));
        drop(metrics.drops.get_or_create(&ReasonLabels { reason: "policy".to_owned() }));
        for family in [&metrics.conntrack, &metrics.conntrack_capacity] {
            drop(family.get_or_create(&ConntrackLabels { family: "ipv4".to_owned() }));
        }
        for family in [&metrics.map_entries, &metrics.map_capacity] {
            drop(family.get_or_create(&MapLabels { map: "endpoints4".to_owned() }));
        }
        drop(metrics.policies.get_or_create(&PolicyLabels { state: "enforced" }));
        let mut text = String::new();
        text::encode(&mut text, &metrics.registry).unwrap();
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        let names: BTreeSet<_> = types
            .map(|(name, kind)| match kind {
                "counter" => format!("{name}_total"),
                "info" => format!("{name}_info"),
                _ => name.to_owned(),
            })
            .collect();
        let registered = format!("{:?}", metrics.registry).matches("Descriptor {").count();
        let of_cluster = names.iter().filter(|name| name.starts_with("cambric_cluster_")).count();
        assert_eq!(names.len() - of_cluster, registered, "one has no sample here: {names:?}");
        names
    }

    #[test]
    fn the_document_has_each_metric_and_no_other() {
        let document = include_str!("../../../docs/metrics.md");
        let cells = document.lines().filter_map(|line| line.strip_prefix("| `cambric_")?.split('|').next());
        let documented: BTreeSet<_> = cells
            .flat_map(|cell| cell.split('`').map(|name| name.trim_start_matches("cambric_").to_owned()))
            .filter(|name| name.chars().all(|it| it.is_ascii_lowercase() || it == '_') && !name.is_empty())
            .map(|name| format!("cambric_{name}"))
            .collect();
        assert_eq!(documented, scraped());
    }
}
