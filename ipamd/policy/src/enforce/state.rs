//! The state of enforcement: the cluster's inputs, what is derived from them, and what is in the tables.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
    time::Instant,
};

use ipamd_api::AttachmentKey;
use ipnetwork::IpNetwork;

use super::{
    compiled::Compiled,
    slots::{EndpointSlot, SlotAllocator},
    tables::{Posture, Tables},
    trial_budget::TrialBudget,
    written_peers::Peers,
};
use crate::compile::{
    classes::Classes,
    names::RuleNames,
    policy_inputs::{LocalEndpoint, PolicyInputs},
    resolve::{Own, Rank, Selecting},
    rules::SharedRules,
};
use ipamd_model::endpoint::Slot;
use ipamd_model::{
    objects::{Change, Kind, ObjectId, Refusal},
    policy::Policy,
};
use ipamd_runtime::supervisor;

/// An endpoint of this node.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub place: Arc<EndpointSlot>,
    pub item: ObjectId,
    pub addresses: Vec<IpAddr>,
    pub selecting: Selecting,
    /// Its rules as they are in force.
    pub rules: Option<SharedRules>,
    /// Its posture as the tables have it.
    pub posture: Option<Posture>,
}

/// A change that does not fit: a new object, or that one goes, for what it hid may need more room than it does.
#[derive(Debug)]
pub(super) struct Unfit {
    pub change: Change,
    pub reason: String,
    /// Whether it was tried; else it waits for that.
    pub tried: bool,
}

/// An endpoint whose policy did not get into the tables after its ADD had to go on.
#[derive(Debug)]
pub(super) struct Closed {
    pub endpoint: LocalEndpoint,
    pub place: Arc<EndpointSlot>,
    pub reason: String,
}

/// What was made of the cluster and is in a set of the tables. A new set has one of its own.
#[derive(Debug, Default)]
pub(super) struct Derived {
    pub classes: Classes,
    /// What the tables have of peers.
    pub peers: Peers,
    /// The policy maps in force, by what they were made of.
    pub maps: HashMap<SharedRules, Compiled>,
    /// Addresses and prefixes whose class may be another than the tables have.
    pub touched: BTreeSet<IpNetwork>,
}

/// Everything behind the lock.
#[derive(Debug)]
pub(super) struct State {
    pub tables: Box<dyn Tables>,
    pub inputs: PolicyInputs,
    pub derived: Derived,
    pub names: RuleNames,
    pub endpoints: BTreeMap<AttachmentKey, Endpoint>,
    /// The place of each policy that is enforced.
    pub ranks: BTreeMap<ObjectId, Rank>,
    pub node_addresses: BTreeSet<IpAddr>,
    pub refusals: Vec<Refusal>,
    pub unfit: BTreeMap<ObjectId, Unfit>,
    /// Something went that may make room for what did not fit.
    pub room_made: bool,
    /// What trying those has cost.
    pub trials: TrialBudget,
    /// Endpoints that are served although their policy is in no table: nothing of theirs passes.
    pub closed: BTreeMap<AttachmentKey, Closed>,
    /// Also given out by who does not have the state.
    pub places: Arc<SlotAllocator>,
    pub started: bool,
    /// Why the tables are not as they should be.
    pub failure: Option<String>,
    /// How many classes and predicates there were when it was looked last what of them is in use, and when that was.
    pub looked_at: Option<(usize, usize, Instant)>,
}

impl State {
    pub fn new(tables: Box<dyn Tables>) -> Self {
        Self {
            tables,
            inputs: PolicyInputs::default(),
            derived: Derived::default(),
            names: RuleNames::default(),
            endpoints: BTreeMap::new(),
            ranks: BTreeMap::new(),
            node_addresses: BTreeSet::new(),
            refusals: Vec::new(),
            unfit: BTreeMap::new(),
            room_made: false,
            trials: TrialBudget::default(),
            closed: BTreeMap::new(),
            places: Arc::default(),
            started: false,
            failure: None,
            looked_at: None,
        }
    }

    /// Takes a change into the world and what is derived from it; returns what takes it back. The endpoints whose rules
    /// may be others are added to `concerned`. The tables are not touched.
    pub fn absorb(&mut self, change: Change, concerned: &mut BTreeSet<AttachmentKey>) -> Option<Change> {
        supervisor::beat();
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
        match id.kind {
            Kind::Pod | Kind::Node | Kind::NetworkSet | Kind::GlobalNetworkSet => {
                self.renew_item(&id, concerned);
            }
            Kind::Namespace => self.renew_namespace(&id.name, concerned),
            Kind::ServiceAccount => {
                if let Some(namespace) = &id.namespace {
                    self.renew_namespace(&Arc::clone(namespace), concerned);
                }
            }
            Kind::Tier => self.renew_tier(&id.name, concerned),
            _ => self.select(&id, concerned),
        }
        undo
    }

    /// Takes an item's present state in.
    pub fn renew_item(&mut self, id: &ObjectId, concerned: &mut BTreeSet<AttachmentKey>) {
        let new_number = self.derived.classes.put(&self.inputs, id, self.inputs.item(id));
        if new_number {
            // Rules that name the port have to learn of the number.
            concerned.extend(self.endpoints.keys().cloned());
        }
        let keys = self.inputs.locals_of(id).map(|endpoint| endpoint.key.clone()).collect::<Vec<_>>();
        for key in keys {
            self.reselect(&key);
            concerned.insert(key);
        }
    }

    fn renew_namespace(&mut self, namespace: &str, concerned: &mut BTreeSet<AttachmentKey>) {
        self.derived.classes.refresh_namespace(&self.inputs, namespace);
        let inside = |endpoint: &Endpoint| endpoint.item.namespace.as_deref() == Some(namespace);
        let keys = self.endpoints.iter().filter(|(_, endpoint)| inside(endpoint));
        for key in keys.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.reselect(&key);
            concerned.insert(key);
        }
    }

    fn renew_tier(&mut self, tier: &str, concerned: &mut BTreeSet<AttachmentKey>) {
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
            if selects(&self.inputs, &policy, &endpoint.item) {
                endpoint.selecting.insert(rank.clone(), Arc::clone(&policy));
                concerned.insert(key.clone());
            }
        }
    }

    /// Derives everything anew from the world; returns the endpoints. The tables are not touched.
    pub fn derive(&mut self) -> BTreeSet<AttachmentKey> {
        self.derived = Derived::default();
        self.derived.classes.fill(&self.inputs, self.inputs.item_ids());
        self.ranks = self.inputs.ranks();
        let keys = self.endpoints.keys().cloned().collect::<BTreeSet<_>>();
        for key in &keys {
            self.reselect(key);
        }
        keys
    }

    /// Asks all policies whether they select an endpoint.
    pub fn reselect(&mut self, key: &AttachmentKey) {
        supervisor::beat();
        let Some(endpoint) = self.endpoints.get_mut(key) else { return };
        let inputs = &self.inputs;
        let Some(item) = inputs.item(&endpoint.item) else { return };
        let selecting = self.ranks.iter().filter_map(|(id, rank)| {
            let policy = inputs.policies.get(id)?;
            inputs.selects(&policy.subject, &item.facts).then(|| (rank.clone(), Arc::clone(policy)))
        });
        endpoint.selecting = selecting.collect();
    }

    /// Takes an endpoint into the world, and nothing else.
    pub fn place(&mut self, endpoint: LocalEndpoint, place: Arc<EndpointSlot>) {
        let (key, item, addresses) = (endpoint.key.clone(), endpoint.item(), endpoint.addresses.clone());
        self.inputs.put_local(endpoint);
        let known = self.endpoints.remove(&key).filter(|known| known.place.slot() == place.slot());
        let (posture, rules) = known.map_or((None, None), |known| (known.posture, known.rules));
        let placed = Endpoint { place, item, addresses, selecting: Selecting::new(), rules, posture };
        self.endpoints.insert(key, placed);
    }

    /// Takes an endpoint in, at this place, or else the one it has, or any. `None`: there is no place left.
    pub fn enter(
        &mut self,
        endpoint: LocalEndpoint,
        place: Option<Arc<EndpointSlot>>,
        concerned: &mut BTreeSet<AttachmentKey>,
    ) -> Option<Slot> {
        let item = endpoint.item();
        let known = self.endpoints.get(&endpoint.key);
        let before = known.map(|known| known.item.clone());
        let place = place
            .or_else(|| known.map(|known| Arc::clone(&known.place)))
            .or_else(|| self.places.claim(None, self.tables.limits().slots))?;
        let slot = place.slot();
        self.place(endpoint, place);
        if let Some(before) = before.filter(|before| *before != item) {
            self.renew_item(&before, concerned);
        }
        self.renew_item(&item, concerned);
        Some(slot)
    }

    /// Forgets an endpoint.
    pub fn leave(
        &mut self,
        key: &AttachmentKey,
        concerned: &mut BTreeSet<AttachmentKey>,
    ) -> Option<Endpoint> {
        let endpoint = self.endpoints.remove(key)?;
        self.inputs.remove_local(key);
        self.renew_item(&endpoint.item, concerned);
        concerned.remove(key);
        Some(endpoint)
    }

    /// What rules of an endpoint are resolved for.
    pub fn own(&self, endpoint: &Endpoint) -> Own {
        Own { addresses: endpoint.addresses.clone(), ports: self.derived.classes.ports_of(&endpoint.item) }
    }

    /// Policies that are not enforced because their tier is not known.
    pub fn unenforced(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.inputs.policies.values().filter(|policy| !self.ranks.contains_key(&policy.id))
    }
}

/// Whether a policy selects a pod.
pub(super) fn selects(inputs: &PolicyInputs, policy: &Policy, item: &ObjectId) -> bool {
    inputs.item(item).is_some_and(|item| inputs.selects(&policy.subject, &item.facts))
}
