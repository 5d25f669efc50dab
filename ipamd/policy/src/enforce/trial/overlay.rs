//! The staged set: the policies in force, with the staged ones applied.

use std::{collections::BTreeMap, mem, sync::Arc};

use crate::compile::policy_inputs::PolicyInputs;
use ipamd_model::{
    objects::{Change, Object, ObjectId},
    policy::Policy,
    staged::{StagedAction, StagedPolicy},
};

/// What staged policies have been applied, and what they hide.
#[derive(Debug, Default)]
pub(in crate::enforce) struct Overlay {
    /// By the ids of the policies that they stand for.
    pub staged: BTreeMap<ObjectId, Arc<StagedPolicy>>,
    /// The policies in force whose place they have taken, or that they delete.
    hidden: BTreeMap<ObjectId, Arc<Policy>>,
}

/// Applies the staged policies among the inputs.
pub(in crate::enforce) fn overlay(inputs: &mut PolicyInputs) {
    Overlay::apply(inputs);
}

impl Overlay {
    /// Applies the staged policies among the inputs, which are none of the inputs then.
    pub fn apply(inputs: &mut PolicyInputs) -> Self {
        let mut overlay = Self::default();
        for staged in mem::take(&mut inputs.staged).into_values() {
            for change in overlay.stage(&staged, inputs) {
                match change {
                    Change::Put(object) => drop(inputs.put(object)),
                    Change::Remove(id) => drop(inputs.remove(&id)),
                }
            }
        }
        overlay
    }

    /// What a change of the cluster changes in the staged set, which has these inputs.
    pub fn translate(&mut self, change: Change, inputs: &PolicyInputs) -> Vec<Change> {
        match change {
            Change::Put(Object::Staged(staged)) => self.stage(&staged, inputs),
            Change::Remove(id) if id.kind.is_staged() => self.unstage(&id),
            Change::Put(Object::Policy(policy)) if self.staged.contains_key(&policy.id) => {
                self.hidden.insert(policy.id.clone(), policy);
                Vec::new()
            }
            Change::Remove(id) if self.staged.contains_key(&id) => {
                self.hidden.remove(&id);
                Vec::new()
            }
            other => vec![other],
        }
    }

    fn stage(&mut self, staged: &Arc<StagedPolicy>, inputs: &PolicyInputs) -> Vec<Change> {
        if !staged.is_tried() {
            return self.unstage(&staged.id);
        }
        let meant = staged.id.enforced();
        let mut changes = Vec::new();
        let before = self.staged.insert(meant.clone(), Arc::clone(staged));
        if before.is_none()
            && let Some(policy) = inputs.policies.get(&meant)
        {
            self.hidden.insert(meant.clone(), Arc::clone(policy));
            changes.push(Change::Remove(meant));
        }
        match &staged.action {
            StagedAction::Set(policy) => changes.push(Change::Put(Object::Policy(Arc::clone(policy)))),
            _ if before.is_some_and(|it| it.policy().is_some()) => {
                changes.push(Change::Remove(staged.id.clone()));
            }
            _ => {}
        }
        changes
    }

    fn unstage(&mut self, id: &ObjectId) -> Vec<Change> {
        let meant = id.enforced();
        let Some(before) = self.staged.remove(&meant) else { return Vec::new() };
        let gone = before.policy().map(|_| Change::Remove(id.clone()));
        let back = self.hidden.remove(&meant).map(|policy| Change::Put(Object::Policy(policy)));
        gone.into_iter().chain(back).collect()
    }
}
