//! Which predicates hold for which items. They are evaluated once for all items with the same facts.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use ipnetwork::IpNetwork;

use super::{item::Facts, policy_inputs::PolicyInputs, rules::AtomId};
use ipamd_model::{
    objects::ObjectId,
    policy::{Dialect, ItemKinds, ItemSelector, Scope},
};
use ipamd_runtime::work;

/// A predicate about addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Atom {
    /// The address belongs to an item that this selects.
    Items(ItemSelector),
    /// The address lies in this prefix.
    Net(IpNetwork),
    /// The address belongs to a pod that has a port of this name and number.
    Port {
        /// The name.
        name: Arc<str>,
        /// IP protocol number.
        protocol: u8,
        /// The number.
        port: u16,
    },
}

/// The items that have equal facts.
#[derive(Debug)]
struct Group {
    facts: Facts,
    /// The predicates that hold for its items, ordered.
    atoms: Vec<AtomId>,
    items: BTreeSet<Arc<ObjectId>>,
}

/// A group's place in the list. Each item has one.
pub type GroupId = u32;

/// The predicates in use, and the items that they hold for.
#[derive(Debug, Default)]
pub struct AtomIndex {
    known: HashMap<Atom, AtomId>,
    list: Vec<Atom>,
    groups: Vec<Group>,
    by_facts: HashMap<Facts, GroupId>,
    /// The groups that have items, by their namespace.
    by_namespace: HashMap<Option<Arc<str>>, BTreeSet<GroupId>>,
    free: Vec<GroupId>,
    /// Port names that rules use, by protocol.
    names: HashSet<(Arc<str>, u8)>,
    /// The selectors that ask for a label, by that label.
    by_label: HashMap<(Box<str>, Box<str>), Vec<AtomId>>,
    /// The other selectors.
    by_nothing: Vec<AtomId>,
    /// The numbers that a name stands for.
    numbers: BTreeMap<(Arc<str>, u8), BTreeSet<u16>>,
}

impl AtomIndex {
    /// The number of a prefix, and whether it is new.
    pub fn net(&mut self, net: IpNetwork) -> (AtomId, bool) {
        self.intern(Atom::Net(net))
    }

    /// The number of a selector. If the selector is new, also the items that it selects.
    pub fn items(&mut self, inputs: &PolicyInputs, selector: &ItemSelector) -> (AtomId, Vec<Arc<ObjectId>>) {
        let (id, new) = self.intern(Atom::Items(selector.clone()));
        let mut selected = Vec::new();
        if new {
            match needs(selector) {
                Some((key, value)) => {
                    self.by_label.entry((key.into(), value.into())).or_default().push(id);
                }
                None => self.by_nothing.push(id),
            }
            for at in self.within(inputs, selector) {
                work::step(1);
                let Some(group) = self.groups.get_mut(at as usize) else { continue };
                if !group.items.is_empty() && inputs.selects(selector, &group.facts) {
                    group.atoms.push(id);
                    selected.extend(group.items.iter().cloned());
                }
            }
        }
        (id, selected)
    }

    /// The groups in the namespaces that a selector means.
    fn within(&self, inputs: &PolicyInputs, selector: &ItemSelector) -> Vec<GroupId> {
        if selector.kinds == ItemKinds::Nodes {
            return self.by_namespace.get(&None).into_iter().flatten().copied().collect();
        }
        if let Scope::Namespace(name) = &selector.scope {
            return self.by_namespace.get(&Some(Arc::clone(name))).into_iter().flatten().copied().collect();
        }
        let meant = self.by_namespace.iter().filter(|(name, _)| inputs.means(selector, name.as_ref()));
        let mut meant: Vec<_> = meant.flat_map(|(_, groups)| groups).copied().collect();
        meant.sort_unstable();
        meant
    }

    /// Makes predicates of the ports that have this name. If the name is new, returns the items that have such a port.
    pub fn port_name(&mut self, name: &Arc<str>, protocol: u8) -> Vec<Arc<ObjectId>> {
        let mut having = Vec::new();
        if self.names.insert((Arc::clone(name), protocol)) {
            for at in 0..self.groups.len() {
                let Some(group) = self.groups.get(at) else { continue };
                let ports = group.facts.ports.iter();
                let ports = ports.filter(|port| port.protocol == protocol && port.name == *name);
                let ports = ports.map(|port| port.port).collect::<Vec<_>>();
                for port in ports {
                    let atom = self.port(name, protocol, port);
                    if let Some(group) = self.groups.get_mut(at) {
                        group.atoms.push(atom);
                        group.atoms.sort_unstable();
                        group.atoms.dedup();
                        having.extend(group.items.iter().cloned());
                    }
                }
            }
        }
        having
    }

    /// The port numbers that a name stands for now, each with its predicate.
    pub fn ports(&mut self, name: &Arc<str>, protocol: u8) -> Vec<(AtomId, u16)> {
        let numbers = self.numbers.get(&(Arc::clone(name), protocol)).cloned().unwrap_or_default();
        numbers.into_iter().map(|port| (self.port(name, protocol, port), port)).collect()
    }

    fn port(&mut self, name: &Arc<str>, protocol: u8, port: u16) -> AtomId {
        self.numbers.entry((Arc::clone(name), protocol)).or_default().insert(port);
        self.intern(Atom::Port { name: Arc::clone(name), protocol, port }).0
    }

    fn intern(&mut self, atom: Atom) -> (AtomId, bool) {
        if let Some(id) = self.known.get(&atom) {
            return (*id, false);
        }
        let id = AtomId::try_from(self.list.len()).unwrap_or(AtomId::MAX);
        self.list.push(atom.clone());
        self.known.insert(atom, id);
        (id, true)
    }

    /// How many predicates there are.
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// The predicates that hold for the items of a group.
    pub fn of(&self, group: GroupId) -> &[AtomId] {
        self.groups.get(group as usize).map_or(&[], |group| &group.atoms)
    }

    /// What the items of a group have in common.
    pub fn facts(&self, group: GroupId) -> Option<&Facts> {
        self.groups.get(group as usize).map(|group| &group.facts)
    }

    /// Puts an item into the group of its facts. Returns the group, and whether a port name that rules use has got a new number. Then
    /// the rules that use names must be resolved again.
    pub fn enter(&mut self, inputs: &PolicyInputs, id: &Arc<ObjectId>, facts: &Facts) -> (GroupId, bool) {
        let before = self.numbers.values().map(BTreeSet::len).sum::<usize>();
        let at = self.by_facts.get(facts).copied().unwrap_or_else(|| self.add_group(inputs, facts));
        if let Some(group) = self.groups.get_mut(at as usize) {
            group.items.insert(Arc::clone(id));
        }
        (at, before != self.numbers.values().map(BTreeSet::len).sum::<usize>())
    }

    fn add_group(&mut self, inputs: &PolicyInputs, facts: &Facts) -> GroupId {
        let atoms = self.evaluate(inputs, facts);
        let group = Group { facts: facts.clone(), atoms, items: BTreeSet::new() };
        // Every group has an item, and there are fewer items than numbers.
        let at = self.free.pop().unwrap_or(GroupId::try_from(self.groups.len()).unwrap_or(GroupId::MAX));
        match self.groups.get_mut(at as usize) {
            Some(place) => *place = group,
            None => self.groups.push(group),
        }
        self.by_facts.insert(facts.clone(), at);
        self.by_namespace.entry(facts.namespace.clone()).or_default().insert(at);
        at
    }

    /// Takes an item out of its group.
    pub fn leave(&mut self, id: &ObjectId, at: GroupId) {
        let Some(group) = self.groups.get_mut(at as usize) else { return };
        group.items.remove(id);
        if group.items.is_empty() {
            self.by_facts.remove(&group.facts);
            if let Some(groups) = self.by_namespace.get_mut(&group.facts.namespace) {
                groups.remove(&at);
                if groups.is_empty() {
                    self.by_namespace.remove(&group.facts.namespace);
                }
            }
            self.free.push(at);
        }
    }

    /// Evaluates the groups of a namespace again, after the namespace or its service accounts have changed. Returns the items for
    /// which other predicates hold now.
    pub fn refresh(&mut self, inputs: &PolicyInputs, namespace: &str) -> Vec<Arc<ObjectId>> {
        let mut changed = Vec::new();
        let groups = self.by_namespace.get(&Some(Arc::from(namespace))).cloned().unwrap_or_default();
        for at in groups {
            work::step(1);
            let Some(group) = self.groups.get(at as usize) else { continue };
            if group.items.is_empty() {
                continue;
            }
            let facts = group.facts.clone();
            let atoms = self.evaluate(inputs, &facts);
            if let Some(group) = self.groups.get_mut(at as usize)
                && group.atoms != atoms
            {
                group.atoms = atoms;
                changed.extend(group.items.iter().cloned());
            }
        }
        changed
    }

    fn evaluate(&mut self, inputs: &PolicyInputs, facts: &Facts) -> Vec<AtomId> {
        let labelled = facts.labels.iter().filter_map(|(key, value)| {
            // A map by pairs of boxes cannot be asked by a pair of references.
            self.by_label.get(&(Box::from(key), Box::from(value)))
        });
        let candidates = labelled.flatten().chain(&self.by_nothing);
        let selects = |atom: &&AtomId| match self.list.get(**atom as usize) {
            Some(Atom::Items(selector)) => inputs.selects(selector, facts),
            _ => false,
        };
        let mut atoms = candidates.inspect(|_| work::step(1)).filter(selects).copied().collect::<Vec<_>>();
        for port in facts.ports.iter() {
            if self.names.contains(&(Arc::clone(&port.name), port.protocol)) {
                atoms.push(self.port(&port.name, port.protocol, port.port));
            }
        }
        atoms.sort_unstable();
        atoms.dedup();
        atoms
    }
}

/// The beginning of labels that Calico derives from what a pod or a network set is. Nobody writes them.
const DERIVED: &str = "projectcalico.org/";
/// The beginnings of labels that Calico's selectors know by the namespace and the service account.
const INHERITED: [&str; 2] = ["pcns.", "pcsa."];

/// A label that an item must have of its own to be selected.
fn needs(selector: &ItemSelector) -> Option<(&str, &str)> {
    let (key, value) = selector.labels.needs()?;
    let inherited = selector.dialect == Dialect::Calico && INHERITED.iter().any(|it| key.starts_with(it));
    let own = selector.kinds == ItemKinds::Nodes || !key.starts_with(DERIVED) && !inherited;
    own.then_some((key, value))
}
