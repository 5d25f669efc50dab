//! Which service a health check port belongs to: the first that claimed it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::check::HealthCheck;
use crate::service_index::ServiceId;

/// The services that claim each port, in the order of their claims. The first one holds the port.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    ports: BTreeMap<u16, Vec<(ServiceId, usize)>>,
    /// Which port each service claims.
    of: HashMap<ServiceId, u16>,
}

impl Claims {
    /// Sets the one port that a service claims, with its number of endpoints on this node; `None` for no port.
    pub fn set(&mut self, id: &ServiceId, claim: Option<(u16, usize)>) {
        let wanted = claim.map(|(port, _)| port);
        if let Some(before) = self.of.get(id).copied().filter(|before| Some(*before) != wanted) {
            self.of.remove(id);
            if let Some(claims) = self.ports.get_mut(&before) {
                claims.retain(|(of, _)| of != id);
                if claims.is_empty() {
                    self.ports.remove(&before);
                }
            }
        }
        let Some((port, endpoints)) = claim else { return };
        let claims = self.ports.entry(port).or_default();
        if self.of.insert(id.clone(), port).is_none() {
            claims.push((id.clone(), endpoints));
        } else if let Some((_, known)) = claims.iter_mut().find(|(of, _)| of == id) {
            *known = endpoints;
        }
    }

    /// Forgets the services that are gone.
    pub fn keep(&mut self, is_there: impl Fn(&ServiceId) -> bool) {
        self.ports.values_mut().for_each(|claims| claims.retain(|(id, _)| is_there(id)));
        self.ports.retain(|_, claims| !claims.is_empty());
        self.of.retain(|id, _| is_there(id));
    }

    /// The service that holds a port.
    pub fn holder(&self, port: u16) -> Option<&ServiceId> {
        self.ports.get(&port)?.first().map(|(id, _)| id)
    }

    /// The answer of each port.
    pub fn checks(&self) -> BTreeMap<u16, HealthCheck> {
        let held = self.ports.iter().filter_map(|(port, claims)| Some((*port, claims.first()?)));
        held.map(|(port, (id, local_endpoints))| {
            let (namespace, name) = (Arc::clone(&id.namespace), Arc::clone(&id.name));
            (port, HealthCheck { namespace, name, local_endpoints: *local_endpoints })
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> ServiceId {
        ServiceId { namespace: "shop".into(), name: name.into() }
    }

    fn told(claims: &Claims) -> Vec<(u16, String, usize)> {
        let checks = claims.checks().into_iter();
        checks.map(|(port, check)| (port, check.name.to_string(), check.local_endpoints)).collect()
    }

    #[test]
    fn the_first_keeps_the_port_and_its_answer() {
        let mut claims = Claims::default();
        claims.set(&id("web"), Some((30_100, 2)));
        claims.set(&id("a"), Some((30_100, 0)));
        assert_eq!(told(&claims), [(30_100, "web".into(), 2)]);
        claims.set(&id("web"), Some((30_100, 3)));
        assert_eq!(told(&claims), [(30_100, "web".into(), 3)], "its endpoints may change");
        claims.set(&id("a"), None);
        assert_eq!(told(&claims), [(30_100, "web".into(), 3)], "nothing changes for the first");
    }

    #[test]
    fn the_second_gets_it_when_the_first_goes() {
        let mut claims = Claims::default();
        for name in ["c", "b", "a"] {
            claims.set(&id(name), Some((30_100, 1)));
        }
        claims.set(&id("c"), Some((30_101, 1)));
        assert_eq!(told(&claims), [(30_100, "b".into(), 1), (30_101, "c".into(), 1)], "it has another port");
        claims.keep(|it| &*it.name != "b");
        assert_eq!(claims.holder(30_100), Some(&id("a")));
        // A service that comes back is the last.
        claims.set(&id("b"), Some((30_100, 1)));
        assert_eq!(claims.holder(30_100), Some(&id("a")));
        claims.keep(|_| false);
        assert_eq!((told(&claims), claims.ports.len(), claims.of.len()), (vec![], 0, 0));
    }
}
