//! The Services that rules of policies name. Such a rule means the endpoints that the Service has in its EndpointSlices.
//!
//! A rule has no part of its own for that. Each EndpointSlice counts as something that addresses belong to, with the label that
//! names its Service, and its ports have the Service as their name. So a rule selects the endpoints as it selects pods, and names
//! their ports as it names ports of pods.

use std::{fmt, sync::Arc};

use crate::{
    policy::{Dialect, Direction, Entity, ItemKinds, ItemSelector, Policy, Ports, Scope},
    selector::Selector,
};

/// The label of an EndpointSlice that names its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// A Service's namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl ServiceName {
    /// Matches the addresses of its endpoints.
    pub fn endpoints(&self) -> Entity {
        let items = ItemSelector {
            kinds: ItemKinds::ServiceEndpoints,
            scope: Scope::Namespace(Arc::clone(&self.namespace)),
            labels: Selector::Equals(SERVICE_NAME_LABEL.into(), Arc::clone(&self.name)),
            dialect: Dialect::Kubernetes,
            service_account_names: None,
            service_accounts: None,
        };
        Entity { items: Some(items), ..Entity::ANY }
    }

    /// Matches the ports that its endpoints have.
    pub fn ports(&self) -> Ports {
        Ports { ranges: Vec::new(), names: vec![self.port_name()] }
    }

    /// The name that its ports have for rules. A port of a pod never has such a name, because a slash cannot be in it.
    pub fn port_name(&self) -> Arc<str> {
        self.to_string().into()
    }

    /// Whether the name of a port means the ports of a Service.
    pub fn is_port_name(name: &str) -> bool {
        name.contains('/')
    }

    /// The Service whose endpoints a selector selects.
    pub fn of(items: &ItemSelector) -> Option<Self> {
        match (items.kinds, &items.scope, &items.labels) {
            (ItemKinds::ServiceEndpoints, Scope::Namespace(namespace), Selector::Equals(_, name)) => {
                Some(Self { namespace: Arc::clone(namespace), name: Arc::clone(name) })
            }
            _ => None,
        }
    }

    /// The Services that the rules of a policy name.
    pub fn named_by(policy: &Policy) -> impl Iterator<Item = Self> {
        let rules = Direction::BOTH.into_iter().flat_map(|it| policy.rules(it).unwrap_or_default());
        let sides = rules.flat_map(|rule| rule.sources.iter().chain(&rule.destinations));
        sides.filter_map(|side| side.items.as_ref().and_then(Self::of))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_that_means_endpoints_tells_their_service() {
        let service = ServiceName { namespace: "shop".into(), name: "db".into() };
        assert_eq!(service.endpoints().items.as_ref().and_then(ServiceName::of), Some(service.clone()));
        assert!(ServiceName::is_port_name(&service.port_name()) && !ServiceName::is_port_name("http"));
        let pods = ItemSelector { kinds: ItemKinds::Pods, ..service.endpoints().items.unwrap() };
        assert_eq!(ServiceName::of(&pods), None);
    }
}
