//! The staged set: the policies in force, with the staged ones applied.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
};

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
    /// Those of them that are in the staged set after all, because what would replace them does not fit: what is in force would stay.
    kept: BTreeSet<ObjectId>,
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
                self.hidden.insert(policy.id.clone(), Arc::clone(&policy));
                let shown = self.kept.contains(&policy.id).then_some(Change::Put(Object::Policy(policy)));
                shown.into_iter().collect()
            }
            Change::Remove(id) if self.staged.contains_key(&id) => {
                self.hidden.remove(&id);
                self.kept.take(&id).map(Change::Remove).into_iter().collect()
            }
            other => vec![other],
        }
    }

    /// What brings the policies back whose replacements are left out: among the `unfit`.
    pub fn keep<'a>(&mut self, unfit: impl Iterator<Item = &'a ObjectId>) -> Vec<Change> {
        let mut back = Vec::new();
        for meant in unfit.filter(|id| id.kind.is_staged()).map(ObjectId::enforced) {
            if let Some(policy) = self.hidden.get(&meant)
                && self.kept.insert(meant)
            {
                back.push(Change::Put(Object::Policy(Arc::clone(policy))));
            }
        }
        back
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
        } else {
            changes.extend(self.kept.take(&meant).map(Change::Remove));
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
        self.kept.remove(&meant);
        let back = self.hidden.remove(&meant).map(|policy| Change::Put(Object::Policy(policy)));
        gone.into_iter().chain(back).collect()
    }
}
