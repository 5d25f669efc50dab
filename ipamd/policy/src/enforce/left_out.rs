//! The objects that are not in force as they are written, and when they are tried again.

use std::collections::BTreeMap;

use super::trial_budget::{self, TrialBudget};
use ipamd_model::objects::{Change, Object, ObjectId, Refusal};

/// A change that does not fit: a new object, or a removal. A removal may not fit because the removed object hid others: behind a
/// policy that denies everything, rules need no entries, and once it is gone they do.
#[derive(Debug)]
pub(super) struct Unfit {
    pub change: Change,
    pub reason: String,
    /// Whether it was tried. If not, its namespace had no budget left.
    pub tried: bool,
}

/// The objects that are left out.
#[derive(Debug, Default)]
pub(super) struct LeftOut {
    /// Objects that could not be understood.
    pub refusals: Vec<Refusal>,
    /// Objects that do not fit.
    pub unfit: BTreeMap<ObjectId, Unfit>,
    /// Something was removed, so that what did not fit may fit now.
    pub space_freed: bool,
    /// The time that tries of unfit objects have cost.
    pub trial_budget: TrialBudget,
}

/// Whether a change puts a policy.
fn is_policy(change: &Change) -> bool {
    matches!(change, Change::Put(Object::Policy(_)))
}

impl LeftOut {
    /// Leaves out the policies of namespaces that have no budget left, and returns the other changes. Removals are always tried.
    pub fn without_untried(&mut self, changes: Vec<Change>) -> Vec<Change> {
        let now = trial_budget::now();
        let mut tried = Vec::with_capacity(changes.len());
        for change in changes {
            let id = change.id();
            match &id.namespace {
                Some(namespace) if is_policy(&change) && !self.trial_budget.may_try(namespace, now) => {
                    let reason = format!(
                        "so much of the namespace {namespace} does not fit that this one is tried later only"
                    );
                    self.unfit.insert(id, Unfit { change, reason, tried: false });
                }
                _ => tried.push(change),
            }
        }
        tried
    }

    /// The objects that did not fit and should be tried again: all if space was freed, otherwise those that were not
    /// tried yet.
    pub fn due(&mut self) -> Vec<ObjectId> {
        let space_freed = std::mem::take(&mut self.space_freed);
        let due = self.unfit.iter().filter(|(_, it)| space_freed || !it.tried);
        let mut due: Vec<_> = due.map(|(id, it)| (it.tried, id.clone())).collect();
        // Objects that were never tried come first.
        due.sort();
        due.into_iter().map(|(_, id)| id).collect()
    }
}
