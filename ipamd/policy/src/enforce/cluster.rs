//! The cluster as policy sees it: what was told, and what follows from that for the endpoints of this node. Nothing here knows the
//! tables.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use ipamd_api::AttachmentKey;

use super::{
    change_log::{ChangeLog, Told},
    slots::EndpointSlot,
};
use crate::compile::{
    classes::Classes,
    domains::Domains,
    item::Facts,
    names::RuleNames,
    policy_inputs::{HostRole, LocalEndpoint, PolicyInputs},
    rank::{Rank, Selecting},
    resolve::Own,
};
use ipamd_model::{
    host::HostLayer,
    objects::{Change, Kind, Object, ObjectId},
    policy::{Action, Denied, Direction, ItemSelector, Policy},
};
use ipamd_runtime::supervisor;

/// An endpoint of this node, and the policies that select it.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub slot: Arc<EndpointSlot>,
    pub item: ObjectId,
    /// What selectors can tell of that item, as it was when all policies were asked last. To find it out anew for each of a thousand
    /// policies that come takes longer than all the rest.
    facts: Option<Facts>,
    pub addresses: Vec<IpAddr>,
    /// What it is of a host endpoint.
    pub host: Option<HostRole>,
    pub selecting: Selecting,
}

impl Endpoint {
    /// What it is asked about, if it is a host endpoint's.
    pub fn layer(&self) -> Option<HostLayer> {
        self.host.as_ref().map(|host| host.layer)
    }
}

/// The inputs of policy and what is derived from them.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    pub inputs: PolicyInputs,
    /// The addresses from which the node itself always reaches its endpoints.
    pub node_addresses: BTreeSet<IpAddr>,
    /// The classes of addresses. A new set of the tables has new ones.
    pub classes: Classes,
    /// The numbers of rules.
    pub names: RuleNames,
    /// The numbers of patterns of DNS names.
    pub domains: Domains,
    /// What becomes of packets that are denied, where neither the policy nor the namespace says it.
    pub denied: Denied,
    /// The rank of each policy that is enforced.
    pub ranks: BTreeMap<ObjectId, Rank>,
    pub endpoints: BTreeMap<AttachmentKey, Endpoint>,
    /// What the staged set has not taken in.
    pub log: ChangeLog,
}

impl Cluster {
    /// Applies a change to the inputs and to what is derived from them. The endpoints whose rules may change are added
    /// to `concerned`. Returns the change that undoes it.
    pub fn apply(&mut self, change: Change, concerned: &mut BTreeSet<AttachmentKey>) -> Option<Change> {
        supervisor::beat();
        self.log.push(|| Told::Change(change.clone()));
        let id = change.id();
        if id.kind.is_policy() {
            self.unselect(&id, concerned);
        }
        let put = match change {
            Change::Put(object) => Some(object),
            Change::Remove(_) => None,
        };
        let is_new = put.is_some();
        let old = match put {
            Some(object) => self.inputs.put(object),
            None => self.inputs.remove(&id),
        };
        let undo = match old {
            Some(old) => Some(Change::Put(old)),
            None => is_new.then(|| Change::Remove(id.clone())),
        };
        for slice in self.inputs.service_endpoints.take_turned() {
            self.refresh_item(&slice, concerned);
        }
        match id.kind {
            Kind::Pod | Kind::Node | Kind::HostEndpoint | Kind::EndpointSlice => {
                self.refresh_item(&id, concerned);
            }
            Kind::NetworkSet | Kind::GlobalNetworkSet => {
                self.refresh_item(&id, concerned);
                let before = match &undo {
                    Some(Change::Put(Object::NetworkSet(set))) if !set.domains.is_empty() => {
                        Some((&set.labels, &*set.domains))
                    }
                    _ => None,
                };
                if before != self.inputs.names_of(&id) {
                    self.concern_names_of_sets(concerned);
                }
            }
            Kind::Namespace => self.refresh_namespace(&id.name, concerned),
            Kind::ServiceAccount => {
                if let Some(namespace) = &id.namespace {
                    self.refresh_namespace(&Arc::clone(namespace), concerned);
                }
            }
            Kind::Tier => self.refresh_tier(&id.name, concerned),
            _ => self.select(&id, concerned),
        }
        undo
    }

    /// Updates what is derived from an item.
    fn refresh_item(&mut self, id: &ObjectId, concerned: &mut BTreeSet<AttachmentKey>) {
        let new_number = self.classes.put(&self.inputs, id, self.inputs.item(id));
        if new_number {
            // Rules that name the port depend on its numbers.
            concerned.extend(self.endpoints.keys().cloned());
        }
        let keys = self.inputs.locals_of(id).map(|endpoint| endpoint.key.clone()).collect::<Vec<_>>();
        for key in keys {
            self.reselect(&key);
            concerned.insert(key);
        }
    }

    /// Adds the endpoints that policies allow to send to what has a DNS name of network sets.
    fn concern_names_of_sets(&self, concerned: &mut BTreeSet<AttachmentKey>) {
        let allows = |policy: &Policy| {
            let rules = policy.rules(Direction::Egress).unwrap_or_default().iter();
            rules.filter(|rule| rule.action == Action::Allow).any(|rule| {
                let mut items = rule.destinations.iter().filter_map(|it| it.items.as_ref());
                items.any(ItemSelector::may_select_sets)
            })
        };
        let mut asked: HashMap<*const Policy, bool> = HashMap::new();
        for (key, endpoint) in &self.endpoints {
            let mut policies = endpoint.selecting.values();
            if policies.any(|it| *asked.entry(Arc::as_ptr(it)).or_insert_with(|| allows(it))) {
                concerned.insert(key.clone());
            }
        }
    }

    fn refresh_namespace(&mut self, namespace: &str, concerned: &mut BTreeSet<AttachmentKey>) {
        self.classes.refresh_namespace(&self.inputs, namespace);
        if self.inputs.has_names_in(namespace) {
            self.concern_names_of_sets(concerned);
        }
        let inside = |endpoint: &Endpoint| endpoint.item.namespace.as_deref() == Some(namespace);
        let keys = self.endpoints.iter().filter(|(_, endpoint)| inside(endpoint));
        for key in keys.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.reselect(&key);
            concerned.insert(key);
        }
    }

    fn refresh_tier(&mut self, tier: &str, concerned: &mut BTreeSet<AttachmentKey>) {
        let of_tier = self.inputs.policies.values().filter(|policy| *policy.tier == *tier);
        for id in of_tier.map(|policy| policy.id.clone()).collect::<Vec<_>>() {
            self.unselect(&id, concerned);
            self.select(&id, concerned);
        }
    }

    fn unselect(&mut self, id: &ObjectId, concerned: &mut BTreeSet<AttachmentKey>) {
        let Some(rank) = self.ranks.remove(id) else { return };
        for (key, endpoint) in &mut self.endpoints {
            if endpoint.selecting.remove(&rank).is_some() {
                concerned.insert(key.clone());
            }
        }
    }

    fn select(&mut self, id: &ObjectId, concerned: &mut BTreeSet<AttachmentKey>) {
        let Some(policy) = self.inputs.policies.get(id).cloned() else { return };
        let Some(rank) = self.inputs.rank(&policy) else { return };
        self.ranks.insert(id.clone(), rank.clone());
        for (key, endpoint) in &mut self.endpoints {
            if !policy.is_asked_about(endpoint.layer()) {
                continue;
            }
            let is_selected = match &endpoint.facts {
                Some(facts) => self.inputs.selects(&policy.subject, facts),
                None => selects(&self.inputs, &policy, &endpoint.item),
            };
            if is_selected {
                endpoint.selecting.insert(rank.clone(), Arc::clone(&policy));
                concerned.insert(key.clone());
            }
        }
    }

    /// Derives everything from the inputs again, with new classes, and returns the endpoints.
    pub fn derive(&mut self) -> BTreeSet<AttachmentKey> {
        // All items are put in.
        self.inputs.service_endpoints.take_turned();
        self.classes = Classes::default();
        self.classes.fill(&self.inputs, self.inputs.item_ids());
        self.reselect_all();
        self.endpoints.keys().cloned().collect()
    }

    /// Finds the policies that select each endpoint.
    pub fn reselect_all(&mut self) {
        self.ranks = self.inputs.ranks();
        for key in self.endpoints.keys().cloned().collect::<Vec<_>>() {
            self.reselect(&key);
        }
    }

    /// Finds the policies that select an endpoint.
    fn reselect(&mut self, key: &AttachmentKey) {
        supervisor::beat();
        let Some(endpoint) = self.endpoints.get_mut(key) else { return };
        let (inputs, layer) = (&self.inputs, endpoint.layer());
        let Some(item) = inputs.item(&endpoint.item) else { return };
        let selecting = self.ranks.iter().filter_map(|(id, rank)| {
            let policy = inputs.policies.get(id).filter(|policy| policy.is_asked_about(layer))?;
            inputs.selects(&policy.subject, &item.facts).then(|| (rank.clone(), Arc::clone(policy)))
        });
        endpoint.selecting = selecting.collect();
        endpoint.facts = Some(item.facts);
    }

    /// Adds an endpoint to the inputs. Nothing is derived from it yet.
    pub fn put_endpoint(&mut self, endpoint: LocalEndpoint, slot: Arc<EndpointSlot>) {
        self.log.push(|| Told::Endpoint(endpoint.clone()));
        let (key, item, addresses) = (endpoint.key.clone(), endpoint.item(), endpoint.addresses.clone());
        let host = endpoint.host.clone();
        self.inputs.put_local(endpoint);
        let placed = Endpoint { slot, item, facts: None, addresses, host, selecting: Selecting::new() };
        self.endpoints.insert(key, placed);
    }

    /// Adds or updates an endpoint, and what is derived from it.
    pub fn enter_endpoint(
        &mut self,
        endpoint: LocalEndpoint,
        slot: Arc<EndpointSlot>,
        concerned: &mut BTreeSet<AttachmentKey>,
    ) {
        let item = endpoint.item();
        let before = self.endpoints.get(&endpoint.key).map(|known| known.item.clone());
        self.put_endpoint(endpoint, slot);
        if let Some(before) = before.filter(|before| *before != item) {
            self.refresh_item(&before, concerned);
        }
        self.refresh_item(&item, concerned);
    }

    /// Removes an endpoint, and what is derived from it.
    pub fn remove_endpoint(
        &mut self,
        key: &AttachmentKey,
        concerned: &mut BTreeSet<AttachmentKey>,
    ) -> Option<Endpoint> {
        let endpoint = self.endpoints.remove(key)?;
        self.log.push(|| Told::NoEndpoint(key.clone()));
        self.inputs.remove_local(key);
        self.refresh_item(&endpoint.item, concerned);
        concerned.remove(key);
        Some(endpoint)
    }

    /// The endpoint's own side, for which its rules are resolved.
    pub fn own(&self, endpoint: &Endpoint) -> Own {
        Own {
            addresses: endpoint.addresses.clone(),
            ports: self.classes.ports_of(&endpoint.item),
            denied: self.denied_at(endpoint),
            host: endpoint.host.clone(),
        }
    }

    /// What becomes of packets that are denied at an endpoint by a policy which does not say it.
    pub fn denied_at(&self, endpoint: &Endpoint) -> Denied {
        let namespace = endpoint.item.namespace.as_deref();
        namespace.and_then(|name| self.inputs.denied_in(name)).unwrap_or(self.denied)
    }

    /// The endpoint that has an address: of a host endpoint, what is asked about the node itself.
    pub fn endpoint_at(&self, address: IpAddr) -> Option<&AttachmentKey> {
        let concerns = |endpoint: &Endpoint| matches!(endpoint.layer(), None | Some(HostLayer::Local));
        let found = self
            .endpoints
            .iter()
            .find(|(_, endpoint)| concerns(endpoint) && endpoint.addresses.contains(&address));
        found.map(|(key, _)| key)
    }

    /// The endpoint that is asked about a flow in a direction: the one that has `own`. Of the node itself, pods of this node are asked about
    /// by the host endpoint of all interfaces only, and the node always reaches them.
    pub fn asked_about(&self, direction: Direction, own: IpAddr, peer: IpAddr) -> Option<&AttachmentKey> {
        let found = self.endpoint_at(own)?;
        let is_host =
            |key| self.endpoints.get(key).is_some_and(|endpoint: &Endpoint| endpoint.host.is_some());
        if !is_host(found) || self.endpoint_at(peer).is_none_or(is_host) {
            return Some(found);
        }
        let is_all = |endpoint: &Endpoint| {
            endpoint.host.as_ref().is_some_and(|host| host.is_all && host.layer == HostLayer::Local)
        };
        let all = || self.endpoints.iter().find(|(_, endpoint)| is_all(endpoint)).map(|(key, _)| key);
        (direction == Direction::Ingress).then(all).flatten()
    }

    /// Policies that are not enforced because their tier is not known.
    pub fn unenforced(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.inputs.policies.values().filter(|policy| !self.ranks.contains_key(&policy.id))
    }

    /// Whether something of that kind and name is in force.
    pub fn is_in_force(&self, id: &ObjectId) -> bool {
        if id.kind.is_policy() { self.ranks.contains_key(id) } else { self.inputs.has(id) }
    }
}

/// Whether a policy selects a pod.
fn selects(inputs: &PolicyInputs, policy: &Policy, item: &ObjectId) -> bool {
    inputs.item(item).is_some_and(|item| inputs.selects(&policy.subject, &item.facts))
}
