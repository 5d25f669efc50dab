//! The resolved rules of an endpoint, in order. What they say of addresses is by the numbers of predicates.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    ops::Deref,
    slice,
    sync::Arc,
};

use crate::tables::RuleId;
use ipamd_model::{
    domain::DomainId,
    policy::{Action, Denied, Direction, TierDefault, protocol},
};
use ipamd_runtime::work;

/// The number of a predicate about addresses.
pub type AtomId = u32;

/// The predicates that hold for an address, in order, each once.
pub type Atoms<'a> = &'a [AtomId];

fn holds(atoms: Atoms<'_>, atom: AtomId) -> bool {
    atoms.binary_search(&atom).is_ok()
}

/// Whether one of a list holds. The list is ordered too.
fn any_holds(atoms: Atoms<'_>, list: &[AtomId]) -> bool {
    let (few, many) = if list.len() < atoms.len() { (list, atoms) } else { (atoms, list) };
    few.iter().any(|atom| holds(many, *atom))
}

/// What must hold for an address: all that is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct AddressMatch {
    /// It belongs to these items.
    pub items: Option<AtomId>,
    /// It does not belong to these items.
    pub not_items: Option<AtomId>,
    /// It lies in one of these prefixes, which are in order.
    pub nets: Option<Vec<AtomId>>,
    /// It lies in none of these prefixes, which are in order.
    pub not_nets: Vec<AtomId>,
    /// It lies in this prefix, which is the whole address space of a family.
    pub family: Option<AtomId>,
}

impl AddressMatch {
    /// Whether an address for which these predicates hold is meant.
    pub fn matches(&self, atoms: Atoms<'_>) -> bool {
        self.items.is_none_or(|atom| holds(atoms, atom))
            && self.not_items.is_none_or(|atom| !holds(atoms, atom))
            && self.nets.as_ref().is_none_or(|nets| any_holds(atoms, nets))
            && !any_holds(atoms, &self.not_nets)
            && self.family.is_none_or(|atom| holds(atoms, atom))
    }

    /// Predicates of which at least one holds for every address that is meant. `None` if there are no such predicates.
    fn needs(&self) -> Option<&[AtomId]> {
        let single = self.items.as_ref().map(slice::from_ref);
        single.or(self.nets.as_deref()).or_else(|| self.family.as_ref().map(slice::from_ref))
    }

    /// The predicates that it depends on.
    pub fn mentions(&self) -> impl Iterator<Item = AtomId> {
        let single = [self.items, self.not_items, self.family].into_iter().flatten();
        single.chain(self.nets.iter().flatten().copied()).chain(self.not_nets.iter().copied())
    }
}

/// An alternative of a rule that means addresses by their DNS names: both must hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DomainMatch {
    /// What must hold for the address itself.
    pub address: AddressMatch,
    /// The address has a name that one of these patterns means. They are in order, each once.
    pub domains: Vec<DomainId>,
}

/// A set of ports.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PortSet {
    /// Ranges of numbers, with both ends.
    pub ranges: Vec<(u16, u16)>,
    /// The named ports of peers. The number is in the set if the predicate holds for the peer.
    pub peer: Vec<(AtomId, u16)>,
}

impl PortSet {
    fn contains(&self, port: u16, atoms: Atoms<'_>) -> bool {
        self.ranges.iter().any(|(first, last)| (*first..=*last).contains(&port))
            || self.peer.iter().any(|(atom, number)| *number == port && holds(atoms, *atom))
    }

    /// All numbers in the set, as ranges, for a peer for which these predicates hold.
    pub fn numbers(&self, atoms: Atoms<'_>) -> impl Iterator<Item = (u16, u16)> {
        let peer =
            self.peer.iter().filter(move |(atom, _)| holds(atoms, *atom)).map(|(_, port)| (*port, *port));
        self.ranges.iter().copied().chain(peer)
    }
}

/// What a rule says of the ports of one side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PortMatch {
    /// The port is one of these. `None` stands for any port.
    pub one_of: Option<PortSet>,
    /// The port is none of these.
    pub none_of: Option<PortSet>,
}

impl PortMatch {
    /// Whether any port matches.
    pub fn is_any(&self) -> bool {
        self.one_of.is_none() && self.none_of.is_none()
    }

    fn matches(&self, port: u16, atoms: Atoms<'_>) -> bool {
        self.one_of.as_ref().is_none_or(|set| set.contains(port, atoms))
            && self.none_of.as_ref().is_none_or(|set| !set.contains(port, atoms))
    }

    fn mentions(&self) -> impl Iterator<Item = AtomId> {
        let sets = [&self.one_of, &self.none_of].into_iter().flatten();
        sets.flat_map(|set| set.peer.iter().map(|(atom, _)| *atom))
    }
}

/// What a rule says of protocols and ports. For ICMP the destination port is `type << 8 | code`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TrafficMatch {
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// IP protocol number that it must not be.
    pub not_protocol: Option<u8>,
    /// The ports of the side that opens the flow.
    pub source: PortMatch,
    /// The ports of the other side.
    pub destination: PortMatch,
}

impl TrafficMatch {
    /// Whether packets of a protocol can match. `None` stands for all protocols that no rule names.
    pub fn concerns(&self, protocol: Option<u8>) -> bool {
        let named = self.protocol.is_none() || self.protocol == protocol;
        let ports = self.source.is_any() && self.destination.is_any()
            || protocol.is_some_and(|p| protocol::has_ports(p) || protocol::is_icmp(p));
        named && (self.not_protocol.is_none() || self.not_protocol != protocol) && ports
    }

    /// Whether a flow with a peer for which these predicates hold matches. The protocol is as for [`Self::concerns`].
    pub fn is_of(&self, protocol: Option<u8>, source: u16, destination: u16, atoms: Atoms<'_>) -> bool {
        self.concerns(protocol)
            && self.source.matches(source, atoms)
            && self.destination.matches(destination, atoms)
    }
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RuleMatch {
    /// Its number in counters and events.
    pub id: RuleId,
    /// What it does.
    pub action: Action,
    /// What becomes of the packets that it denies.
    pub denied: Denied,
    /// The alternatives for the address of the other side.
    pub peers: Vec<AddressMatch>,
    /// More alternatives for it, by DNS names. Only rules that allow what an endpoint sends have some.
    pub domains: Vec<DomainMatch>,
    /// The alternatives for protocols and ports.
    pub traffic: Vec<TrafficMatch>,
}

impl RuleMatch {
    /// The alternative of a number: those by address come first.
    fn alternative(&self, number: usize) -> Option<Alternative<'_>> {
        match number.checked_sub(self.peers.len()) {
            None => self.peers.get(number).map(Alternative::Address),
            Some(number) => self.domains.get(number).map(|it| Alternative::Names(&it.address)),
        }
    }

    /// The patterns of DNS names by which it means an address for which these predicates hold.
    pub fn domains_of<'a>(&'a self, atoms: Atoms<'a>) -> impl Iterator<Item = DomainId> + 'a {
        let meant = self.domains.iter().filter(move |it| it.address.matches(atoms));
        meant.flat_map(|it| it.domains.iter().copied())
    }
}

/// One of the alternatives for the address of the other side.
enum Alternative<'a> {
    Address(&'a AddressMatch),
    /// What must hold for the address if its names are meant.
    Names(&'a AddressMatch),
}

impl Alternative<'_> {
    fn address(&self) -> &AddressMatch {
        match self {
            Self::Address(address) | Self::Names(address) => address,
        }
    }
}

/// The rules of one tier.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TierRules {
    /// The rules, in order.
    pub rules: Vec<RuleMatch>,
    /// What happens to flows that no rule decides.
    pub default: TierDefault,
    /// The number of the default, if it denies.
    pub default_id: RuleId,
    /// What becomes of the packets that the default denies.
    pub denied: Denied,
}

/// What the policies of an endpoint say of a direction. A direction without tiers is not policed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct DirectionRules {
    /// The tiers whose policies select the endpoint, in order.
    pub tiers: Vec<TierRules>,
}

/// All rules of an endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct EndpointRules {
    /// For flows to the endpoint.
    pub ingress: DirectionRules,
    /// For flows from the endpoint.
    pub egress: DirectionRules,
}

/// Rules with their hash. A pod may have ten thousand rules. Hashing them again at each look-up would cost more than all the rest of an
/// ADD.
#[derive(Debug)]
pub struct Hashed {
    rules: EndpointRules,
    hash: u64,
}

/// Rules that all endpoints share that have them.
pub type SharedRules = Arc<Hashed>;

impl From<EndpointRules> for Hashed {
    fn from(rules: EndpointRules) -> Self {
        let mut hasher = DefaultHasher::new();
        rules.hash(&mut hasher);
        Self { rules, hash: hasher.finish() }
    }
}

impl Deref for Hashed {
    type Target = EndpointRules;

    fn deref(&self) -> &EndpointRules {
        &self.rules
    }
}

impl PartialEq for Hashed {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.rules == other.rules
    }
}

impl Eq for Hashed {}

impl Hash for Hashed {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl EndpointRules {
    /// The rules of a direction.
    pub fn of(&self, direction: Direction) -> &DirectionRules {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    /// Whether anything is said of either direction.
    pub fn is_policed(&self) -> bool {
        self.ingress.is_policed() || self.egress.is_policed()
    }

    /// The numbers of all rules.
    pub fn ids(&self) -> impl Iterator<Item = RuleId> {
        let tiers = self.ingress.tiers.iter().chain(&self.egress.tiers);
        tiers.flat_map(|tier| tier.rules.iter().map(|rule| rule.id).chain([tier.default_id]))
    }
}

/// A rule that is left once the peer is known.
#[derive(Clone, Copy)]
pub struct Left<'a> {
    /// The rule.
    pub rule: &'a RuleMatch,
    /// It means the peer only if this has a certain DNS name.
    pub by_name: bool,
}

/// The rules that are left once the peer is known.
pub struct PeerRules<'a> {
    tiers: Vec<(&'a TierRules, Vec<Left<'a>>)>,
    atoms: Atoms<'a>,
    /// Whether any rule of the direction means DNS names.
    names: bool,
}

/// The place of an alternative of a rule: its tier, its rule, and its number.
type At = (u32, u32, u32);

/// The alternatives of rules, by a predicate that must hold for a peer that they mean. So of ten thousand alternatives only those are
/// looked at that can mean a peer.
#[derive(Debug, Default)]
pub struct RuleIndex {
    /// The alternatives that need no predicate.
    always: Vec<At>,
    needing: HashMap<AtomId, Vec<At>>,
    /// Whether any rule means DNS names.
    names: bool,
}

impl RuleIndex {
    /// The index of these rules.
    pub fn new(rules: &DirectionRules) -> Self {
        let mut index = Self { names: rules.names(), ..Self::default() };
        for (tier, of_tier) in (0..).zip(&rules.tiers) {
            for (at, rule) in (0..).zip(&of_tier.rules) {
                let by_name = rule.domains.iter().map(|it| &it.address);
                for (number, peer) in (0..).zip(rule.peers.iter().chain(by_name)) {
                    match peer.needs() {
                        None => index.always.push((tier, at, number)),
                        Some(needs) => {
                            for atom in needs {
                                index.needing.entry(*atom).or_default().push((tier, at, number));
                            }
                        }
                    }
                }
            }
        }
        index
    }

    /// The alternatives that can mean a peer for which these predicates hold, in order.
    fn of(&self, atoms: Atoms<'_>) -> Vec<At> {
        let mut found = self.always.clone();
        found.extend(atoms.iter().filter_map(|atom| self.needing.get(atom)).flatten());
        found.sort_unstable();
        found.dedup();
        found
    }
}

impl DirectionRules {
    /// Whether anything is said of the direction.
    pub fn is_policed(&self) -> bool {
        !self.tiers.is_empty()
    }

    /// Whether any rule means DNS names.
    pub fn names(&self) -> bool {
        self.tiers.iter().flat_map(|tier| &tier.rules).any(|rule| !rule.domains.is_empty())
    }

    /// The patterns of DNS names that rules mean, each with the first rule that does.
    pub fn domains(&self) -> BTreeMap<DomainId, RuleId> {
        let mut first = BTreeMap::new();
        for rule in self.tiers.iter().flat_map(|tier| &tier.rules) {
            for domain in rule.domains.iter().flat_map(|it| &it.domains) {
                first.entry(*domain).or_insert(rule.id);
            }
        }
        first
    }

    /// The rules that concern a peer.
    pub fn about<'a>(&'a self, atoms: Atoms<'a>) -> PeerRules<'a> {
        let left = |rule: &'a RuleMatch| {
            let by_address = rule.peers.iter().any(|peer| peer.matches(atoms));
            let meant = by_address || rule.domains.iter().any(|it| it.address.matches(atoms));
            meant.then_some(Left { rule, by_name: !by_address })
        };
        let tiers = self.tiers.iter().map(|tier| (tier, tier.rules.iter().filter_map(left).collect()));
        PeerRules { tiers: tiers.collect(), atoms, names: self.names() }
    }

    /// The same, by an index of these rules.
    pub fn about_by<'a>(&'a self, index: &RuleIndex, atoms: Atoms<'a>) -> PeerRules<'a> {
        let mut tiers: Vec<(_, Vec<_>)> = self.tiers.iter().map(|tier| (tier, Vec::new())).collect();
        let mut meant = None;
        let found = index.of(atoms);
        work::step(found.len());
        for (tier, at, number) in found {
            let Some((of_tier, left)) = tiers.get_mut(tier as usize) else { continue };
            let Some(rule) = of_tier.rules.get(at as usize).filter(|_| meant != Some((tier, at))) else {
                continue;
            };
            // Of the alternatives, those by address come first.
            let alternative = rule.alternative(number as usize);
            if let Some(it) = alternative.filter(|it| it.address().matches(atoms)) {
                left.push(Left { rule, by_name: matches!(it, Alternative::Names(_)) });
                meant = Some((tier, at));
            }
        }
        PeerRules { tiers, atoms, names: index.names }
    }

    /// The predicates that decisions depend on.
    pub fn mentions(&self) -> impl Iterator<Item = AtomId> {
        let rules = self.tiers.iter().flat_map(|tier| &tier.rules);
        rules.flat_map(|rule| {
            let by_name = rule.domains.iter().map(|it| &it.address);
            let peers = rule.peers.iter().chain(by_name).flat_map(AddressMatch::mentions);
            let ports =
                rule.traffic.iter().flat_map(|it| it.source.mentions().chain(it.destination.mentions()));
            peers.chain(ports)
        })
    }
}

impl PeerRules<'_> {
    /// Each tier with those of its rules that are left.
    pub fn tiers(&self) -> impl Iterator<Item = (&TierRules, &[Left<'_>])> {
        self.tiers.iter().map(|(tier, rules)| (*tier, rules.as_slice()))
    }

    /// The predicates of the peer.
    pub fn atoms(&self) -> Atoms<'_> {
        self.atoms
    }

    /// Whether any rule of the direction means DNS names.
    pub fn names(&self) -> bool {
        self.names
    }

    /// The protocols that rules name, in order.
    pub fn protocols(&self) -> Vec<u8> {
        let traffic = self.tiers.iter().flat_map(|(_, rules)| rules).flat_map(|left| &left.rule.traffic);
        let mut protocols =
            traffic.flat_map(|it| [it.protocol, it.not_protocol]).flatten().collect::<Vec<_>>();
        protocols.sort_unstable();
        protocols.dedup();
        protocols
    }
}
