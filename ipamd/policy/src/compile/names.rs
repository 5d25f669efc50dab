//! The numbers of rules in counters and events.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::Arc,
};

use serde::Serialize;

use crate::tables::RuleId;
use ipamd_model::{objects::ObjectId, policy::Direction};

/// What has decided a flow.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum RuleName {
    /// A rule of a policy.
    Rule {
        /// Which policy.
        policy: ObjectId,
        /// The direction of the rule.
        direction: Direction,
        /// Its place among the rules of that direction, from 0.
        index: usize,
        /// The rule's own name, where it has one.
        name: Option<Arc<str>>,
    },
    /// No rule: policies of a tier select the endpoint, and none of their rules matches.
    TierDefault {
        /// The tier.
        tier: Arc<str>,
        /// The direction.
        direction: Direction,
        /// The policies.
        policies: Vec<ObjectId>,
    },
    /// No policy of a host endpoint: its port is one that none can close.
    Failsafe {
        /// The direction.
        direction: Direction,
    },
    /// No policy of a host endpoint decides, and it has no profile that allows.
    HostDefault {
        /// The host endpoint.
        host: Arc<str>,
        /// The direction.
        direction: Direction,
    },
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule { policy, direction, index, name } => {
                write!(f, "{policy} {direction}[{index}]")?;
                name.as_ref().map_or(Ok(()), |name| write!(f, " ({name})"))
            }
            Self::Failsafe { direction } => write!(f, "failsafe port ({direction})"),
            Self::HostDefault { host, direction } => {
                write!(f, "default deny of HostEndpoint {host} ({direction}), because no policy allows it")
            }
            Self::TierDefault { tier, direction, policies } => {
                write!(f, "default deny of tier {tier} ({direction}), because of ")?;
                for (at, policy) in policies.iter().take(3).enumerate() {
                    write!(f, "{}{policy}", if at == 0 { "" } else { ", " })?;
                }
                match policies.len().saturating_sub(3) {
                    0 => Ok(()),
                    more => write!(f, " and {more} more"),
                }
            }
        }
    }
}

/// The numbers of rules. A rule keeps its number as long as it is in use.
#[derive(Debug, Default)]
pub struct RuleNames {
    numbers: HashMap<RuleName, RuleId>,
    names: Vec<Option<RuleName>>,
    free: Vec<RuleId>,
    /// The numbers given since [`Self::take_fresh`] was last called. Their counters must be cleared.
    fresh: Vec<RuleId>,
}

impl RuleNames {
    /// The number of a rule, from 1.
    pub fn number(&mut self, name: RuleName) -> RuleId {
        if let Some(id) = self.numbers.get(&name) {
            return *id;
        }
        let id = self.free.pop().unwrap_or_else(|| {
            self.names.push(None);
            RuleId(u32::try_from(self.names.len()).unwrap_or(u32::MAX))
        });
        if let Some(place) = self.names.get_mut(id.0 as usize - 1) {
            *place = Some(name.clone());
        }
        self.numbers.insert(name, id);
        self.fresh.push(id);
        id
    }

    /// The rule of a number.
    pub fn name(&self, id: RuleId) -> Option<&RuleName> {
        self.names.get((id.0 as usize).checked_sub(1)?)?.as_ref()
    }

    /// The number of a rule that has one.
    pub fn find(&self, name: &RuleName) -> Option<RuleId> {
        self.numbers.get(name).copied()
    }

    /// The highest number that is in use or was.
    pub fn highest(&self) -> usize {
        self.names.len()
    }

    /// How many rules have a number.
    pub fn in_use(&self) -> usize {
        self.numbers.len()
    }

    /// The numbers given since this was last called.
    pub fn take_fresh(&mut self) -> Vec<RuleId> {
        std::mem::take(&mut self.fresh)
    }

    /// Forgets the numbers that are not in use.
    pub fn retain(&mut self, used: &BTreeSet<RuleId>) {
        for (at, place) in self.names.iter_mut().enumerate() {
            let id = RuleId(u32::try_from(at + 1).unwrap_or(u32::MAX));
            if place.is_some() && !used.contains(&id) {
                *place = None;
                self.free.push(id);
            }
        }
        self.numbers.retain(|_, id| used.contains(id));
        while self.names.pop_if(|place| place.is_none()).is_some() {}
        let given = self.names.len();
        self.free.retain(|id| id.0 as usize <= given);
    }
}
