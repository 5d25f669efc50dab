//! The entries of `from` and `to`.

use super::{
    parts::{Part, some, unknown},
    subject,
};
use crate::{
    field::{Field, shown},
    policies::{
        domains,
        kubernetes::{labels, peers},
    },
};
use ipamd_model::{
    domain::DomainPattern,
    field::FieldError,
    policy::{ADMIN_TIER, Action, Dialect, Direction, Entity, ItemKinds, ItemSelector, Scope},
};

/// The kinds of peers, of which an entry has exactly one; those of `from` come first.
const KINDS: [&str; 5] = ["namespaces", "pods", "nodes", "networks", "domainNames"];
/// How many of these `from` knows.
const OF_INGRESS: usize = 2;

/// The rule that has a peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    /// Its direction.
    pub direction: Direction,
    /// What it does.
    pub action: Action,
    /// The tier of its policy.
    pub tier: &'a str,
}

impl Place<'_> {
    /// Why DNS names may not stand there (NPEP-133): that an address does not have a name is not known, and NetworkPolicies, which come
    /// before the tier Baseline, could not say the same.
    fn no_names(&self) -> Option<&'static str> {
        if self.action != Action::Allow {
            Some("DNS names are for rules that accept only")
        } else if self.tier != ADMIN_TIER {
            Some("DNS names are for policies of the tier Admin only")
        } else {
            None
        }
    }
}

/// Reads a peer.
pub(super) fn read(field: &Field<'_>, place: Place<'_>) -> Result<Part<Entity>, FieldError> {
    let kinds = match place.direction {
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
        _ => match place.no_names() {
            Some(reason) => return Ok(Part::Unknown(peer.refuse(reason))),
            None => domain_names(&peer),
        },
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
        dialect: Dialect::Kubernetes,
        service_account_names: None,
        service_accounts: None,
    })
}

fn networks(list: &Field<'_>) -> Result<Entity, FieldError> {
    let nets = some(list, list.items()?.map(|it| peers::cidr(&it)))?;
    Ok(Entity { nets: Some(nets), ..Entity::ANY })
}

fn domain_names(list: &Field<'_>) -> Result<Entity, FieldError> {
    let names = some(list, list.items()?.map(|it| domain_name(&it)))?;
    Ok(Entity { domains: names, ..Entity::ANY })
}

/// A name as the API server wants it: of two labels at least, each of which begins and ends with a letter or a digit.
fn domain_name(field: &Field<'_>) -> Result<DomainPattern, FieldError> {
    let pattern = domains::name(field)?;
    let edge = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let is_label = |label: &str| edge(label.bytes().next()) && edge(label.bytes().next_back());
    if pattern.name().contains('.') && pattern.name().split('.').all(is_label) {
        return Ok(pattern);
    }
    Err(field.refuse(format!(
        "{} is not a domain name such as example.com or *.example.com",
        shown(field.text()?)
    )))
}
