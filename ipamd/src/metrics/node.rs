//! Metrics about the node: what its status says at the time of the scrape.

use std::fmt;

use ipamd_api::wire::{DenySet, MapUse, Pool, Status};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet},
    metrics::MetricType,
    registry::Unit,
};

/// The labels of a sample and its value.
type Sample<'a> = (Vec<(&'static str, &'a str)>, u64);

/// What a node says at one scrape.
#[derive(Debug)]
pub(super) struct NodeMetrics {
    pub status: Status,
    pub pools: Vec<Pool>,
    /// How many problems there are, those of the cluster's source among them.
    pub problems: u64,
}

/// Writes metrics of one kind.
struct Writer<'a, 'e> {
    encoder: &'a mut DescriptorEncoder<'e>,
    kind: MetricType,
}

fn encode_value(kind: MetricType, mut encoder: MetricEncoder<'_>, value: u64) -> fmt::Result {
    match kind {
        MetricType::Counter => encoder.encode_counter::<NoLabelSet, u64, u64>(&value, None),
        _ => encoder.encode_gauge(&value),
    }
}

impl Writer<'_, '_> {
    fn family(&mut self, name: &str, help: &str, samples: Vec<Sample<'_>>) -> fmt::Result {
        let mut family = self.encoder.encode_descriptor(name, help, None, self.kind)?;
        for (labels, value) in samples {
            encode_value(self.kind, family.encode_family(&labels)?, value)?;
        }
        Ok(())
    }

    fn single(&mut self, name: &str, help: &str, unit: Option<&Unit>, value: u64) -> fmt::Result {
        encode_value(self.kind, self.encoder.encode_descriptor(name, help, unit, self.kind)?, value)
    }
}

impl NodeMetrics {
    fn encode_gauges(&self, gauges: &mut Writer<'_, '_>) -> fmt::Result {
        let Self { status, pools, problems } = self;
        let of_pool =
            |pool: &'_ Pool| [("used", pool.used), ("free", pool.capacity.saturating_sub(pool.used))];
        let addresses = pools.iter().flat_map(|pool| {
            of_pool(pool).map(|(state, count)| (vec![("pool", pool.name.as_str()), ("state", state)], count))
        });
        gauges.family("pool_addresses", "Addresses of each pool, used and free", addresses.collect())?;
        gauges.single("endpoints", "Committed endpoints", None, status.endpoints)?;
        let conntrack = |count: fn(&MapUse) -> u64| {
            status
                .conntrack
                .iter()
                .map(|(family, it)| (vec![("family", family.as_str())], count(it)))
                .collect()
        };
        let entries = "Entries of conntrack, as of the last sweep";
        gauges.family("conntrack_entries", entries, conntrack(|it| it.entries))?;
        gauges.family("conntrack_capacity", "Capacity of conntrack", conntrack(|it| it.capacity))?;
        let maps = |count: fn(&MapUse) -> u64| {
            status.maps.iter().map(|(map, it)| (vec![("map", map.as_str())], count(it))).collect()
        };
        gauges.family("map_entries", "Entries of each map, at most a minute old", maps(|it| it.entries))?;
        gauges.family("map_capacity", "Capacity of each map", maps(|it| it.capacity))?;
        let help = "Whether the daemon serves (1) or not (0)";
        gauges.single("ready", help, None, status.ready.into())?;
        let help = "Problems that need an operator; cambricctl status names them";
        gauges.single("problems", help, None, *problems)?;
        let prefixes = status.deny.sets.iter().map(|set| (vec![("set", set.name.as_str())], set.prefixes));
        gauges.family("deny_prefixes", "Prefixes of each deny set", prefixes.collect())?;
        let policy = &status.policy;
        gauges.family(
            "policies",
            "Policies by state: enforced; left out because they do not fit or name an unknown tier; staged, and not enforced",
            [("enforced", policy.policies), ("left_out", policy.left_out), ("staged", policy.staged)]
                .map(|(state, count)| (vec![("state", state)], count))
                .into(),
        )?;
        gauges.single(
            "policy_refused",
            "Objects of the cluster that were refused; cambricctl policy list names them",
            None,
            policy.refused,
        )?;
        gauges.single("policy_maps", "Policy maps in force", None, policy.maps)?;
        gauges.single(
            "policy_classes",
            "Classes of addresses that policies tell apart",
            None,
            policy.classes,
        )?;
        gauges.single("policy_memory", "Kernel memory of the policy tables", Some(&Unit::Bytes), policy.bytes)
    }

    /// The programs count in maps that are new only after a reboot, so these counts only grow.
    fn encode_counters(&self, counters: &mut Writer<'_, '_>) -> fmt::Result {
        let status = &self.status;
        let drops = status.drops.iter().map(|(reason, count)| (vec![("reason", reason.as_str())], *count));
        counters.family("drops", "Packets dropped by the programs, by reason", drops.collect())?;
        let deny = |count: fn(&DenySet) -> u64| {
            status.deny.sets.iter().map(|set| (vec![("set", set.name.as_str())], count(set))).collect()
        };
        let help = "Packets dropped at the uplinks, by deny set, since the daemon began to count";
        counters.family("denied_packets", help, deny(|set| set.packets))?;
        let help = "Bytes of packets dropped at the uplinks, by deny set";
        counters.family("denied_bytes", help, deny(|set| set.bytes))?;
        let policy = &status.policy;
        let otherwise = policy.staged_would_deny + policy.staged_would_allow;
        let judged = [
            ("same", policy.staged_judged.saturating_sub(otherwise)),
            ("would_deny", policy.staged_would_deny),
            ("would_allow", policy.staged_would_allow),
        ];
        counters.family(
            "staged_policy_flows",
            "New flows that the staged policies have judged, by what they would change",
            judged.map(|(outcome, count)| (vec![("outcome", outcome)], count)).into(),
        )?;
        for (name, help, count) in [
            (
                "staged_policy_events_lost",
                "Events that were lost while staged policies judged new flows",
                policy.staged_lost,
            ),
            ("untracked_flows", "Flows that passed although conntrack could not take them", status.untracked),
            ("events_lost", "Events lost because the ring buffer was full", status.events_lost),
            ("events_suppressed", "Events suppressed by the rate limit", status.events_suppressed),
            (
                "answers_suppressed",
                "Resets and ICMP errors suppressed by the rate limit",
                status.answers_suppressed,
            ),
        ] {
            counters.single(name, help, None, count)?;
        }
        Ok(())
    }
}

impl Collector for NodeMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_gauges(&mut Writer { encoder: &mut encoder, kind: MetricType::Gauge })?;
        self.encode_counters(&mut Writer { encoder: &mut encoder, kind: MetricType::Counter })
    }
}
