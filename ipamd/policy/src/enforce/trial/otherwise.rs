//! Flows that the staged set judges.

use ipamd_api::policy::{FlowChange, Verdict};

use crate::{compile::names::RuleName, enforce::seen_flow::SeenFlow};
use ipamd_model::objects::ObjectId;

/// A flow as the programs have judged it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    /// Which.
    pub flow: SeenFlow,
    /// What they have said.
    pub verdict: Verdict,
}

/// A flow that the staged set judges otherwise than what is in force.
#[derive(Clone, Debug, PartialEq)]
pub struct Otherwise {
    /// Which.
    pub flow: SeenFlow,
    /// Both judgements. The flow is one.
    pub change: FlowChange,
    /// The staged policies because of which it is so.
    pub policies: Vec<ObjectId>,
    /// The rule that decides; if none does, the rule that has decided and would not.
    pub(super) rule: Option<RuleName>,
}
