//! The class of an address is the set of predicates that hold for it. They come from the items that it belongs to, and from every prefix
//! that covers it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    iter, mem,
    net::IpAddr,
    sync::Arc,
};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use super::{
    atoms::{AtomIndex, GroupId},
    item::Item,
    net_map::NetMap,
    nets::{Nets, is_host},
    policy_inputs::PolicyInputs,
    rules::AtomId,
};
use crate::tables::ClassId;
use ipamd_model::{
    objects::{Kind, NamedPort, ObjectId},
    policy::ItemSelector,
};
use ipamd_runtime::supervisor;

/// What is known of exactly one address or prefix. That is nearly always one item. There is one of these for each address of the
/// cluster, so that case takes little memory.
#[derive(Debug, Default)]
enum Own {
    #[default]
    Nothing,
    /// An item, with its group: to look it up for each address whose class changes takes as long as to write the class down.
    One(Arc<ObjectId>, GroupId),
    More(Box<More>),
}

/// What is known where that is not just one item.
#[derive(Debug, Default)]
struct More {
    /// The predicate of the addresses that lie in the prefix.
    net: Option<AtomId>,
    /// The items that it belongs to, ordered, with their groups.
    items: Vec<(Arc<ObjectId>, GroupId)>,
}

impl Own {
    fn net(&self) -> Option<AtomId> {
        if let Self::More(more) = self { more.net } else { None }
    }

    /// The items that it belongs to, with their groups.
    fn members(&self) -> impl Iterator<Item = (&Arc<ObjectId>, GroupId)> + Clone {
        let (one, more) = match self {
            Self::Nothing => (None, &[][..]),
            Self::One(id, group) => (Some((id, *group)), &[][..]),
            Self::More(more) => (None, &*more.items),
        };
        one.into_iter().chain(more.iter().map(|(id, group)| (id, *group)))
    }

    fn items(&self) -> impl Iterator<Item = &ObjectId> + Clone {
        self.members().map(|(id, _)| &**id)
    }

    /// Whether several pods have it.
    fn is_contested(&self) -> bool {
        self.items().filter(|id| id.kind == Kind::Pod).nth(1).is_some()
    }

    fn is_nothing(&self) -> bool {
        self.net().is_none() && self.members().next().is_none()
    }

    /// Changes what is known.
    fn change(&mut self, change: impl FnOnce(&mut More)) {
        let mut more = match mem::take(self) {
            Self::More(more) => more,
            held => {
                let items = held.members().map(|(id, group)| (Arc::clone(id), group)).collect();
                Box::new(More { net: None, items })
            }
        };
        change(&mut more);
        *self = match (more.net, more.items.as_slice()) {
            (None, []) => Self::Nothing,
            (None, [(id, group)]) => Self::One(Arc::clone(id), *group),
            _ => Self::More(more),
        };
    }

    fn set_net(&mut self, net: AtomId) {
        self.change(|more| more.net = Some(net));
    }

    fn insert(&mut self, id: &Arc<ObjectId>, group: GroupId) {
        if self.members().any(|held| held == (id, group)) {
            return;
        }
        self.change(|more| {
            // It may have been in another group.
            more.items.retain(|(held, _)| held != id);
            more.items.push((Arc::clone(id), group));
            more.items.sort_unstable();
        });
    }

    fn remove(&mut self, id: &ObjectId) {
        self.change(|more| more.items.retain(|(held, _)| **held != *id));
    }
}

/// Takes note of whether several pods have it now.
fn note_contested(contested: &mut BTreeSet<IpNetwork>, net: IpNetwork, own: &Own) {
    if own.is_contested() {
        contested.insert(net);
    } else {
        contested.remove(&net);
    }
}

/// An item as it was put in.
#[derive(Debug)]
struct Entered {
    nets: Nets,
    group: GroupId,
    local: bool,
}

/// Addresses and their classes.
#[derive(Debug)]
pub struct Classes {
    atoms: AtomIndex,
    items: BTreeMap<Arc<ObjectId>, Entered>,
    own: NetMap<Own>,
    /// How many prefixes of each length are known, of IPv4 and of IPv6.
    lengths: [BTreeMap<u8, usize>; 2],
    numbers: HashMap<Arc<[AtomId]>, ClassId>,
    /// The predicates of each class.
    sets: Vec<Arc<[AtomId]>>,
    /// The classes that have a predicate.
    having: HashMap<AtomId, Vec<ClassId>>,
    /// Addresses and prefixes whose class may have changed.
    touched: BTreeSet<IpNetwork>,
    /// What several pods have, kept apart: whoever asks for it would look through all addresses of the cluster otherwise.
    contested: BTreeSet<IpNetwork>,
}

impl Default for Classes {
    fn default() -> Self {
        let none: Arc<[AtomId]> = Arc::new([]);
        Self {
            atoms: AtomIndex::default(),
            items: BTreeMap::new(),
            own: NetMap::default(),
            lengths: Default::default(),
            numbers: HashMap::from([(Arc::clone(&none), ClassId::WORLD)]),
            sets: vec![none],
            having: HashMap::new(),
            touched: BTreeSet::new(),
            contested: BTreeSet::new(),
        }
    }
}

impl Classes {
    /// The number of a selector.
    pub fn selector(&mut self, inputs: &PolicyInputs, selector: &ItemSelector) -> AtomId {
        let (atom, selected) = self.atoms.items(inputs, selector);
        self.touch_items(&selected);
        atom
    }

    /// The number of a prefix.
    pub fn net(&mut self, net: IpNetwork) -> AtomId {
        let net = masked(net);
        let (atom, new) = self.atoms.net(net);
        if new {
            self.own_mut(net).set_net(atom);
            self.touch_within(net);
        }
        atom
    }

    /// The numbers that peers have for the name of a port, each with its predicate.
    pub fn ports(&mut self, name: &Arc<str>, protocol: u8) -> Vec<(AtomId, u16)> {
        let having = self.atoms.port_name(name, protocol);
        self.touch_items(&having);
        self.atoms.ports(name, protocol)
    }

    /// Puts in all items of these ids, where no item is known yet. The result is that of calling [`Self::put`] for each, but the trees
    /// are built at once and have no empty space.
    pub fn fill(&mut self, inputs: &PolicyInputs, ids: Vec<ObjectId>) {
        let mut items = Vec::with_capacity(ids.len());
        let mut held = Vec::with_capacity(ids.len());
        for id in ids {
            supervisor::beat();
            let Some(Item { facts, nets }) = inputs.item(&id) else { continue };
            let local = inputs.locals_of(&id).next().is_some();
            let id = Arc::new(id);
            let nets = nets.into_iter().map(masked).collect::<Nets>();
            let (group, _) = self.atoms.enter(inputs, &id, &facts);
            held.extend(nets.iter().map(|net| (net, Arc::clone(&id), group)));
            items.push((id, Entered { nets, group, local }));
        }
        self.items = items.into_iter().collect();
        held.sort_unstable();
        let mut own: Vec<(IpNetwork, Own)> = Vec::with_capacity(held.len());
        for (net, id, group) in held {
            match own.last_mut() {
                Some((last, it)) if *last == net => {
                    it.insert(&id, group);
                    note_contested(&mut self.contested, net, it);
                }
                _ => {
                    *self.lengths[usize::from(net.is_ipv6())].entry(net.prefix()).or_default() += 1;
                    own.push((net, Own::One(id, group)));
                }
            }
        }
        self.own = own.into_iter().collect();
        self.touched = self.known().collect();
    }

    /// Puts in an item or its new state; `None` stands for an item that is gone. Returns whether a port name that rules use has got a
    /// new number.
    pub fn put(&mut self, inputs: &PolicyInputs, id: &ObjectId, item: Option<Item>) -> bool {
        let local = inputs.locals_of(id).next().is_some();
        let (id, old) = match self.items.remove_entry(id) {
            Some((id, old)) => (id, Some(old)),
            None => (Arc::new(id.clone()), None),
        };
        let mut new_number = false;
        if let Some(Item { facts, nets }) = item {
            let nets = nets.into_iter().map(masked).collect::<Nets>();
            let (group, new) = self.atoms.enter(inputs, &id, &facts);
            new_number = new;
            for net in nets.iter() {
                self.enter_own(net, &id, group);
            }
            self.touch_nets(nets.iter());
            self.items.insert(Arc::clone(&id), Entered { nets, group, local });
        }
        if let Some(old) = old {
            let kept = self.items.get(&id);
            if kept.is_none_or(|kept| kept.group != old.group) {
                self.atoms.leave(&id, old.group);
            }
            let gone = old.nets.iter();
            let gone =
                gone.filter(|net| kept.is_none_or(|kept| !kept.nets.contains(*net))).collect::<Vec<_>>();
            for net in &gone {
                if let Some(own) = self.own.get_mut(*net) {
                    own.remove(&id);
                    note_contested(&mut self.contested, *net, own);
                }
            }
            self.touch_nets(gone.iter().copied());
            for net in gone {
                self.forget_empty(net);
            }
        }
        new_number
    }

    /// Evaluates the selectors again for the items of a namespace.
    pub fn refresh_namespace(&mut self, inputs: &PolicyInputs, namespace: &str) {
        let changed = self.atoms.refresh(inputs, namespace);
        self.touch_items(&changed);
    }

    /// The named ports of an item.
    pub fn ports_of(&self, id: &ObjectId) -> Arc<[NamedPort]> {
        let facts = self.items.get(id).and_then(|item| self.atoms.facts(item.group));
        facts.map(|facts| Arc::clone(&facts.ports)).unwrap_or_default()
    }

    /// The items that an address belongs to.
    pub fn owners(&self, address: IpAddr) -> impl Iterator<Item = &ObjectId> {
        self.own.get(address.into()).into_iter().flat_map(Own::items)
    }

    /// The pod that an address belongs to.
    pub fn pod_at(&self, address: IpAddr) -> Option<&ObjectId> {
        let own = self.own.get(address.into())?;
        self.pod_of(own).map(|(id, _)| &**id)
    }

    /// Two pods may claim an address while one of them goes away. A pod of this node counts then, because the node knows its own
    /// addresses best.
    fn pod_of<'a>(&'a self, own: &'a Own) -> Option<(&'a Arc<ObjectId>, GroupId)> {
        let mut pods = own.members().filter(|(id, _)| id.kind == Kind::Pod);
        let first = pods.next()?;
        let mut others = pods.peekable();
        if others.peek().is_none() {
            return Some(first);
        }
        let is_local = |(id, _): &(&Arc<ObjectId>, GroupId)| self.items.get(*id).is_some_and(|it| it.local);
        Some(iter::once(first).chain(others).find(is_local).unwrap_or(first))
    }

    /// Addresses that several pods claim.
    pub fn contested(&self) -> impl Iterator<Item = (IpAddr, Vec<&ObjectId>)> {
        self.contested.iter().filter_map(|net| {
            let own = self.own.get(*net)?;
            Some((net.ip(), own.items().filter(|id| id.kind == Kind::Pod).collect()))
        })
    }

    /// Whether anything is known of exactly this address or prefix.
    pub fn is_known(&self, net: IpNetwork) -> bool {
        self.own.get(net).is_some()
    }

    /// All addresses and prefixes of which something is known.
    pub fn known(&self) -> impl Iterator<Item = IpNetwork> {
        self.own.iter().map(|(net, _)| net)
    }

    /// The predicates that hold for an address or a prefix.
    pub fn atoms_of(&self, net: IpNetwork) -> Vec<AtomId> {
        let mut atoms = Vec::new();
        let lengths = &self.lengths[usize::from(net.is_ipv6())];
        for length in lengths.range(..=net.prefix()).map(|(length, _)| *length) {
            let Some(own) = self.own.get(truncated(net, length)) else { continue };
            atoms.extend(own.net());
            let others = own.members().filter(|(id, _)| id.kind != Kind::Pod);
            for (_, group) in self.pod_of(own).into_iter().chain(others) {
                atoms.extend(self.atoms.of(group));
            }
        }
        atoms.sort_unstable();
        atoms.dedup();
        atoms
    }

    /// The class of an address or a prefix.
    pub fn class(&mut self, net: IpNetwork) -> ClassId {
        let atoms = self.atoms_of(net);
        if let Some(class) = self.numbers.get(atoms.as_slice()) {
            return *class;
        }
        let class = ClassId(u32::try_from(self.sets.len()).unwrap_or(ClassId::ANY.0));
        let atoms: Arc<[AtomId]> = atoms.into();
        for atom in atoms.iter() {
            self.having.entry(*atom).or_default().push(class);
        }
        self.sets.push(Arc::clone(&atoms));
        self.numbers.insert(atoms, class);
        class
    }

    /// The predicates of a class.
    pub fn set(&self, class: ClassId) -> Arc<[AtomId]> {
        self.sets.get(class.0 as usize).cloned().unwrap_or_else(|| Arc::new([]))
    }

    /// How many classes there are. Their numbers are below this.
    pub fn count(&self) -> usize {
        self.sets.len()
    }

    /// How many predicates there are.
    pub fn atoms(&self) -> usize {
        self.atoms.count()
    }

    /// The classes that a predicate holds for.
    pub fn having(&self, atom: AtomId) -> &[ClassId] {
        self.having.get(&atom).map_or(&[], Vec::as_slice)
    }

    /// Addresses and prefixes whose class may have changed since this was last called.
    pub fn take_touched(&mut self) -> BTreeSet<IpNetwork> {
        mem::take(&mut self.touched)
    }

    fn enter_own(&mut self, net: IpNetwork, id: &Arc<ObjectId>, group: GroupId) {
        let own = self.own_mut(net);
        own.insert(id, group);
        if own.is_contested() {
            self.contested.insert(net);
        }
    }

    fn own_mut(&mut self, net: IpNetwork) -> &mut Own {
        let lengths = &mut self.lengths[usize::from(net.is_ipv6())];
        self.own.get_or_insert_with(net, || {
            *lengths.entry(net.prefix()).or_default() += 1;
            Own::default()
        })
    }

    fn forget_empty(&mut self, net: IpNetwork) {
        if self.own.get(net).is_some_and(Own::is_nothing) {
            self.own.remove(net);
            let lengths = &mut self.lengths[usize::from(net.is_ipv6())];
            if let Some(count) = lengths.get_mut(&net.prefix()) {
                *count -= 1;
                if *count == 0 {
                    lengths.remove(&net.prefix());
                }
            }
        }
    }

    fn touch_items(&mut self, ids: &[Arc<ObjectId>]) {
        for id in ids {
            let Some(nets) = self.items.get(id).map(|item| item.nets.clone()) else { continue };
            self.touch_nets(nets.iter());
        }
    }

    fn touch_nets(&mut self, nets: impl Iterator<Item = IpNetwork>) {
        for net in nets {
            if is_host(net) {
                self.touched.insert(net);
            } else {
                self.touch_within(net);
            }
        }
    }

    /// Marks everything known that lies in a prefix.
    fn touch_within(&mut self, net: IpNetwork) {
        self.touched.extend(self.own.within(net));
    }
}

/// The prefix of a length that covers another.
fn truncated(net: IpNetwork, length: u8) -> IpNetwork {
    let covering = match net {
        IpNetwork::V4(net) => Ipv4Network::new(net.ip(), length)
            .and_then(|wider| Ipv4Network::new(wider.network(), length))
            .map(IpNetwork::V4),
        IpNetwork::V6(net) => Ipv6Network::new(net.ip(), length)
            .and_then(|wider| Ipv6Network::new(wider.network(), length))
            .map(IpNetwork::V6),
    };
    // The length is at most that of `net`, so there is always one.
    covering.unwrap_or(net)
}

fn masked(net: IpNetwork) -> IpNetwork {
    truncated(net, net.prefix())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipamd_model::{
        labels::Labels,
        objects::{Change, Object, Pod},
    };

    fn pod(name: &str, app: &str, addresses: &[&str]) -> Object {
        Object::Pod(Pod {
            namespace: "ns".into(),
            name: name.into(),
            labels: Some([("app", app)].into_iter().collect::<Labels>()),
            service_account: "default".into(),
            addresses: addresses.iter().map(|it| it.parse().unwrap()).collect(),
            ports: [].into(),
        })
    }

    fn id(name: &str) -> ObjectId {
        ObjectId::namespaced(Kind::Pod, "ns", name)
    }

    fn put(classes: &mut Classes, inputs: &mut PolicyInputs, object: Object) {
        let id = object.id();
        inputs.put(object);
        classes.put(inputs, &id, inputs.item(&id));
    }

    fn contested(classes: &Classes) -> Vec<String> {
        let told = |(address, pods): (IpAddr, Vec<&ObjectId>)| {
            let names = pods.into_iter().map(|id| &*id.name).collect::<Vec<_>>();
            format!("{address} {}", names.join(" "))
        };
        classes.contested().map(told).collect()
    }

    /// The same is found of pods that come one by one and of those that are there at first.
    #[test]
    fn an_address_of_several_pods_is_known_until_one_has_it_alone() {
        let (mut classes, mut inputs) = (Classes::default(), PolicyInputs::default());
        for object in [pod("a", "x", &["10.0.0.1"]), pod("b", "x", &["10.0.0.2", "fd00::2"])] {
            put(&mut classes, &mut inputs, object);
        }
        assert!(contested(&classes).is_empty());
        put(&mut classes, &mut inputs, pod("c", "x", &["fd00::2", "10.0.0.1"]));
        let both = ["10.0.0.1 a c", "fd00::2 b c"];
        assert_eq!(contested(&classes), both);
        let (mut filled, mut known) = (Classes::default(), PolicyInputs::default());
        known.fill(
            [pod("a", "x", &["10.0.0.1"]), pod("b", "x", &["10.0.0.2", "fd00::2"])]
                .into_iter()
                .chain([pod("c", "x", &["fd00::2", "10.0.0.1"])])
                .map(Change::Put)
                .collect(),
        );
        filled.fill(&known, known.item_ids());
        assert_eq!(contested(&filled), both);
        for classes in [&mut classes, &mut filled] {
            classes.put(&inputs, &id("a"), None);
            assert_eq!(contested(classes), ["fd00::2 b c"]);
            inputs.put(pod("b", "x", &["10.0.0.2"]));
            classes.put(&inputs, &id("b"), inputs.item(&id("b")));
            assert!(contested(classes).is_empty());
        }
    }

    /// What holds for an address follows its pod from one group of equal pods to another.
    #[test]
    fn a_pod_of_other_labels_is_of_another_class_and_takes_its_addresses_along() {
        let (mut classes, mut inputs) = (Classes::default(), PolicyInputs::default());
        put(&mut classes, &mut inputs, pod("a", "x", &["10.0.0.1", "fd00::1"]));
        put(&mut classes, &mut inputs, pod("b", "y", &["10.0.0.2"]));
        let selector = ItemSelector {
            kinds: ipamd_model::policy::ItemKinds::Pods,
            scope: ipamd_model::policy::Scope::Any,
            labels: "app == 'x'".parse().unwrap(),
            dialect: ipamd_model::policy::Dialect::Kubernetes,
            service_account_names: None,
            service_accounts: None,
        };
        let atom = classes.selector(&inputs, &selector);
        let holds = |classes: &mut Classes, address: &str| {
            let class = classes.class(address.parse().unwrap());
            classes.set(class).contains(&atom)
        };
        assert!(holds(&mut classes, "10.0.0.1") && holds(&mut classes, "fd00::1"));
        assert!(!holds(&mut classes, "10.0.0.2"));
        put(&mut classes, &mut inputs, pod("a", "y", &["10.0.0.1", "fd00::1"]));
        put(&mut classes, &mut inputs, pod("b", "x", &["10.0.0.2", "10.0.0.1"]));
        assert!(!holds(&mut classes, "fd00::1") && holds(&mut classes, "10.0.0.2"));
        // Two have the first address: the one that is asked first, until it is gone.
        assert!(!holds(&mut classes, "10.0.0.1"));
        classes.put(&inputs, &id("a"), None);
        assert!(holds(&mut classes, "10.0.0.1"));
    }

    #[test]
    fn what_is_known_of_an_address_takes_little_room() {
        assert_eq!(size_of::<Own>(), 16, "there is one of these for each address of the cluster");
    }
}
