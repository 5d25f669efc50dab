//! Staged policies: they are not enforced. They say what would be in force, so that it is known what that would do.

use std::sync::Arc;

use crate::{
    id::{ObjectId, Origin},
    policy::Policy,
};

/// A policy of one of Calico's staged kinds.
#[derive(Clone, Debug, PartialEq)]
pub struct StagedPolicy {
    /// Which; of a staged kind.
    pub id: ObjectId,
    /// Where it was read.
    pub origin: Option<Origin>,
    /// What is tried out.
    pub action: StagedAction,
}

/// What a staged policy stands for.
#[derive(Clone, Debug, PartialEq)]
pub enum StagedAction {
    /// This policy is new, or takes the place of the one that is [meant](ObjectId::enforced). It has the id of the staged one, so that
    /// whoever reads of its rules knows that they are not in force.
    Set(Arc<Policy>),
    /// The policy that is meant is gone.
    Delete,
    /// Nothing: it was proposed by a program, and is not to be tried.
    Ignore,
    /// Nothing yet: a program still writes it.
    Learn,
}

impl StagedAction {
    /// Its name in small letters.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Set(_) => "set",
            Self::Delete => "delete",
            Self::Ignore => "ignore",
            Self::Learn => "learn",
        }
    }
}

impl StagedPolicy {
    /// Whether there is anything to try out.
    pub fn is_tried(&self) -> bool {
        matches!(self.action, StagedAction::Set(_) | StagedAction::Delete)
    }

    /// The policy that it would put in force.
    pub fn policy(&self) -> Option<&Arc<Policy>> {
        match &self.action {
            StagedAction::Set(policy) => Some(policy),
            StagedAction::Delete | StagedAction::Ignore | StagedAction::Learn => None,
        }
    }
}
