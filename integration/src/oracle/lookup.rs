//! What the programs would do with a flow, by the tables that they look it up in.

use std::net::IpAddr;

use ipamd_model::{endpoint::Slot, policy as model};
use ipamd_policy::tables::{ClassId, EntryKey, EntryOf, Outcome, RuleId, TableError, Tables};

use super::packet::{Direction, Flow};

impl From<Direction> for model::Direction {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Ingress => Self::Ingress,
            Direction::Egress => Self::Egress,
        }
    }
}

/// Whether a flow between the endpoint of a slot and a peer passes, and which rule says so. The peer is not the node's
/// own stack, which is asked for no policy. The endpoint was told the peer's address as one of these DNS names.
///
/// # Errors
/// Why the tables cannot be read.
pub fn look_up(
    tables: &dyn Tables,
    slot: Slot,
    direction: Direction,
    peer: IpAddr,
    names: &[String],
    flow: Flow,
) -> Result<(bool, RuleId), TableError> {
    let dropped = (false, RuleId::default());
    let passed = (true, RuleId::default());
    let Some(posture) = tables.posture(slot)? else { return Ok(dropped) };
    let policed = match direction {
        Direction::Ingress => posture.ingress,
        Direction::Egress => posture.egress,
    };
    if !policed {
        return Ok(passed);
    }
    let Some(map) = posture.map else { return Ok(dropped) };
    let find =
        |of, port| tables.find(map, EntryKey { of, protocol: Some(flow.protocol), port, port_bits: 16 });
    let class = tables.peer(peer)?.map_or(ClassId::WORLD, |peer| peer.class);
    let of = |class| EntryOf::Class(direction.into(), class);
    let entry = match find(of(class), flow.destination_port)? {
        Some(entry) => Some(entry),
        None => find(of(ClassId::ANY), flow.destination_port)?,
    };
    let entry = match entry.map(|entry| entry.outcome) {
        Some(Outcome::BySource(branch)) => find(EntryOf::Branch(branch), flow.source_port)?,
        _ => entry,
    };
    if let Some(list) = entry.and_then(|entry| entry.domains) {
        for (pattern, id) in tables.domains()? {
            let of = EntryOf::Domain(list, id);
            let key = EntryKey { of, protocol: None, port: 0, port_bits: 0 };
            if names.iter().any(|name| pattern.matches(name))
                && let Some(allowing) = tables.find(map, key)?
            {
                return Ok((true, allowing.rule));
            }
        }
    }
    Ok(entry.map_or(dropped, |entry| (entry.outcome == Outcome::Allow, entry.rule)))
}
