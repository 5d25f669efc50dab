//! When the tables are rebuilt because many classes or predicates are no longer used.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use super::{cluster::Cluster, written::Written};
use crate::tables::ClassId;
use ipamd_model::policy::Direction;

/// The number of unused classes or predicates that are tolerated.
const SLACK: usize = 1024;

/// The time until the use is counted again if their number has not changed: policies may have been removed.
const LOOK_AGAIN: Duration = Duration::from_mins(1);

/// When their use was last counted.
#[derive(Debug, Default)]
pub(super) struct Compaction {
    /// The numbers of classes and predicates then, and the time of that.
    checked_at: Option<(usize, usize, Instant)>,
}

impl Compaction {
    /// Whether so many classes or predicates are unused that the tables should be rebuilt.
    pub fn is_due(&mut self, cluster: &Cluster, written: &Written) -> bool {
        let (all_classes, all_atoms) = (cluster.classes.count(), cluster.classes.atoms());
        if all_classes.max(all_atoms) <= SLACK || self.was_checked(all_classes, all_atoms) {
            return false;
        }
        self.checked_at = Some((all_classes, all_atoms, Instant::now()));
        let peers = written.peers.iter().map(|(_, peer)| peer.class);
        let classes = peers.chain([ClassId::WORLD]).collect::<BTreeSet<_>>().len();
        let mentioned = written.maps.keys().flat_map(|rules| {
            Direction::BOTH.into_iter().flat_map(|direction| rules.of(direction).mentions())
        });
        let atoms = mentioned.collect::<BTreeSet<_>>().len();
        let too_many = |all: usize, used: usize| all > 2 * used + SLACK;
        let is_due = too_many(all_classes, classes) || too_many(all_atoms, atoms);
        if is_due {
            tracing::debug!(classes, atoms, "compacting the policy tables");
        }
        is_due
    }

    /// Whether the use of these was counted a moment ago. In a large cluster that takes a while.
    fn was_checked(&self, classes: usize, atoms: usize) -> bool {
        self.checked_at.is_some_and(|(of_classes, of_atoms, at)| {
            (of_classes, of_atoms) == (classes, atoms) && at.elapsed() < LOOK_AGAIN
        })
    }
}
