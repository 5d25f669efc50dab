//! The `source` and the `destination` of a rule.

use std::sync::Arc;

use super::{nets, selectors};
use crate::{field::Field, policies::domains};
use ipamd_model::{
    field::FieldError,
    policy::{Dialect, Entity, ItemKinds, ItemSelector, Scope},
    selector::Selector,
};

/// The fields of either side, those of its ports among them.
const FIELDS: [&str; 10] = [
    "selector",
    "notSelector",
    "namespaceSelector",
    "serviceAccounts",
    "nets",
    "notNets",
    "ports",
    "notPorts",
    "domains",
    "services",
];

/// What a side of a rule is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// What an endpoint is allowed to send to: DNS names may stand here.
    AllowedDestination,
    /// Anything else. That an address does not have a name is not known, so names can only allow.
    Other,
}

/// Reads a side of a rule of a policy in a namespace, or of one that is in none; the ports are left to
/// [`traffic`](super::traffic), and `services` to [`services`](super::services).
///
/// A selector finds pods and network sets, in the namespaces that `namespaceSelector` selects. Without that, a policy
/// in a namespace is about its own namespace, and another one about everything. `notSelector` takes something away
/// wherever it is; but as soon as a policy in a namespace has one, what it is taken from is the namespace, not all
/// addresses, as Calico has it.
///
/// DNS names stand alone: nothing else is said of the address then.
pub(super) fn read(
    field: &Field<'_>,
    place: Place,
    namespace: Option<&Arc<str>>,
) -> Result<Entity, FieldError> {
    field.only(&FIELDS)?;
    let domains = domains::read(field, "domains")?;
    let labels = selectors::labels(field, "selector")?;
    let not_labels = selectors::labels(field, "notSelector")?;
    let namespaces = selectors::namespaces(field)?;
    let accounts = match field.get("serviceAccounts")? {
        Some(accounts) => Accounts::read(&accounts)?,
        None => Accounts::default(),
    };
    let nets = nets::read(field, "nets")?;
    let not_nets = nets::read(field, "notNets")?;
    if !domains.is_empty() {
        let refused = |reason: &str| {
            Err(FieldError { field: format!("{}.domains", field.path()), reason: reason.into() })
        };
        if place == Place::Other {
            return refused("DNS names are for the destinations of egress rules with the action Allow only");
        }
        let others = [
            ("selector", labels.is_some()),
            ("notSelector", not_labels.is_some()),
            ("namespaceSelector", namespaces.is_some()),
            ("serviceAccounts", accounts.selects()),
            ("nets", !nets.is_empty()),
            ("notNets", !not_nets.is_empty()),
        ];
        if let Some((other, _)) = others.iter().find(|(_, is_there)| *is_there) {
            return refused(&format!("is not possible together with {other}"));
        }
        return Ok(Entity { domains, ..Entity::ANY });
    }

    let limited = namespaces.is_some() || (namespace.is_some() && not_labels.is_some());
    let selects = limited || labels.is_some() || accounts.selects();
    let items = selects.then(|| ItemSelector {
        kinds: ItemKinds::PodsAndNetworkSets,
        scope: match (namespaces, namespace) {
            (Some(namespaces), _) => Scope::Matching(namespaces),
            (None, Some(namespace)) => Scope::Namespace(Arc::clone(namespace)),
            (None, None) => Scope::Any,
        },
        labels: labels.unwrap_or(Selector::All),
        dialect: Dialect::Calico,
        service_account_names: accounts.names,
        service_accounts: accounts.labels,
    });
    let not_items = not_labels.map(|labels| ItemSelector {
        kinds: ItemKinds::PodsAndNetworkSets,
        scope: Scope::Any,
        labels,
        dialect: Dialect::Calico,
        service_account_names: None,
        service_accounts: None,
    });
    // An empty list constrains nothing.
    let nets = (!nets.is_empty()).then_some(nets);
    Ok(Entity { items, not_items, nets, not_nets, domains })
}

/// `serviceAccounts`: both must hold.
#[derive(Default)]
struct Accounts {
    names: Option<Vec<Arc<str>>>,
    labels: Option<Selector>,
}

impl Accounts {
    fn read(field: &Field<'_>) -> Result<Self, FieldError> {
        field.only(&["names", "selector"])?;
        let mut names: Vec<Arc<str>> = Vec::new();
        if let Some(list) = field.get("names")? {
            for item in list.items()? {
                let name = item.text()?;
                if name.is_empty() {
                    return Err(item.refuse("a name must not be empty"));
                }
                names.push(name.into());
            }
        }
        names.sort_unstable();
        names.dedup();
        let names = (!names.is_empty()).then_some(names);
        Ok(Self { names, labels: selectors::labels(field, "selector")? })
    }

    fn selects(&self) -> bool {
        self.names.is_some() || self.labels.is_some()
    }
}
