//! Judges flows: by the rules in force, and by the tables as the programs do.

use std::convert::Infallible;

use ipamd_api::{AttachmentKey, policy::Verdict};
use ipnetwork::IpNetwork;

use super::{cluster::Cluster, seen_flow::NamedFlow, written::Written};
use crate::{
    compile::{
        decide::{Allowing, Decision},
        domains::Domains,
    },
    tables::{ClassId, EntryKey, EntryOf, Outcome, RuleId, TableError, Tables},
};
use ipamd_model::{
    domain::{DomainId, DomainPattern},
    policy::{Direction, protocol::has_ports},
};

/// The judgement of an endpoint's rules on a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// A rule, or a tier's default, or that all tiers leave it open.
    Decided(Decision),
    /// A rule allows it by a DNS name of its destination.
    ByName(String, Allowing),
    /// No policy speaks of the direction.
    Unpoliced,
    /// The node reaches its endpoints.
    Node,
}

impl Judgement {
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Decided(Decision { denied: Some(_), .. }) => Verdict::Deny,
            Self::Decided(_) | Self::ByName(..) | Self::Unpoliced | Self::Node => Verdict::Allow,
        }
    }

    pub fn rule(&self) -> RuleId {
        match self {
            Self::Decided(decision) => decision.rule,
            Self::ByName(_, allowing) => allowing.rule,
            Self::Unpoliced | Self::Node => RuleId(0),
        }
    }
}

/// The first of these names by which a flow that was denied is allowed, and by what. `find` has what allows by a pattern. Of the
/// patterns that mean a name, the narrowest is asked first.
fn by_name<T, E>(
    names: &[String],
    domains: &Domains,
    find: impl Fn(DomainId) -> Result<Option<T>, E>,
) -> Result<Option<(String, T)>, E> {
    for name in names {
        for id in DomainPattern::of_name(name).filter_map(|pattern| domains.find(&pattern)) {
            if let Some(found) = find(id)? {
                return Ok(Some((name.clone(), found)));
            }
        }
    }
    Ok(None)
}

/// Judges a flow by the endpoint's rules in force.
pub(super) fn by_rules(
    key: &AttachmentKey,
    direction: Direction,
    NamedFlow { flow, names }: &NamedFlow,
    cluster: &Cluster,
    written: &Written,
) -> Judgement {
    let peer = flow.peer(direction);
    if direction == Direction::Ingress && cluster.node_addresses.contains(&peer) {
        return Judgement::Node;
    }
    let Some(rules) = written.rules(key).map(|rules| rules.of(direction)).filter(|rules| rules.is_policed())
    else {
        return Judgement::Unpoliced;
    };
    let atoms = cluster.classes.atoms_of(IpNetwork::from(peer));
    let source_port = if has_ports(flow.protocol) { flow.source_port } else { 0 };
    let decision = rules.about(&atoms).decide(Some(flow.protocol), source_port, flow.destination_port);
    let allowed = decision
        .by_name
        .as_ref()
        .map(|reached| by_name(names, &cluster.domains, |id| Ok::<_, Infallible>(reached.of(id))));
    match allowed {
        Some(Ok(Some((name, allowing)))) => Judgement::ByName(name, allowing),
        _ => Judgement::Decided(decision),
    }
}

/// Judges a flow by the tables, as the programs do: whether it passes, and by which rule.
pub(super) fn by_tables(
    key: &AttachmentKey,
    direction: Direction,
    NamedFlow { flow, names }: &NamedFlow,
    cluster: &Cluster,
    tables: &dyn Tables,
) -> Result<(bool, RuleId), TableError> {
    let Some(endpoint) = cluster.endpoints.get(key) else { return Ok((false, RuleId(0))) };
    let Some(posture) = tables.posture(endpoint.slot.number())? else {
        return Ok((false, RuleId(0)));
    };
    let policed = match direction {
        Direction::Ingress => posture.ingress,
        Direction::Egress => posture.egress,
    };
    let peer = tables.peer(flow.peer(direction))?;
    if !policed || (direction == Direction::Ingress && peer.is_some_and(|peer| peer.node)) {
        return Ok((true, RuleId(0)));
    }
    let Some(map) = posture.map else { return Ok((false, RuleId(0))) };
    let find = |of, port| {
        let key = EntryKey { of, protocol: Some(flow.protocol), port, port_bits: 16 };
        tables.find(map, key)
    };
    let class = peer.map_or(ClassId::WORLD, |peer| peer.class);
    let mut entry = find(EntryOf::Class(direction, class), flow.destination_port)?;
    if entry.is_none() {
        entry = find(EntryOf::Class(direction, ClassId::ANY), flow.destination_port)?;
    }
    if let Some(branch) = entry.and_then(|entry| match entry.outcome {
        Outcome::BySource(branch) => Some(branch),
        Outcome::Allow | Outcome::Deny | Outcome::Reject => None,
    }) {
        entry = find(EntryOf::Branch(branch), flow.source_port)?;
    }
    if let Some(list) = entry.and_then(|entry| entry.domains) {
        let allowed = by_name(names, &cluster.domains, |id| {
            let of = EntryOf::Domain(list, id);
            tables.find(map, EntryKey { of, protocol: None, port: 0, port_bits: 0 })
        })?;
        entry = allowed.map(|(_, entry)| entry).or(entry);
    }
    Ok(entry.map_or((false, RuleId(0)), |entry| (entry.outcome == Outcome::Allow, entry.rule)))
}
