//! Listings of what is tried out.

use std::sync::Arc;

use ipamd_api::policy::{
    PolicyDetail, PolicyQuery, PolicySummary, RefusedObject, StagedDetail, StagedRule, StagedSummary,
};
use ipamd_runtime::queued_lock::locked;

use super::{progress::Trial, staged_set::StagedSet};
use crate::enforce::{enforcer::Enforcer, listing::is_meant, state::State};
use ipamd_model::staged::StagedPolicy;

/// How many groups of flows are shown of a policy.
const FLOWS_SHOWN: usize = 100;

impl Trial {
    fn summary(&self, staged: &StagedPolicy, in_force: &State) -> PolicySummary {
        let state = self.set.as_ref().map(|set| &set.state);
        let mut summary = match (staged.policy(), state) {
            (Some(policy), Some(state)) => state.summary(policy),
            (Some(policy), None) => in_force.summary(policy),
            // Of a deletion, what would be gone.
            (None, _) => {
                let meant = in_force.cluster.inputs.policies.get(&staged.id.enforced());
                let known = meant.map(|policy| in_force.summary(policy));
                known.unwrap_or_else(|| PolicySummary {
                    policy: (&staged.id).into(),
                    tier: String::new(),
                    order: None,
                    directions: Vec::new(),
                    rules: 0,
                    endpoints: 0,
                    origin: None,
                    staged: None,
                })
            }
        };
        summary.policy = (&staged.id).into();
        summary.origin = staged.origin.as_ref().map(ToString::to_string);
        let replaces = in_force.cluster.is_in_force(&staged.id.enforced());
        let tally = self.tallies.of_policy(&staged.id);
        summary.staged = Some(StagedSummary { action: staged.action.name().to_owned(), replaces, tally });
        summary
    }

    fn detail(&self, staged: &StagedPolicy, in_force: &State) -> PolicyDetail {
        let state = self.set.as_ref().map_or(in_force, |set| &set.state);
        let shown = match staged.policy() {
            Some(policy) => Some((state, policy)),
            None => in_force.cluster.inputs.policies.get(&staged.id.enforced()).map(|it| (in_force, it)),
        };
        let mut detail = match shown {
            Some((state, policy)) => state.detail(policy),
            None => PolicyDetail {
                summary: self.summary(staged, in_force),
                subject: String::new(),
                selects: Vec::new(),
                rules: Vec::new(),
                trial: None,
            },
        };
        detail.summary = self.summary(staged, in_force);
        let rules = self.tallies.of_rules(&staged.id);
        let rules = rules.map(|(rule, tally)| StagedRule { rule: rule.to_string(), tally }).collect();
        let flows = self.tallies.flows(&staged.id, FLOWS_SHOWN);
        detail.trial = Some(StagedDetail { rules, flows });
        detail
    }
}

impl Enforcer {
    /// All staged policies, and why some of them are not tried.
    pub fn staged_policies(&self) -> (Vec<PolicySummary>, Vec<RefusedObject>) {
        self.with_trial(|trial, state| {
            let staged = state.cluster.inputs.staged.values();
            let listed = staged.map(|it| trial.summary(it, state)).collect();
            (listed, trial.set.as_ref().map(StagedSet::left_out).unwrap_or_default())
        })
    }

    /// The details of the staged policies that a query names.
    pub fn staged_policy(&self, query: &PolicyQuery) -> Vec<PolicyDetail> {
        self.with_trial(|trial, state| {
            let meant: Vec<Arc<StagedPolicy>> = {
                let staged = state.cluster.inputs.staged.values();
                staged.filter(|it| is_meant(query, &it.id)).cloned().collect()
            };
            meant.iter().map(|it| trial.detail(it, state)).collect()
        })
    }

    fn with_trial<T>(&self, show: impl FnOnce(&Trial, &State) -> T) -> T {
        let mut trial = locked(&self.trial);
        self.bring_up_to_date(&mut trial);
        let state = self.lock();
        show(&trial, &state)
    }
}
