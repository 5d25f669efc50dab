//! From what should be to writes, and the writes in their order.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
    ops::AddAssign,
    sync::Arc,
};

use ipamd_api::AttachmentKey;
use ipnetwork::IpNetwork;

use super::{
    compiled::{Compiled, Entries, Extension},
    state::{Endpoint, State},
    tables::{Limits, Peer, Posture, TableError},
};
use crate::compile::{
    classes::is_host,
    resolve::{Resolver, Selecting},
    rules::EndpointRules,
};
use ipamd_model::{
    concerned::Concerned,
    policy::{Direction, Policy},
};
use ipamd_runtime::supervisor;

/// Resolving can make predicates that say something new of other endpoints' own addresses. Each round makes fewer.
const ROUNDS: usize = 8;

/// What does not fit, and by how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Overflow {
    what: &'static str,
    needed: usize,
    /// It is not worked out how many more.
    at_least: bool,
    limit: u32,
}

impl Overflow {
    fn of_entries(needed: usize, limit: u32) -> Self {
        Self { what: ENTRIES, needed, at_least: true, limit }
    }
}

const ENTRIES: &str = "entries in one policy map (--policy-entries)";

impl fmt::Display for Overflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at_least = if self.at_least { "at least " } else { "" };
        write!(f, "it needs {at_least}{} {}, and there is room for {}", self.needed, self.what, self.limit)
    }
}

/// Why a change is not in the tables.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unsettled {
    /// Nothing was written.
    #[error("{0}")]
    Overflow(Overflow),
    /// Some of it was.
    #[error(transparent)]
    Table(#[from] TableError),
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Writes {
    /// Addresses and prefixes.
    pub peers: usize,
    /// Policy maps made.
    pub maps: usize,
    /// Entries in them, and added to others.
    pub entries: usize,
    /// Endpoints whose policy is another.
    pub postures: usize,
}

impl AddAssign for Writes {
    fn add_assign(&mut self, more: Self) {
        self.peers += more.peers;
        self.maps += more.maps;
        self.entries += more.entries;
        self.postures += more.postures;
    }
}

/// All writes of a change.
#[derive(Debug, Default)]
struct Plan {
    extensions: Vec<(Arc<EndpointRules>, Extension)>,
    peers: Vec<(IpNetwork, Option<Peer>)>,
    maps: Vec<(Compiled, Entries)>,
    endpoints: Vec<(AttachmentKey, Arc<EndpointRules>)>,
}

impl State {
    /// Brings the tables to where the world is. `concerned` are the endpoints whose rules may be others.
    pub fn settle(&mut self, concerned: &BTreeSet<AttachmentKey>) -> Result<Writes, Unsettled> {
        let rules = self.resolve(concerned);
        let plan = self.plan(&rules).map_err(Unsettled::Overflow)?;
        self.check(&plan).map_err(Unsettled::Overflow)?;
        Ok(self.write(plan)?)
    }

    /// The rules of the concerned endpoints, and of those whose own side is seen differently by that.
    fn resolve(
        &mut self,
        concerned: &BTreeSet<AttachmentKey>,
    ) -> BTreeMap<AttachmentKey, Arc<EndpointRules>> {
        let mut resolved = BTreeMap::new();
        // Pods of one workload have the same policies, which mostly say the same to all of them.
        let mut shared: HashMap<Vec<*const Policy>, Arc<EndpointRules>> = HashMap::new();
        let mut round = concerned.clone();
        self.touch();
        round.extend(self.owners_of(&self.derived.touched));
        for _ in 0..ROUNDS {
            for key in std::mem::take(&mut round) {
                supervisor::beat();
                let Some(endpoint) = self.endpoints.get(&key) else { continue };
                let key_of_all =
                    says_the_same_to_all(&endpoint.selecting).filter(|_| !endpoint.addresses.is_empty());
                if let Some(policies) = &key_of_all
                    && let Some(rules) =
                        shared.get(policies).cloned().or_else(|| self.rules_of_like(endpoint, concerned))
                {
                    shared.extend(key_of_all.map(|policies| (policies, Arc::clone(&rules))));
                    resolved.insert(key, rules);
                    continue;
                }
                let own = self.own(endpoint);
                let classes = &mut self.derived.classes;
                let rules = Resolver { world: &self.world, classes, names: &mut self.names }
                    .resolve(&endpoint.selecting, &own);
                let rules = Arc::new(rules);
                shared.extend(key_of_all.map(|policies| (policies, Arc::clone(&rules))));
                resolved.insert(key, rules);
            }
            let fresh = self.touch();
            round.extend(self.owners_of(&fresh));
            if round.is_empty() {
                break;
            }
        }
        resolved
    }

    /// The rules of an endpoint that the same policies select, and that is not concerned: these are in force as they are. So a pod
    /// that comes to a workload costs little, whatever its policies have cost.
    fn rules_of_like(
        &self,
        endpoint: &Endpoint,
        concerned: &BTreeSet<AttachmentKey>,
    ) -> Option<Arc<EndpointRules>> {
        let is_like = |other: &Endpoint| {
            let pairs = || other.selecting.values().zip(endpoint.selecting.values());
            other.selecting.len() == endpoint.selecting.len()
                && !other.addresses.is_empty()
                && pairs().all(|(theirs, own)| Arc::ptr_eq(theirs, own))
        };
        let mut others = self.endpoints.iter();
        let like = others.find(|(key, it)| it.rules.is_some() && is_like(it) && !concerned.contains(*key));
        like.and_then(|(_, it)| it.rules.clone())
    }

    fn touch(&mut self) -> BTreeSet<IpNetwork> {
        let fresh = self.derived.classes.take_touched();
        self.derived.touched.extend(&fresh);
        fresh
    }

    /// The endpoints that have one of these addresses, and rules.
    fn owners_of(&self, touched: &BTreeSet<IpNetwork>) -> Vec<AttachmentKey> {
        let has = |addresses: &[std::net::IpAddr]| {
            addresses.iter().any(|ip| touched.contains(&IpNetwork::from(*ip)))
        };
        let owners = self.endpoints.iter().filter(|(_, it)| !it.selecting.is_empty() && has(&it.addresses));
        owners.map(|(key, _)| key.clone()).collect()
    }

    fn plan(&mut self, resolved: &BTreeMap<AttachmentKey, Arc<EndpointRules>>) -> Result<Plan, Overflow> {
        let limits = self.tables.limits();
        let most = limits.entries as usize;
        self.check_rules(limits)?;
        let mut plan = Plan::default();
        let node = self.node_addresses.iter().map(|address| IpNetwork::from(*address));
        let nets = self.derived.touched.iter().copied().chain(node).collect::<BTreeSet<_>>();
        for net in nets {
            let wanted = self.wanted_peer(net);
            if self.derived.peers.get(net) != wanted {
                plan.peers.push((net, wanted));
            }
        }
        for (rules, compiled) in &mut self.derived.maps {
            let extension = compiled.extension(&self.derived.classes, most);
            if let Some(extension) =
                extension.map_err(|needed| Overflow::of_entries(needed, limits.entries))?
            {
                plan.extensions.push((Arc::clone(rules), extension));
            }
        }
        let mut made: HashSet<&Arc<EndpointRules>> = HashSet::new();
        // Those that many endpoints share are looked at once.
        let mut seen: HashSet<*const EndpointRules> = HashSet::new();
        for (key, rules) in resolved {
            supervisor::beat();
            let Some(endpoint) = self.endpoints.get(key) else { continue };
            if endpoint.posture.is_some() && endpoint.rules.as_ref() == Some(rules) {
                continue;
            }
            plan.endpoints.push((key.clone(), Arc::clone(rules)));
            let is_new = is_policed(rules)
                && seen.insert(Arc::as_ptr(rules))
                && !self.derived.maps.contains_key(rules)
                && made.insert(rules);
            if is_new {
                let compiled = Compiled::new(Arc::clone(rules), &self.derived.classes, most);
                plan.maps.push(compiled.map_err(|needed| Overflow::of_entries(needed, limits.entries))?);
            }
        }
        Ok(plan)
    }

    /// Before anything is worked out of them: number 0 is no rule.
    fn check_rules(&self, limits: Limits) -> Result<(), Overflow> {
        fits("rules (--policy-rules)", self.names.highest() + 1, limits.rules)
    }

    fn wanted_peer(&mut self, net: IpNetwork) -> Option<Peer> {
        let node = is_host(net) && self.node_addresses.contains(&net.ip());
        let known = node || self.derived.classes.is_known(net);
        let class = known.then(|| self.derived.classes.class(net));
        // What nothing is said of needs no entry: whatever covers it says nothing either.
        class
            .filter(|class| node || *class != super::tables::ClassId::WORLD)
            .map(|class| Peer { class, node })
    }

    fn check(&self, plan: &Plan) -> Result<(), Overflow> {
        let limits = self.tables.limits();
        for (compiled, entries) in &plan.maps {
            fits(ENTRIES, entries.len(), limits.entries)?;
            debug_assert!(compiled.map.is_none(), "it is not made yet");
        }
        for (rules, extension) in &plan.extensions {
            let before = self.derived.maps.get(rules).map_or(0, |compiled| compiled.entries);
            let entries = before + extension.entries.len();
            fits(ENTRIES, entries, limits.entries)?;
        }
        fits("policy maps", self.derived.maps.len() + plan.maps.len(), limits.maps)?;
        self.check_peers(plan, limits)
    }

    fn check_peers(&self, plan: &Plan, limits: Limits) -> Result<(), Overflow> {
        if plan.peers.iter().all(|(net, wanted)| wanted.is_none() || self.derived.peers.get(*net).is_some()) {
            return Ok(());
        }
        let mut counts = self.derived.peers.counts();
        for (net, wanted) in &plan.peers {
            counts.change(*net, self.derived.peers.get(*net).is_some(), wanted.is_some());
        }
        for (addresses, prefixes) in counts.by_family() {
            fits("addresses that policies tell apart (--policy-addresses)", addresses, limits.addresses)?;
            fits("prefixes that policies tell apart (--policy-prefixes)", prefixes, limits.prefixes)?;
        }
        Ok(())
    }

    /// Writes in an order in which no packet sees half of the change.
    fn write(&mut self, plan: Plan) -> Result<Writes, TableError> {
        let Plan { extensions, mut peers, maps, endpoints } = plan;
        let mut writes = Writes { peers: peers.len(), maps: maps.len(), ..Writes::default() };
        for rule in self.names.take_fresh() {
            self.tables.clear_hits(rule)?;
        }
        // Nobody is of the new classes yet.
        for (rules, extension) in extensions {
            let Some(compiled) = self.derived.maps.get_mut(&rules) else { continue };
            if let Some(map) = compiled.map {
                self.tables.extend_map(map, &extension.entries)?;
            }
            writes.entries += extension.entries.len();
            compiled.extended(extension);
        }
        // What comes: the longer prefix first, so that a shorter one is never what counts for what it covers. What goes:
        // the other way round.
        peers.sort_by_key(|(net, wanted)| match wanted {
            Some(_) => (0, Reverse(i16::from(net.prefix()))),
            None => (1, Reverse(-i16::from(net.prefix()))),
        });
        let reclassified: Concerned = peers.iter().map(|(net, _)| *net).collect();
        for (net, wanted) in peers {
            supervisor::beat();
            if let Some(peer) = wanted {
                self.tables.put_peer(net, peer)?;
                self.derived.peers.insert(net, peer);
            } else {
                self.tables.remove_peer(net)?;
                self.derived.peers.remove(net);
            }
        }
        self.derived.touched.clear();
        for (mut compiled, entries) in maps {
            supervisor::beat();
            compiled.map = Some(self.tables.add_map(&entries)?);
            writes.entries += entries.len();
            self.derived.maps.insert(Arc::clone(&compiled.rules), compiled);
        }
        let (mut let_go, mut concerned) = (Vec::new(), Concerned::nothing());
        for (key, rules) in endpoints {
            let map = is_policed(&rules)
                .then(|| self.derived.maps.get(&rules).and_then(|compiled| compiled.map))
                .flatten();
            let posture = Posture {
                map,
                ingress: rules.of(Direction::Ingress).is_policed(),
                egress: rules.of(Direction::Egress).is_policed(),
            };
            let Some(endpoint) = self.endpoints.get_mut(&key) else { continue };
            if endpoint.posture != Some(posture) {
                endpoint.place.put_posture(&mut *self.tables, posture)?;
                endpoint.posture = Some(posture);
                writes.postures += 1;
                concerned.add(endpoint.addresses.iter().copied().collect());
            }
            if let Some(compiled) = self.derived.maps.get_mut(&rules) {
                compiled.users += 1;
            }
            let_go.extend(endpoint.rules.replace(rules));
        }
        let policed =
            self.endpoints.values().any(|endpoint| endpoint.posture.is_some_and(|it| it.map.is_some()));
        // A flow is asked about by its own addresses: those of the endpoints whose policy is asked, and the other sides'.
        if policed {
            concerned.add(reclassified);
        }
        self.tables.raise_epoch(&concerned)?;
        for rules in let_go {
            self.let_go(&rules);
        }
        Ok(writes)
    }

    /// One endpoint less has these rules.
    pub fn let_go(&mut self, rules: &Arc<EndpointRules>) {
        let Some(compiled) = self.derived.maps.get_mut(rules) else { return };
        compiled.users = compiled.users.saturating_sub(1);
        if compiled.users > 0 {
            return;
        }
        if let Some(map) = compiled.map {
            self.tables.retire_map(map);
        }
        self.derived.maps.remove(rules);
    }
}

/// The policies, if what they say does not depend on whose they are.
fn says_the_same_to_all(selecting: &Selecting) -> Option<Vec<*const Policy>> {
    let each = selecting.values().map(|policy| policy.says_the_same_to_all().then_some(Arc::as_ptr(policy)));
    each.collect()
}

/// Whether so many are there.
fn fits(what: &'static str, needed: usize, limit: u32) -> Result<(), Overflow> {
    if needed > limit as usize { Err(Overflow { what, needed, at_least: false, limit }) } else { Ok(()) }
}

/// Whether anything is said of either direction.
fn is_policed(rules: &EndpointRules) -> bool {
    Direction::BOTH.iter().any(|direction| rules.of(*direction).is_policed())
}
