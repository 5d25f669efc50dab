//! How up to date what is known of the cluster is, asked for when somebody looks.

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
            "Whether the cluster's source tells of every change (1) or not (0)",
            None,
            MetricType::Gauge,
        )?;
        ConstGauge::new(u64::from(status.live)).encode(live)?;
        if let Some(age) = status.age_seconds {
            let encoder = encoder.encode_descriptor(
                "cluster_age",
                "How long ago what is known of the cluster was known to be all",
                Some(&Unit::Seconds),
                MetricType::Gauge,
            )?;
            ConstGauge::new(age).encode(encoder)?;
        }
        let counts = self.0.counts();
        let families: [Family; 3] = [
            ("cluster_lists", "Lists of the resource that were told to their ends", |it| it.lists),
            (
                "cluster_expired",
                "Times that the API server had forgotten what happened since it was heard last",
                |it| it.expired,
            ),
            ("cluster_failures", "Other times that the API server did not tell of the resource", |it| {
                it.failures
            }),
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
