//! What others ask of the staged set: the flows that it would judge otherwise.

use ipamd_api::{AttachmentKey, policy::Verdict};
use ipamd_model::policy::Direction;
use ipamd_runtime::queued_lock::locked;

use super::{
    otherwise::{Otherwise, Passed},
    progress::Trial,
    tally::TrialCounts,
};
use crate::enforce::{
    enforcer::Enforcer,
    judge,
    seen_flow::{NamedFlow, SeenFlow},
};

/// A flow with what its opener calls the other side. Nobody has the state meanwhile: who looks names up may need it.
fn named(flow: &SeenFlow, names: &impl Fn(&SeenFlow) -> Vec<String>) -> NamedFlow {
    NamedFlow { flow: *flow, names: names(flow) }
}

impl Enforcer {
    /// Brings the staged set up to date. Returns the version of what is tried out; `None` if there is nothing. A flow that lives is
    /// to be judged once in each version.
    pub fn stage(&self) -> Option<u64> {
        let mut trial = locked(&self.trial);
        self.bring_up_to_date(&mut trial);
        trial.set.as_ref().map(|_| trial.version)
    }

    pub(in crate::enforce) fn bring_up_to_date(&self, trial: &mut Trial) {
        let news = self.lock().news(trial.set.is_some());
        trial.take_in(news);
    }

    /// Judges new flows by the staged set, and counts. Returns those that are judged otherwise. `names` returns the DNS names that the
    /// opener of a flow was told for its destination.
    pub fn judge_new(&self, flows: &[Passed], names: impl Fn(&SeenFlow) -> Vec<String>) -> Vec<Otherwise> {
        let mut trial = locked(&self.trial);
        self.bring_up_to_date(&mut trial);
        let Some(set) = &trial.set else { return Vec::new() };
        let mut judged = 0;
        let doubtful = flows.iter().filter(|passed| {
            let Some((.., judgement)) = set.decide(&passed.flow, &names) else { return false };
            judged += 1;
            judgement.verdict() != passed.verdict
        });
        let doubtful: Vec<_> = doubtful.map(|passed| named(&passed.flow, &names)).collect();
        let mut otherwise = Vec::new();
        if !doubtful.is_empty() {
            let state = self.lock();
            otherwise.extend(doubtful.iter().filter_map(|flow| set.compare(flow, &state)));
        }
        locked(&self.trial_counts).add(judged, &otherwise);
        for flow in &otherwise {
            trial.tallies.add(flow, false);
        }
        otherwise
    }

    /// Judges flows that live, and counts those that would be judged otherwise. Returns these.
    pub fn judge_living(
        &self,
        flows: &[SeenFlow],
        names: impl Fn(&SeenFlow) -> Vec<String>,
    ) -> Vec<Otherwise> {
        let mut trial = locked(&self.trial);
        let Some(set) = &trial.set else { return Vec::new() };
        let otherwise: Vec<_> = {
            let flows: Vec<_> = flows.iter().map(|flow| named(flow, &names)).collect();
            let state = self.lock();
            flows.iter().filter_map(|flow| set.compare(flow, &state)).collect()
        };
        for flow in &otherwise {
            trial.tallies.add(flow, true);
        }
        otherwise
    }

    /// What the staged set says of a flow that is judged otherwise by what is in force.
    pub(in crate::enforce) fn compare_staged(&self, flow: &NamedFlow) -> Option<Otherwise> {
        let mut trial = locked(&self.trial);
        self.bring_up_to_date(&mut trial);
        let state = self.lock();
        trial.set.as_ref()?.compare(flow, &state)
    }

    /// Whether a flow would pass at one side with the staged policies; `None` if there is nothing to try, or no such endpoint. For tests.
    #[doc(hidden)]
    pub fn would_pass(
        &self,
        key: &AttachmentKey,
        direction: Direction,
        flow: &SeenFlow,
        names: &[String],
    ) -> Option<bool> {
        let mut trial = locked(&self.trial);
        self.bring_up_to_date(&mut trial);
        let state = &trial.set.as_ref()?.state;
        state.cluster.endpoints.get(key)?;
        let asked = NamedFlow { flow: *flow, names: names.to_vec() };
        let judged = judge::by_rules(key, direction, &asked, &state.cluster, &state.written);
        Some(judged.verdict() == Verdict::Allow)
    }

    /// Counts new flows that could not be judged.
    pub fn lose_judgements(&self, lost: u64) {
        locked(&self.trial_counts).lost += lost;
    }

    /// What was counted since the start.
    pub fn trial_counts(&self) -> TrialCounts {
        *locked(&self.trial_counts)
    }
}
