//! An index of the Services and EndpointSlices of the cluster.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use ipamd_model::{
    objects::{Change, Kind, Object, ObjectId},
    services::{EndpointSlice, Service},
};

/// A service's namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ServiceId {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

#[derive(Debug, Default)]
pub(super) struct ServiceIndex {
    pub services: BTreeMap<ServiceId, Arc<Service>>,
    slices: HashMap<ServiceId, Arc<EndpointSlice>>,
    /// Names of the slices of each service.
    of_service: HashMap<ServiceId, BTreeSet<Arc<str>>>,
}

impl ServiceIndex {
    /// Applies a change, and adds the services that it concerns.
    pub fn apply_change(&mut self, change: &Change, concerned: &mut BTreeSet<ServiceId>) {
        match change {
            Change::Put(Object::Service(service)) => {
                let id = id_of(&service.namespace, &service.name);
                self.services.insert(id.clone(), Arc::clone(service));
                concerned.insert(id);
            }
            Change::Put(Object::EndpointSlice(slice)) => {
                let id = id_of(&slice.namespace, &slice.name);
                self.replace_slice(id, Some(Arc::clone(slice)), concerned);
            }
            Change::Remove(ObjectId { kind, namespace, name }) => {
                let id = id_of(namespace.as_ref().unwrap_or(&Arc::default()), name);
                match kind {
                    Kind::Service => {
                        self.services.remove(&id);
                        concerned.insert(id);
                    }
                    Kind::EndpointSlice => self.replace_slice(id, None, concerned),
                    _ => {}
                }
            }
            Change::Put(_) => {}
        }
    }

    fn replace_slice(
        &mut self,
        id: ServiceId,
        slice: Option<Arc<EndpointSlice>>,
        concerned: &mut BTreeSet<ServiceId>,
    ) {
        let service_of = |slice: &EndpointSlice| {
            let service = slice.service.as_ref().filter(|_| slice.balanced);
            service.map(|service| id_of(&slice.namespace, service))
        };
        if let Some(owner) = self.slices.remove(&id).and_then(|old| service_of(&old)) {
            if let Some(names) = self.of_service.get_mut(&owner) {
                names.remove(&id.name);
                if names.is_empty() {
                    self.of_service.remove(&owner);
                }
            }
            concerned.insert(owner);
        }
        let Some(slice) = slice else { return };
        let Some(owner) = service_of(&slice) else { return };
        self.of_service.entry(owner.clone()).or_default().insert(Arc::clone(&id.name));
        self.slices.insert(id, slice);
        concerned.insert(owner);
    }

    /// The slices of a service, by name.
    pub fn slices_of<'a>(
        &'a self,
        service: &'a ServiceId,
    ) -> impl Iterator<Item = &'a EndpointSlice> + Clone {
        let names = self.of_service.get(service).into_iter().flatten();
        names.filter_map(|name| self.slices.get(&id_of(&service.namespace, name)).map(|slice| &**slice))
    }
}

fn id_of(namespace: &Arc<str>, name: &Arc<str>) -> ServiceId {
    ServiceId { namespace: Arc::clone(namespace), name: Arc::clone(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(name: &str, service: Option<&str>) -> Change {
        Change::Put(Object::EndpointSlice(Arc::new(EndpointSlice {
            namespace: "ns".into(),
            name: name.into(),
            service: service.map(Arc::from),
            balanced: true,
            ports: Box::default(),
            endpoints: Box::default(),
            refused: Box::default(),
        })))
    }

    #[test]
    fn a_slice_that_changes_its_service_concerns_both() {
        let mut index = ServiceIndex::default();
        let concern = |index: &mut ServiceIndex, change: &Change| {
            let mut concerned = BTreeSet::new();
            index.apply_change(change, &mut concerned);
            concerned.into_iter().map(|id| id.name.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(concern(&mut index, &slice("s", Some("a"))), ["a"]);
        assert_eq!(concern(&mut index, &slice("s", Some("b"))), ["a", "b"]);
        assert_eq!(concern(&mut index, &slice("s", None)), ["b"]);
        assert_eq!(concern(&mut index, &slice("s", Some("b"))), ["b"]);
        let id = ServiceId { namespace: "ns".into(), name: "b".into() };
        assert_eq!(index.slices_of(&id).count(), 1);
        let gone = Change::Remove(ObjectId::namespaced(Kind::EndpointSlice, "ns", "s"));
        assert_eq!(concern(&mut index, &gone), ["b"]);
        assert!(index.of_service.is_empty() && index.slices.is_empty());
    }
}
