//! Sources of the cluster's state: policies, services, pods, nodes.
//!
//! A source gives the whole state of the cluster once and then each change. Addresses and endpoints never wait for it:
//! while a source is silent, the node keeps the last known state.

pub mod deny_directory;
mod deny_record;
pub mod directory;
pub mod field;
pub mod kube;
pub mod manifest;
pub mod policies;
pub mod v1;

use std::{fmt, future::Future, sync::Arc, time::Duration};

use ipamd_api::wire::ClusterStatus;

use ipamd_model::objects::Batch;

/// A source of changes.
pub trait Source: Send {
    /// Waits for the next changes of the cluster; the first call gives the whole of it. Never returns while nothing
    /// changes. May be dropped and called again; nothing is lost.
    fn next(&mut self) -> impl Future<Output = Batch> + Send;

    /// Called when everything that [`Self::next`] returned is in force.
    fn acknowledge(&mut self) {}

    /// Its state, for whoever asks; `None` where there is no cluster.
    fn state(&self) -> Option<Arc<dyn SourceState>> {
        None
    }
}

/// How up to date a source is.
pub trait SourceState: fmt::Debug + Send + Sync {
    /// The status that `cambricctl status` shows.
    fn status(&self) -> ClusterStatus;

    /// A problem that needs an operator although the state is up to date.
    fn problem(&self) -> Option<String> {
        None
    }

    /// What has been counted since the start, by resource.
    fn counts(&self) -> Vec<(String, SourceCounts)> {
        Vec::new()
    }
}

/// Whether the state is so old that it counts as a problem. A source that was never complete is one at once.
pub fn is_stale(status: &ClusterStatus, after: Duration) -> bool {
    !status.live && status.age_seconds.is_none_or(|age| Duration::from_secs(age) >= after)
}

/// Counters of one resource since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceCounts {
    /// Completed lists.
    pub lists: u64,
    /// Watches that ended as expired (410), so that a list had to follow.
    pub expired: u64,
    /// Other failures of lists and watches.
    pub failures: u64,
}

/// The source of a node without a cluster: an empty one that never changes.
#[derive(Debug, Default)]
pub struct Standalone {
    told: bool,
}

impl Source for Standalone {
    async fn next(&mut self) -> Batch {
        if std::mem::replace(&mut self.told, true) {
            std::future::pending::<()>().await;
        }
        Batch::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_does_not_tell_is_a_problem_after_its_time() {
        let status = |live, age_seconds| ClusterStatus {
            source: "kube".into(),
            live,
            age_seconds,
            ..ClusterStatus::default()
        };
        let stale = |live, age| is_stale(&status(live, age), Duration::from_secs(30));
        assert!(!stale(true, Some(40)) && !stale(false, Some(29)));
        assert!(stale(false, Some(30)) && stale(false, None));
        assert!(is_stale(&status(false, Some(0)), Duration::ZERO));
    }
}
