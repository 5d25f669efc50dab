//! Which service leads to an address and port: its own, or one of its endpoints'.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ipamd_model::{
    objects::{Change, Kind, Object, ObjectId},
    services::{EndpointSlice, Service},
};

/// A service's namespace and name.
pub type ServiceName = (Arc<str>, Arc<str>);

/// Address, port, and protocol.
type Place = (IpAddr, u16, u8);

/// What the Services and EndpointSlices of the cluster say.
#[derive(Debug, Default)]
pub struct ServiceNames(Mutex<Index>);

#[derive(Debug, Default)]
struct Index {
    /// What each object says.
    said: HashMap<ObjectId, (ServiceName, Box<[Place]>)>,
    /// Of each place, the services: once for each object that says so.
    services: HashMap<Place, Vec<ServiceName>>,
}

impl ServiceNames {
    fn index(&self) -> MutexGuard<'_, Index> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies changes of the cluster.
    pub fn apply(&self, changes: &[Change]) {
        if !changes.iter().any(|it| matches!(it.kind(), Kind::Service | Kind::EndpointSlice)) {
            return;
        }
        let mut index = self.index();
        for change in changes {
            match change {
                Change::Put(object @ Object::Service(service)) => {
                    let name = (Arc::clone(&service.namespace), Arc::clone(&service.name));
                    index.put(object.id(), Some((name, own_places(service))));
                }
                Change::Put(object @ Object::EndpointSlice(slice)) => {
                    let name = slice.service.as_ref();
                    let name = name.map(|name| (Arc::clone(&slice.namespace), Arc::clone(name)));
                    index.put(object.id(), name.map(|name| (name, places_of(slice))));
                }
                Change::Remove(id) => index.put(id.clone(), None),
                Change::Put(_) => {}
            }
        }
    }

    /// The service that leads there; of several, the first by name.
    pub fn at(&self, address: IpAddr, port: u16, protocol: u8) -> Option<ServiceName> {
        self.index().services.get(&(address, port, protocol))?.iter().min().cloned()
    }
}

impl Index {
    fn put(&mut self, id: ObjectId, says: Option<(ServiceName, Box<[Place]>)>) {
        let before = self.said.remove(&id);
        for place in before.iter().flat_map(|(_, places)| places) {
            let Some(services) = self.services.get_mut(place) else { continue };
            let name = before.as_ref().map(|(name, _)| name);
            if let Some(at) = services.iter().position(|it| Some(it) == name) {
                services.swap_remove(at);
            }
            if services.is_empty() {
                self.services.remove(place);
            }
        }
        if let Some((name, places)) = says.filter(|(_, places)| !places.is_empty()) {
            for place in &places {
                self.services.entry(*place).or_default().push(name.clone());
            }
            self.said.insert(id, (name, places));
        }
    }
}

fn own_places(service: &Service) -> Box<[Place]> {
    let addresses = [&service.cluster_ips, &service.external_ips, &service.load_balancer_ips];
    let addresses = addresses.into_iter().flatten();
    addresses.flat_map(|ip| service.ports.iter().map(|port| (*ip, port.port, port.protocol))).collect()
}

fn places_of(slice: &EndpointSlice) -> Box<[Place]> {
    let endpoints = slice.endpoints.iter();
    endpoints.flat_map(|it| slice.ports.iter().map(|port| (it.address, port.port, port.protocol))).collect()
}

#[cfg(test)]
mod tests {
    use ipamd_model::services::{SliceEndpoint, SlicePort};

    use super::*;

    fn slice(name: &str, service: Option<&str>, last: u8) -> Change {
        let endpoint = SliceEndpoint {
            address: [10, 0, 0, last].into(),
            ready: true,
            serving: true,
            terminating: false,
            node: None,
            hints: None,
        };
        Change::Put(Object::EndpointSlice(Arc::new(EndpointSlice {
            namespace: "ns".into(),
            name: name.into(),
            service: service.map(Arc::from),
            balanced: true,
            ports: [SlicePort { name: "".into(), protocol: 6, port: 80 }].into(),
            endpoints: [endpoint].into(),
            refused: Box::default(),
        })))
    }

    #[test]
    fn a_place_has_the_first_of_its_services_until_that_is_gone() {
        let names = ServiceNames::default();
        let at =
            |last: u8, port| names.at([10, 0, 0, last].into(), port, 6).map(|(_, name)| name.to_string());
        names.apply(&[slice("s1", Some("web"), 1), slice("s2", Some("api"), 1), slice("s3", None, 2)]);
        assert_eq!(at(1, 80).as_deref(), Some("api"));
        assert_eq!((at(1, 81), at(2, 80)), (None, None));
        names.apply(&[Change::Remove(ObjectId::namespaced(Kind::EndpointSlice, "ns", "s2"))]);
        assert_eq!(at(1, 80).as_deref(), Some("web"));
        names.apply(&[slice("s1", Some("web"), 3)]);
        assert_eq!((at(1, 80), at(3, 80).as_deref()), (None, Some("web")));
        names.apply(&[slice("s1", None, 3)]);
        assert!(names.index().services.is_empty() && names.index().said.is_empty());
    }
}
