//! The staged set as it is now, and what has come of it.

use std::sync::Arc;

use super::{staged_set::StagedSet, tally::Tallies};
use crate::enforce::{change_log::Told, state::State};
use ipamd_model::staged::StagedPolicy;

/// What is tried out, and what has come of it.
#[derive(Debug, Default)]
pub(in crate::enforce) struct Trial {
    pub set: Option<StagedSet>,
    pub tallies: Tallies,
    /// Grows with each change of the staged policies.
    pub version: u64,
}

/// What the staged set has to take in.
pub(in crate::enforce) enum News {
    /// There is nothing to try.
    Nothing,
    /// The cluster as it is, on tables of its own.
    Whole(Box<State>),
    /// What it was told since.
    Told(Vec<Told>),
}

impl State {
    pub(in crate::enforce) fn news(&mut self, has_set: bool) -> News {
        let cluster = &mut self.cluster;
        if !self.started || !cluster.inputs.staged.values().any(|it| it.is_tried()) {
            cluster.log.end();
            return News::Nothing;
        }
        if let Some(told) = cluster.log.take().filter(|_| has_set) {
            return News::Told(told);
        }
        cluster.log.begin();
        News::Whole(Box::new(self.copy()))
    }
}

impl Trial {
    /// Takes in what has changed.
    pub fn take_in(&mut self, news: News) {
        let before = self.policies();
        match (news, &mut self.set) {
            (News::Told(told), Some(set)) => set.take_in(told),
            (News::Whole(state), set) => *set = StagedSet::of(*state),
            (_, set) => *set = None,
        }
        let after = self.policies();
        for gone_or_new in before.iter().filter(|it| !after.contains(it)) {
            self.tallies.forget(&gone_or_new.id);
        }
        if before != after {
            self.version += 1;
            self.tallies.forget_live();
        }
    }

    /// What is tried out.
    fn policies(&self) -> Vec<Arc<StagedPolicy>> {
        self.set.iter().flat_map(StagedSet::policies).cloned().collect()
    }
}
