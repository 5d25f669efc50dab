//! How many changes of the cluster are known and not in force yet: a source may be up to date while twenty thousand policies are on
//! their way into the tables.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use ipamd_api::wire::ClusterStatus;
use ipamd_model::objects::Change;
use ipamd_sources::{SourceCounts, SourceState};

/// The number of changes that wait, and of policies among them.
#[derive(Debug, Default)]
pub struct PendingChanges {
    all: AtomicU64,
    policies: AtomicU64,
}

impl PendingChanges {
    /// Takes note of what waits now.
    pub fn set<'a>(&self, waiting: impl Iterator<Item = &'a Change>) {
        let (mut all, mut policies) = (0, 0);
        for change in waiting {
            all += 1;
            policies += u64::from(change.kind().is_policy());
        }
        self.policies.store(policies, Ordering::Relaxed);
        self.all.store(all, Ordering::Relaxed);
    }

    /// Takes note that nothing waits.
    pub fn clear(&self) {
        self.set(std::iter::empty());
    }
}

/// A source with what it has told and is not in force yet.
#[derive(Debug)]
pub struct Pending {
    /// The source.
    pub source: Arc<dyn SourceState>,
    /// What waits.
    pub changes: Arc<PendingChanges>,
}

impl SourceState for Pending {
    fn status(&self) -> ClusterStatus {
        ClusterStatus {
            pending: self.changes.all.load(Ordering::Relaxed),
            pending_policies: self.changes.policies.load(Ordering::Relaxed),
            ..self.source.status()
        }
    }

    fn problem(&self) -> Option<String> {
        self.source.problem()
    }

    fn counts(&self) -> Vec<(String, SourceCounts)> {
        self.source.counts()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipamd_model::objects::{Kind, ObjectId};

    #[derive(Debug)]
    struct Live;

    impl SourceState for Live {
        fn status(&self) -> ClusterStatus {
            ClusterStatus { live: true, ..ClusterStatus::default() }
        }
    }

    #[test]
    fn what_waits_is_told_with_the_source_and_policies_apart() {
        let changes = Arc::new(PendingChanges::default());
        let state = Pending { source: Arc::new(Live), changes: Arc::clone(&changes) };
        let told = || {
            let status = state.status();
            (status.live, status.pending, status.pending_policies)
        };
        assert_eq!(told(), (true, 0, 0));
        let gone = |kind| Change::Remove(ObjectId::global(kind, "a"));
        changes.set([gone(Kind::Node), gone(Kind::GlobalNetworkPolicy)].iter());
        assert_eq!(told(), (true, 2, 1));
        changes.clear();
        assert_eq!(told(), (true, 0, 0));
    }
}
