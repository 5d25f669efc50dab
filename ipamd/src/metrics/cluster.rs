//! Metrics about the state of the cluster: how up to date it is. They are computed at each scrape.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet},
    metrics::{MetricType, gauge::ConstGauge},
    registry::Unit,
};

use ipamd_sources::{SourceCounts, SourceState};

/// A counter's name and help, and where it is among the counts.
type Family = (&'static str, &'static str, fn(&SourceCounts) -> u64);

/// A source that is asked at every scrape.
#[derive(Debug)]
pub(super) struct Cluster(pub Arc<dyn SourceState>);

impl Collector for Cluster {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let status = self.0.status();
        let live = encoder.encode_descriptor(
            "cluster_live",
            "Whether lists and watches of the cluster are up to date (1) or not (0)",
            None,
            MetricType::Gauge,
        )?;
        ConstGauge::new(u64::from(status.live)).encode(live)?;
        if let Some(age) = status.age_seconds {
            let encoder = encoder.encode_descriptor(
                "cluster_age",
                "Time since the state of the cluster was last known to be complete",
                Some(&Unit::Seconds),
                MetricType::Gauge,
            )?;
            ConstGauge::new(age).encode(encoder)?;
        }
        let pending = encoder.encode_descriptor(
            "cluster_pending_changes",
            "Changes that the source has told and that are not in force yet",
            None,
            MetricType::Gauge,
        )?;
        ConstGauge::new(status.pending).encode(pending)?;
        let counts = self.0.counts();
        let families: [Family; 3] = [
            ("cluster_lists", "Completed lists of the resource", |it| it.lists),
            (
                "cluster_expired",
                "Watches that the API server ended as expired (410); each is followed by a new list",
                |it| it.expired,
            ),
            ("cluster_failures", "Other failures of lists and watches of the resource", |it| it.failures),
        ];
        for (name, help, count) in families {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (resource, counts) in &counts {
                let labels = [("resource", resource.as_str())];
                family
                    .encode_family(&labels)?
                    .encode_counter::<NoLabelSet, u64, u64>(&count(counts), None)?;
            }
        }
        Ok(())
    }
}
