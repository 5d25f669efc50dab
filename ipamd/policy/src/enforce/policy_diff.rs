//! Tries policies on the flows that were seen, without putting them in force (`cambricctl policy diff`).

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use ipamd_api::{
    AttachmentKey,
    policy::{DiffPage, FlowChange, RefusedObject, Verdict},
};

use super::{
    enforcer::Enforcer,
    judge,
    seen_flow::{NamedFlow, Numbers, SeenFlow},
    state::State,
    trial::overlay::Overlay,
    write_error::WriteError,
};
use crate::tables::RuleId;
use ipamd_model::{
    objects::{Change, Object, ObjectId},
    policy::{Direction, protocol},
};

/// The most groups of flows that are returned.
const MOST_CHANGES: usize = 10_000;

/// The verdict on a flow, and the rule that decided it.
type Judged = (Verdict, RuleId);

/// A side of a flow as it is shown: a pod is one side, whichever of its addresses was used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Pod(ObjectId),
    Other(IpAddr),
}

/// What the flows of one group have in common.
type Group = (u8, Who, Who, u16, Judged, Judged);

impl State {
    fn who(&self, address: IpAddr) -> Who {
        self.cluster.classes.pod_at(address).map_or(Who::Other(address), |pod| Who::Pod(pod.clone()))
    }

    /// Judges a flow; `None` if neither side is an endpoint of this node.
    fn judge(&self, named: &NamedFlow, endpoints: &HashMap<IpAddr, AttachmentKey>) -> Option<Judged> {
        let (flow, mut judged) = (&named.flow, None);
        for (direction, address) in [(Direction::Egress, flow.source), (Direction::Ingress, flow.destination)]
        {
            let Some(key) = endpoints.get(&address) else { continue };
            let judgement = judge::by_rules(key, direction, named, &self.cluster, &self.written);
            judged = Some((judgement.verdict(), judgement.rule()));
            if judgement.verdict() == Verdict::Deny {
                break;
            }
        }
        judged
    }
}

impl State {
    /// The staged policies of the cluster that are refused, unless these objects correct them. Of one that was understood before, that
    /// version is tried.
    fn refused_staged(&self, objects: &[Object]) -> Vec<RefusedObject> {
        let is_meant = |id: &ObjectId| id.kind.is_staged() && objects.iter().all(|it| it.id() != *id);
        let refusals = self.left_out.refusals.iter();
        let refused = refusals.filter(|it| it.object.as_ref().is_some_and(is_meant)).map(|refusal| {
            let mut refused = RefusedObject::from(refusal);
            if refusal.object.as_ref().is_some_and(|id| self.cluster.inputs.staged.contains_key(id)) {
                refused.reason += "; the version before is tried";
            }
            refused
        });
        refused.collect()
    }

    /// Applies objects to a copy of the cluster, and with `staged` all staged policies. Returns what would not be in force as it is
    /// written; what it would replace stays.
    fn try_out(&mut self, objects: Vec<Object>, staged: bool) -> Result<Vec<RefusedObject>, WriteError> {
        let inputs = &mut self.cluster.inputs;
        let former: Vec<_> = objects.into_iter().filter_map(|object| inputs.put(object)).collect();
        let mut overlay = if staged { Overlay::apply(inputs) } else { Overlay::default() };
        self.begin_copy()?;
        let mut refused = self.not_in_force();
        let stays =
            |it: &Object| matches!(it, Object::Policy(_)) && self.left_out.unfit.contains_key(&it.id());
        let stay: Vec<_> = former.into_iter().filter(stays).collect();
        for refused in &mut refused {
            refused.in_force |= stay.iter().any(|it| refused.object == Some((&it.id()).into()));
        }
        self.keep_what_stays(&mut overlay)?;
        self.apply(stay.into_iter().map(Change::Put).collect())?;
        Ok(refused)
    }
}

impl Enforcer {
    /// Which of the flows would be judged otherwise if these objects were applied; with `staged`, also all staged policies. `names`
    /// returns the DNS names that the opener of a flow was told for its destination.
    pub fn diff(
        &self,
        objects: Vec<Object>,
        staged: bool,
        flows: &[SeenFlow],
        names: impl Fn(&SeenFlow) -> Vec<String>,
    ) -> DiffPage {
        let flows = flows.iter().copied().collect::<BTreeSet<_>>();
        let flows = flows.into_iter().map(|flow| NamedFlow { names: names(&flow), flow }).collect::<Vec<_>>();
        let mut page = DiffPage { last: true, ..DiffPage::default() };
        let (before, left_out, mut trial) = {
            let state = self.lock();
            let endpoints = state.by_address();
            let judged = flows.iter().filter_map(|flow| Some((flow, state.judge(flow, &endpoints)?)));
            if staged {
                page.refused = state.refused_staged(&objects);
            }
            (judged.collect::<Vec<_>>(), state.not_in_force(), state.copy())
        };
        page.examined = before.len() as u64;
        match trial.try_out(objects, staged) {
            // Objects that are left out today already are not reported.
            Ok(refused) => page.refused.extend(refused.into_iter().filter(|it| !left_out.contains(it))),
            Err(error) => {
                let reason = error.to_string();
                page.refused.push(RefusedObject {
                    file: None,
                    line: None,
                    object: None,
                    field: String::new(),
                    reason,
                    in_force: false,
                });
                return page;
            }
        }
        let endpoints = trial.by_address();
        let mut groups: BTreeMap<Group, usize> = BTreeMap::new();
        for (named, was) in before {
            let Some(is) = trial.judge(named, &endpoints).filter(|is| is.0 != was.0) else { continue };
            let flow = named.flow;
            page.changed += 1;
            let (source, destination) = (trial.who(flow.source), trial.who(flow.destination));
            let group = (flow.protocol, source, destination, flow.destination_port, was, is);
            if let Some(at) = groups.get(&group) {
                if let Some(change) = page.changes.get_mut(*at) {
                    change.flows += 1;
                }
            } else if page.changes.len() < MOST_CHANGES {
                groups.insert(group, page.changes.len());
                let Numbers { destination, icmp, .. } = flow.numbers();
                page.changes.push(FlowChange {
                    protocol: protocol::name(flow.protocol),
                    flows: 1,
                    source: trial.cluster.party(flow.source, 0),
                    destination: trial.cluster.party(flow.destination, destination),
                    icmp,
                    before: was.0,
                    before_rule: self.rule(was.1),
                    after: is.0,
                    after_rule: trial.cluster.deciding(is.1),
                });
            }
        }
        page
    }
}
