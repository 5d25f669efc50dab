//! The EndpointSlices of the cluster. One whose Service a rule names is an item of its own: its endpoints' addresses belong to it. The
//! others take no part, so that policy is as small with a hundred thousand endpoints as without.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ipnetwork::IpNetwork;

use super::item::{Facts, Item};
use ipamd_model::{
    labels::Labels,
    objects::{Kind, NamedPort, ObjectId},
    policy::Policy,
    service_name::{SERVICE_NAME_LABEL, ServiceName},
    services::EndpointSlice,
};

/// EndpointSlices, and the Services that rules name.
#[derive(Clone, Debug, Default)]
pub struct ServiceEndpoints {
    slices: BTreeMap<ObjectId, Arc<EndpointSlice>>,
    of_service: BTreeMap<ServiceName, BTreeSet<ObjectId>>,
    /// How many policies name a Service.
    named: BTreeMap<ServiceName, usize>,
    /// The Services that rules have begun or ceased to name since [`Self::take_turned`] was last called.
    turned: BTreeSet<ServiceName>,
}

impl ServiceEndpoints {
    /// Takes in a slice, and returns the one that had its id.
    pub fn put(&mut self, id: ObjectId, slice: Arc<EndpointSlice>) -> Option<Arc<EndpointSlice>> {
        let old = self.remove(&id);
        if let Some(service) = service_of(&slice) {
            self.of_service.entry(service).or_default().insert(id.clone());
        }
        self.slices.insert(id, slice);
        old
    }

    /// Forgets a slice, and returns it.
    pub fn remove(&mut self, id: &ObjectId) -> Option<Arc<EndpointSlice>> {
        let old = self.slices.remove(id)?;
        if let Some(service) = service_of(&old)
            && let Some(slices) = self.of_service.get_mut(&service)
        {
            slices.remove(id);
            if slices.is_empty() {
                self.of_service.remove(&service);
            }
        }
        Some(old)
    }

    /// Whether a slice is known.
    pub fn has(&self, id: &ObjectId) -> bool {
        self.slices.contains_key(id)
    }

    /// Takes note of a policy that came and of the one in whose place it came.
    pub fn policy_changed(&mut self, old: Option<&Policy>, new: Option<&Policy>) {
        let named_by = |policy: &Policy| ServiceName::named_by(policy).collect::<BTreeSet<_>>();
        for service in new.map(named_by).unwrap_or_default() {
            let count = self.named.entry(service.clone()).or_default();
            *count += 1;
            if *count == 1 {
                self.turned.insert(service);
            }
        }
        for service in old.map(named_by).unwrap_or_default() {
            let Some(count) = self.named.get_mut(&service) else { continue };
            *count -= 1;
            if *count == 0 {
                self.named.remove(&service);
                self.turned.insert(service);
            }
        }
    }

    /// The slices that have begun or ceased to be items because of policies, since this was last called.
    pub fn take_turned(&mut self) -> Vec<ObjectId> {
        let turned = std::mem::take(&mut self.turned);
        turned.iter().filter_map(|service| self.of_service.get(service)).flatten().cloned().collect()
    }

    /// The ids of the slices that are items.
    pub fn item_ids(&self) -> impl Iterator<Item = &ObjectId> {
        self.named.keys().filter_map(|service| self.of_service.get(service)).flatten()
    }

    /// A slice as an item, if a rule names its Service.
    pub fn item(&self, id: &ObjectId) -> Option<Item> {
        let slice = self.slices.get(id)?;
        let service = service_of(slice).filter(|service| self.named.contains_key(service))?;
        let name = service.port_name();
        let mut ports: Vec<_> = slice
            .ports
            .iter()
            .map(|it| NamedPort { name: Arc::clone(&name), protocol: it.protocol, port: it.port })
            .collect();
        ports.sort_unstable();
        ports.dedup();
        let facts = Facts {
            kind: Kind::EndpointSlice,
            namespace: id.namespace.clone(),
            labels: [(SERVICE_NAME_LABEL, &*service.name)].into_iter().collect::<Labels>(),
            service_account: None,
            ports: ports.into(),
        };
        let nets = slice.endpoints.iter().map(|it| IpNetwork::from(it.address)).collect();
        Some(Item { facts, nets })
    }
}

fn service_of(slice: &EndpointSlice) -> Option<ServiceName> {
    let name = Arc::clone(slice.service.as_ref()?);
    Some(ServiceName { namespace: Arc::clone(&slice.namespace), name })
}
