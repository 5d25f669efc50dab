//! What is counted as it happens, and the whole document of a scrape.

use std::{
    fmt::{self, Write as _},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use ipamd_api::ErrorKind;
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

use super::{cluster::Cluster, node::NodeMetrics};
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

/// The prefix of all names.
const PREFIX: &str = "cambric";

/// The daemon's metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Histogram>,
    errors: Family<ErrorLabels, Counter>,
    repairs: Family<RepairLabels, Counter>,
    policy_changes: Histogram,
    policy_longest_hold: Gauge<f64, AtomicU64>,
    service_changes: Histogram,
    kubernetes_event_failures: Counter,
    source: Option<Arc<dyn SourceState>>,
    stale_after: Duration,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix(PREFIX),
            requests: Family::new_with_constructor(|| Histogram::new(LATENCIES)),
            errors: Family::default(),
            repairs: Family::default(),
            policy_changes: Histogram::new(POLICY_LATENCIES),
            policy_longest_hold: Gauge::default(),
            service_changes: Histogram::new(POLICY_LATENCIES),
            kubernetes_event_failures: Counter::default(),
            source: None,
            stale_after: Duration::ZERO,
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    /// Metrics that include those of the cluster's source. A source that has been stale for `stale_after` counts as a
    /// problem.
    pub fn about(source: Option<Arc<dyn SourceState>>, stale_after: Duration) -> Self {
        let mut metrics = Self { source: source.clone(), stale_after, ..Self::default() };
        if let Some(source) = source {
            metrics.registry.register_collector(Box::new(Cluster(source)));
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
        registry.register(
            "kubernetes_event_failures",
            "Kubernetes Events that the API server refused",
            self.kubernetes_event_failures.clone(),
        );
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

    /// What `node` says now.
    fn of_node(&self, node: &Node) -> NodeMetrics {
        let status = node.status();
        // A source that is stale counts as one problem more, as in cambricctl status.
        let is_stale = |it: &Arc<dyn SourceState>| is_stale(&it.status(), self.stale_after);
        let stale = self.source.as_ref().is_some_and(is_stale);
        let of_source = self.source.as_ref().is_some_and(|it| it.problem().is_some());
        let problems = status.problems.len() as u64 + u64::from(stale) + u64::from(of_source);
        NodeMetrics { status, pools: node.pools(), problems }
    }

    fn encode(&self, text: &mut String, node: NodeMetrics) -> fmt::Result {
        let mut at_scrape = Registry::with_prefix(PREFIX);
        at_scrape.register_collector(Box::new(node));
        text::encode_registry(text, &self.registry)?;
        text::encode_registry(text, &at_scrape)?;
        text::encode_eof(text)
    }

    /// Everything in Prometheus' text format, with what `node` says now.
    pub fn render(&self, node: &Node) -> String {
        let mut text = String::new();
        if let Err(error) = self.encode(&mut text, self.of_node(node)) {
            let _ = writeln!(text, "# {error}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ipamd_api::wire::ClusterStatus;
    use serde_json::json;

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

    /// A node that has something to say in each family.
    fn busy_node() -> NodeMetrics {
        let used = json!({"entries": 1, "capacity": 2});
        let status = json!({
            "version": "0.1.0", "node_name": "one", "ready": true, "problems": [], "endpoints": 1, "attach_mode": "tcx",
            "uplinks": [], "uptime_seconds": 1, "conntrack": {"ipv4": used}, "maps": {"endpoints4": used},
            "drops": {"policy": 3},
            "deny": {"sets": [{"name": "bad", "prefixes": 4, "packets": 5, "bytes": 6}], "uplinks": {}},
        });
        let pool =
            json!({"name": "four", "cidr": "10.1.0.0/24", "gateway": "10.1.0.1", "capacity": 3, "used": 2});
        NodeMetrics {
            status: serde_json::from_value(status).unwrap(),
            pools: vec![serde_json::from_value(pool).unwrap()],
            problems: 1,
        }
    }

    /// What a scrape gives.
    fn scrape() -> String {
        let metrics = Metrics::about(Some(Arc::new(Source)), Duration::ZERO);
        // A family of the registry that has no sample is not written.
        metrics.request("status", Duration::ZERO, Some(ErrorKind::Internal));
        metrics.repair("link");
        let mut kept = String::new();
        text::encode_registry(&mut kept, &metrics.registry).unwrap();
        let of_cluster = kept.matches("# TYPE cambric_cluster_").count();
        let registered = format!("{:?}", metrics.registry).matches("Descriptor {").count();
        assert_eq!(
            kept.matches("# TYPE ").count() - of_cluster,
            registered,
            "one has no sample here: {kept}"
        );
        let mut text = String::new();
        metrics.encode(&mut text, busy_node()).unwrap();
        text
    }

    fn families(scraped: &str) -> impl Iterator<Item = (&str, &str)> {
        scraped.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
    }

    /// The names of all metrics.
    fn names(scraped: &str) -> BTreeSet<String> {
        let name_of = |(name, kind): (&str, &str)| match kind {
            "counter" => format!("{name}_total"),
            "info" => format!("{name}_info"),
            _ => name.to_owned(),
        };
        families(scraped).map(name_of).collect()
    }

    #[test]
    fn a_scrape_has_each_family_once_with_the_values_of_the_node() {
        let scraped = scrape();
        for (name, _) in families(&scraped) {
            assert_eq!(scraped.matches(&format!("# TYPE {name} ")).count(), 1, "{name}");
            assert!(scraped.lines().any(|line| line.starts_with(name)), "{name} has no sample: {scraped}");
        }
        for sample in [
            "cambric_pool_addresses{pool=\"four\",state=\"used\"} 2",
            "cambric_pool_addresses{pool=\"four\",state=\"free\"} 1",
            "cambric_endpoints 1",
            "cambric_conntrack_entries{family=\"ipv4\"} 1",
            "cambric_map_capacity{map=\"endpoints4\"} 2",
            "cambric_problems 1",
            "cambric_drops_total{reason=\"policy\"} 3",
            "cambric_deny_prefixes{set=\"bad\"} 4",
            "cambric_denied_packets_total{set=\"bad\"} 5",
            "cambric_denied_bytes_total{set=\"bad\"} 6",
        ] {
            assert!(scraped.lines().any(|line| line == sample), "{sample} is not in {scraped}");
        }
        assert!(scraped.ends_with("# EOF\n"), "{scraped}");
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
        assert_eq!(documented, names(&scrape()));
    }
}
