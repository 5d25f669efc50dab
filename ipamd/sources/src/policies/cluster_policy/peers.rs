//! The entries of `from` and `to`.

use super::{
    parts::{Part, some, unknown},
    subject,
};
use crate::{
    field::Field,
    policies::kubernetes::{labels, peers},
};
use ipamd_model::{
    field::FieldError,
    policy::{Direction, Entity, ItemKinds, ItemSelector, Scope},
};

/// The kinds of peers, of which an entry has exactly one; those of `from` come first.
const KINDS: [&str; 5] = ["namespaces", "pods", "nodes", "networks", "domainNames"];
/// How many of these `from` knows.
const OF_INGRESS: usize = 2;

/// Reads a peer.
pub(super) fn read(field: &Field<'_>, direction: Direction) -> Result<Part<Entity>, FieldError> {
    let kinds = match direction {
        Direction::Ingress => &KINDS[..OF_INGRESS],
        Direction::Egress => &KINDS[..],
    };
    if let Some(unknown) = unknown(field, "a peer", kinds) {
        return Ok(Part::Unknown(unknown));
    }
    field.only(kinds)?;
    let mut found = None;
    for kind in kinds {
        let Some(peer) = field.get(kind)? else { continue };
        if let Some((other, _)) = found.replace((*kind, peer)) {
            return Err(peer.refuse(format!("is not possible together with {other}")));
        }
    }
    let Some((kind, peer)) = found else {
        return Err(field.refuse(format!("says of nobody: it has none of {}", kinds.join(", "))));
    };
    let items = |items| Entity { items: Some(items), ..Entity::ANY };
    let peer = match kind {
        "namespaces" => subject::in_namespaces(&peer).map(items),
        "pods" => subject::in_namespaces_by_labels(&peer).map(items),
        "nodes" => nodes(&peer).map(items),
        "networks" => networks(&peer),
        _ => return Ok(Part::Unknown(peer.refuse("Cambric does not match names of the DNS"))),
    };
    peer.map(Part::Known)
}

/// Whether a peer consists of pods.
pub(super) fn is_of_pods(peer: &Entity) -> bool {
    peer.items.as_ref().is_some_and(|items| items.kinds == ItemKinds::Pods)
}

fn nodes(field: &Field<'_>) -> Result<ItemSelector, FieldError> {
    Ok(ItemSelector {
        kinds: ItemKinds::Nodes,
        scope: Scope::Any,
        labels: labels::selector(field)?,
        service_account_names: None,
        service_accounts: None,
    })
}

fn networks(list: &Field<'_>) -> Result<Entity, FieldError> {
    let nets = some(list, list.items()?.map(|it| peers::cidr(&it)))?;
    Ok(Entity { nets: Some(nets), ..Entity::ANY })
}
