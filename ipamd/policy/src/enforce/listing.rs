//! Listings of what is in force and what is not.

use ipamd_api::policy::{PolicyDetail, PolicyQuery, PolicyRule, PolicySummary, RefusedObject};

use super::{counts::Counts, enforcer::Enforcer, left_out::Unfit, parties::pod_name, state::State};
use crate::{compile::names::RuleName, describe};
use ipamd_model::{
    objects::{Change, Object, ObjectId, Refusal},
    policy::{Direction, Policy},
};
use ipamd_runtime::queued_lock::locked;

/// The most objects for which Events are created.
const TOLD: usize = 100;

/// Whether a query names a policy.
pub(super) fn is_meant(query: &PolicyQuery, id: &ObjectId) -> bool {
    *id.name == *query.name
        && query.namespace.as_ref().is_none_or(|wanted| id.namespace.as_deref() == Some(wanted))
        && query.kind.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(id.kind.name()))
}

impl State {
    pub fn summary(&self, policy: &Policy) -> PolicySummary {
        let rank = self.cluster.ranks.get(&policy.id);
        let selected =
            |rank| self.cluster.endpoints.values().filter(|it| it.selecting.contains_key(rank)).count();
        let rules = |direction| policy.rules(direction).map_or(0, <[_]>::len);
        let spoken = Direction::BOTH.into_iter().filter(|direction| policy.rules(*direction).is_some());
        PolicySummary {
            policy: (&policy.id).into(),
            tier: policy.tier.to_string(),
            order: policy.order.0,
            directions: spoken.map(|direction| direction.to_string()).collect(),
            rules: Direction::BOTH.into_iter().map(rules).sum::<usize>() as u64,
            endpoints: rank.map_or(0, selected) as u64,
            origin: policy.origin.as_ref().map(ToString::to_string),
            staged: None,
        }
    }

    pub fn detail(&self, policy: &Policy) -> PolicyDetail {
        let rank = self.cluster.ranks.get(&policy.id);
        let selected = self.cluster.endpoints.values();
        let selected = selected.filter(|it| rank.is_some_and(|rank| it.selecting.contains_key(rank)));
        let rules = Direction::BOTH.into_iter().flat_map(|direction| {
            policy.rules(direction).unwrap_or_default().iter().map(move |rule| (direction, rule))
        });
        let rules = rules.map(|(direction, rule)| PolicyRule {
            direction: direction.to_string(),
            index: rule.index as u64,
            name: rule.name.clone(),
            action: describe::action(rule.action).to_owned(),
            matches: describe::rule(rule, direction),
            hits: self.hits(&RuleName::Rule {
                policy: policy.id.clone(),
                direction,
                index: rule.index,
                name: rule.name.as_deref().map(Into::into),
            }),
        });
        PolicyDetail {
            summary: self.summary(policy),
            subject: describe::items(&policy.subject),
            selects: selected.map(|endpoint| pod_name(&endpoint.item)).collect(),
            rules: rules.collect(),
            trial: None,
        }
    }

    /// How often a rule has decided. A rule that no endpoint has never decides.
    fn hits(&self, rule: &RuleName) -> u64 {
        let number = self.cluster.names.find(rule);
        number.and_then(|number| self.tables.hits(number).ok()).unwrap_or_default()
    }

    /// An object that could not be understood.
    fn refused(&self, refusal: &Refusal) -> RefusedObject {
        let in_force = refusal.object.as_ref().is_some_and(|id| self.cluster.is_in_force(id));
        RefusedObject { in_force, ..refusal.into() }
    }

    /// Objects that are understood and not in force.
    pub fn not_in_force(&self) -> Vec<RefusedObject> {
        let of = |id: &ObjectId, object: Option<&Object>, field: &str, reason: String| {
            let origin = match object {
                Some(Object::Policy(policy)) => policy.origin.as_ref(),
                _ => None,
            };
            RefusedObject {
                file: origin.map(|origin| origin.file.to_string_lossy().into_owned().into()),
                line: origin.map(|origin| origin.line).filter(|line| *line > 0),
                object: Some(id.into()),
                field: field.to_owned(),
                reason,
                in_force: self.cluster.is_in_force(id),
            }
        };
        let unfit = self.left_out.unfit.iter().map(|(id, Unfit { change, reason, .. })| match change {
            Change::Put(object) => of(id, Some(object), "", reason.clone()),
            Change::Remove(_) => {
                of(id, None, "", format!("it is gone, and what is left does not fit: {reason}"))
            }
        });
        let unknown = self.cluster.unenforced().map(|policy| {
            let reason = format!("the tier {} is not known", policy.tier);
            of(&policy.id, Some(&Object::Policy(std::sync::Arc::clone(policy))), "spec.tier", reason)
        });
        unfit.chain(unknown).collect()
    }
}

impl Enforcer {
    /// The policies in force, in the order in which they are asked; and every object that is not in force as it is
    /// written.
    pub fn policies(&self) -> (Vec<PolicySummary>, Vec<RefusedObject>) {
        let state = self.lock();
        let mut ranked = state.cluster.ranks.iter().collect::<Vec<_>>();
        ranked.sort_by_key(|(_, rank)| *rank);
        let policies = ranked.into_iter().filter_map(|(id, _)| state.cluster.inputs.policies.get(id));
        let policies = policies.map(|policy| state.summary(policy)).collect();
        let refused =
            state.left_out.refusals.iter().map(|it| state.refused(it)).chain(state.not_in_force()).collect();
        (policies, refused)
    }

    /// Objects that are not in force as they are written, each with why in a word; `None` while a change is under way.
    pub fn not_enforced(&self) -> Option<Vec<(RefusedObject, &'static str)>> {
        let state = self.state.try_lock()?;
        let refused = state.left_out.refusals.iter().map(|it| (state.refused(it), "Refused"));
        Some(
            refused.chain(state.not_in_force().into_iter().map(|it| (it, "DoesNotFit"))).take(TOLD).collect(),
        )
    }

    /// The details of the policies in force that a query names.
    pub fn policy(&self, query: &PolicyQuery) -> Vec<PolicyDetail> {
        let state = self.lock();
        let found = state.cluster.ranks.keys().filter(|id| is_meant(query, id));
        let found = found.filter_map(|id| state.cluster.inputs.policies.get(id));
        found.map(|policy| state.detail(policy)).collect()
    }

    /// The counts; while a change is under way, those before it.
    pub fn counts(&self) -> Counts {
        self.report().0
    }

    /// The problems that need an operator, a sentence each; while a change is under way, those before it.
    pub fn problems(&self) -> Vec<String> {
        self.report().1
    }

    fn report(&self) -> (Counts, Vec<String>) {
        let mut report = locked(&self.last_report);
        if let Some(state) = self.state.try_lock() {
            *report = (state.counts(), state.problems());
        }
        report.clone()
    }
}

impl State {
    fn problems(&self) -> Vec<String> {
        let state = self;
        let failure = state.failure.as_ref();
        let failed = failure.map(|error| format!("policies are not enforced as they are: {error}"));
        let refused = (!state.left_out.refusals.is_empty()).then(|| {
            let more = match state.left_out.refusals.len() {
                1 => String::new(),
                several => format!(" (and {} more, see cambricctl policy list)", several - 1),
            };
            let first = state.left_out.refusals.first().map(ToString::to_string).unwrap_or_default();
            format!("refused: {first}{more}")
        });
        let left_out = state.not_in_force().into_iter().map(|it| {
            let object = it.object.map(|object| object.to_string()).unwrap_or_default();
            let how = if it.in_force { "is enforced as it was" } else { "is not enforced" };
            format!("{object} {how}: {}", it.reason)
        });
        let contested = state.cluster.classes.contested().map(|(address, pods)| {
            let pods = pods.into_iter().map(pod_name).collect::<Vec<_>>().join(" and ");
            format!("the address {address} belongs to several pods: {pods}")
        });
        let enforced = state.cluster.ranks.keys().filter_map(|id| state.cluster.inputs.policies.get(id));
        let closed =
            enforced.flat_map(|policy| policy.closed.iter().map(|it| format!("{}: {it}", policy.id)));
        let namespaces =
            state.cluster.inputs.not_understood().map(|(name, it)| format!("Namespace {name}: {it}"));
        let cut_off = state.closed.iter().map(|(key, it)| format!("{key} is cut off: {}", it.reason));
        failed
            .into_iter()
            .chain(cut_off)
            .chain(refused)
            .chain(left_out)
            .chain(closed)
            .chain(namespaces)
            .chain(contested)
            .take(100)
            .collect()
    }
}
