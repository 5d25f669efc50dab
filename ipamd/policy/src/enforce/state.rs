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
    policy_inputs::{Facts, LocalEndpoint, PolicyInputs},
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
    pub slot: Arc<EndpointSlot>,
    pub item: ObjectId,
    /// What selectors can tell of that item, as it was when all policies were asked last. To find it out anew for each of a thousand
    /// policies that come takes longer than all the rest.
    facts: Option<Facts>,
    pub addresses: Vec<IpAddr>,
    pub selecting: Selecting,
    /// Its rules as they are in force.
    pub rules: Option<SharedRules>,
    /// Its posture as the tables have it.
    pub posture: Option<Posture>,
}

/// A change that does not fit: a new object, or a removal. Without the removed object, the others may need more space.
#[derive(Debug)]
pub(super) struct Unfit {
    pub change: Change,
    pub reason: String,
    /// Whether it was tried. If not, its namespace had no budget left.
    pub tried: bool,
}

/// An endpoint whose policy did not get into the tables after its ADD had to go on.
#[derive(Debug)]
pub(super) struct Closed {
    pub endpoint: LocalEndpoint,
    pub slot: Arc<EndpointSlot>,
    pub reason: String,
}

/// What is derived from the inputs and written into a set of the tables. A rebuild derives it again.
#[derive(Debug, Default)]
pub(super) struct Derived {
    pub classes: Classes,
    /// The peers that are in the tables.
    pub peers: Peers,
    /// The policy maps in force, by their rules.
    pub maps: HashMap<SharedRules, Compiled>,
    /// Addresses and prefixes whose class may differ from the class in the tables.
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
    /// The rank of each policy that is enforced.
    pub ranks: BTreeMap<ObjectId, Rank>,
    pub node_addresses: BTreeSet<IpAddr>,
    pub refusals: Vec<Refusal>,
    pub unfit: BTreeMap<ObjectId, Unfit>,
    /// Something was removed, so that what did not fit may fit now.
    pub space_freed: bool,
    /// The time that tries of unfit objects have cost.
    pub trial_budget: TrialBudget,
    /// Endpoints whose policy is not in the tables: all their packets are dropped.
    pub closed: BTreeMap<AttachmentKey, Closed>,
    /// Slots are also assigned without the lock.
    pub slots: Arc<SlotAllocator>,
    pub started: bool,
    /// The error of the last write, if it failed: the tables must be rebuilt.
    pub failure: Option<String>,
    /// The numbers of classes and predicates when their use was last counted, and the time of that.
    pub checked_at: Option<(usize, usize, Instant)>,
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
            space_freed: false,
            trial_budget: TrialBudget::default(),
            closed: BTreeMap::new(),
            slots: Arc::default(),
            started: false,
            failure: None,
            checked_at: None,
        }
    }

    /// Applies a change to the inputs and to what is derived from them. The endpoints whose rules may change are added
    /// to `concerned`. Returns the change that undoes it. The tables are not touched.
    pub fn apply_to_inputs(
        &mut self,
        change: Change,
        concerned: &mut BTreeSet<AttachmentKey>,
    ) -> Option<Change> {
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
                self.refresh_item(&id, concerned);
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
    pub fn refresh_item(&mut self, id: &ObjectId, concerned: &mut BTreeSet<AttachmentKey>) {
        let new_number = self.derived.classes.put(&self.inputs, id, self.inputs.item(id));
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

    fn refresh_namespace(&mut self, namespace: &str, concerned: &mut BTreeSet<AttachmentKey>) {
        self.derived.classes.refresh_namespace(&self.inputs, namespace);
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

    /// Derives everything from the inputs again, and returns the endpoints. The tables are not touched.
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

    /// Finds the policies that select an endpoint.
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
        endpoint.facts = Some(item.facts);
    }

    /// Adds an endpoint to the inputs, and nothing else.
    pub fn put_endpoint(&mut self, endpoint: LocalEndpoint, slot: Arc<EndpointSlot>) {
        let (key, item, addresses) = (endpoint.key.clone(), endpoint.item(), endpoint.addresses.clone());
        self.inputs.put_local(endpoint);
        let known = self.endpoints.remove(&key).filter(|known| known.slot.number() == slot.number());
        let (posture, rules) = known.map_or((None, None), |known| (known.posture, known.rules));
        let placed =
            Endpoint { slot, item, facts: None, addresses, selecting: Selecting::new(), rules, posture };
        self.endpoints.insert(key, placed);
    }

    /// Adds or updates an endpoint, with this slot, or else with the slot it has, or else with any. Returns `None` if
    /// there is no free slot.
    pub fn enter_endpoint(
        &mut self,
        endpoint: LocalEndpoint,
        slot: Option<Arc<EndpointSlot>>,
        concerned: &mut BTreeSet<AttachmentKey>,
    ) -> Option<Slot> {
        let item = endpoint.item();
        let known = self.endpoints.get(&endpoint.key);
        let before = known.map(|known| known.item.clone());
        let slot = slot
            .or_else(|| known.map(|known| Arc::clone(&known.slot)))
            .or_else(|| self.slots.claim(None, self.tables.limits().slots))?;
        let number = slot.number();
        self.put_endpoint(endpoint, slot);
        if let Some(before) = before.filter(|before| *before != item) {
            self.refresh_item(&before, concerned);
        }
        self.refresh_item(&item, concerned);
        Some(number)
    }

    /// Removes an endpoint from the inputs.
    pub fn remove_endpoint(
        &mut self,
        key: &AttachmentKey,
        concerned: &mut BTreeSet<AttachmentKey>,
    ) -> Option<Endpoint> {
        let endpoint = self.endpoints.remove(key)?;
        self.inputs.remove_local(key);
        self.refresh_item(&endpoint.item, concerned);
        concerned.remove(key);
        Some(endpoint)
    }

    /// The endpoint's own side, for which its rules are resolved.
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
