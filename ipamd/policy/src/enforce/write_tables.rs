//! Writes the tables, in phases that each take what the one before returns:
//!
//! ```text
//! concerned endpoints -- resolve --> Resolved -- plan --> Plan -- check --> CheckedPlan -- write --> Writes
//! ```
//!
//! The writes are made in an order in which no packet sees half of a change.

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
    rules::{EndpointRules, Hashed, SharedRules},
};
use ipamd_model::{
    concerned::Concerned,
    policy::{Direction, Policy},
};
use ipamd_runtime::supervisor;

/// The most rounds of resolving. Resolving an endpoint's rules can add predicates that hold for addresses of other
/// endpoints, whose rules must then be resolved again. Each round has fewer of them.
const ROUNDS: usize = 8;

/// A table that is too small, and by how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Overflow {
    what: &'static str,
    needed: usize,
    /// The exact number is not computed.
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

/// Why a change was not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    /// Nothing was written.
    #[error("{0}")]
    Overflow(Overflow),
    /// A part of it was written.
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

/// The rules of the endpoints that a change concerns. [`State::plan`] is next.
#[derive(Debug)]
struct Resolved(BTreeMap<AttachmentKey, SharedRules>);

/// The writes of a change. [`State::check`] is next.
#[derive(Debug, Default)]
#[must_use]
struct Plan {
    extensions: Vec<(SharedRules, Extension)>,
    peers: Vec<(IpNetwork, Option<Peer>)>,
    maps: Vec<(Compiled, Entries)>,
    endpoints: Vec<(AttachmentKey, SharedRules)>,
}

/// A plan that fits into the tables. Only [`State::check`] makes one, and [`State::write`] takes no other.
#[derive(Debug)]
#[must_use]
struct CheckedPlan(Plan);

impl State {
    /// Writes the tables so that they match the inputs. `concerned` are the endpoints whose rules may have changed.
    pub fn write_tables(&mut self, concerned: &BTreeSet<AttachmentKey>) -> Result<Writes, WriteError> {
        let resolved = self.resolve(concerned);
        let plan = self.plan(&resolved).map_err(WriteError::Overflow)?;
        let checked = self.check(plan).map_err(WriteError::Overflow)?;
        Ok(self.write(checked)?)
    }

    /// Resolves the rules of the concerned endpoints, and of those whose own addresses match new predicates.
    fn resolve(&mut self, concerned: &BTreeSet<AttachmentKey>) -> Resolved {
        let mut resolved = BTreeMap::new();
        // Pods of a workload have the same policies, which mostly have the same meaning for all of them.
        let mut shared: HashMap<Vec<*const Policy>, SharedRules> = HashMap::new();
        let mut round = concerned.clone();
        self.touch();
        round.extend(self.owners_of(&self.derived.touched));
        for _ in 0..ROUNDS {
            for key in std::mem::take(&mut round) {
                supervisor::beat();
                let Some(endpoint) = self.endpoints.get(&key) else { continue };
                let key_of_all = same_for_all(&endpoint.selecting).filter(|_| !endpoint.addresses.is_empty());
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
                let rules = Resolver { inputs: &self.inputs, classes, names: &mut self.names }
                    .resolve(&endpoint.selecting, &own);
                let rules = SharedRules::new(rules.into());
                shared.extend(key_of_all.map(|policies| (policies, Arc::clone(&rules))));
                resolved.insert(key, rules);
            }
            let fresh = self.touch();
            round.extend(self.owners_of(&fresh));
            if round.is_empty() {
                break;
            }
        }
        Resolved(resolved)
    }

    /// The rules of an endpoint that the same policies select, and that is not concerned: these are in force as they are. So a pod
    /// that comes to a workload costs little, whatever its policies have cost.
    fn rules_of_like(&self, endpoint: &Endpoint, concerned: &BTreeSet<AttachmentKey>) -> Option<SharedRules> {
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

    /// The endpoints with rules that have one of these addresses.
    fn owners_of(&self, touched: &BTreeSet<IpNetwork>) -> Vec<AttachmentKey> {
        let has = |addresses: &[std::net::IpAddr]| {
            addresses.iter().any(|ip| touched.contains(&IpNetwork::from(*ip)))
        };
        let owners = self.endpoints.iter().filter(|(_, it)| !it.selecting.is_empty() && has(&it.addresses));
        owners.map(|(key, _)| key.clone()).collect()
    }

    /// Plans the writes: of peers whose class has changed, of maps that do not exist yet, and of endpoints with new rules.
    fn plan(&mut self, Resolved(resolved): &Resolved) -> Result<Plan, Overflow> {
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
        let mut made: HashSet<&SharedRules> = HashSet::new();
        // Rules that many endpoints share are checked once.
        let mut seen: HashSet<*const Hashed> = HashSet::new();
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

    /// Checked before anything is compiled. Number 0 is no rule.
    fn check_rules(&self, limits: Limits) -> Result<(), Overflow> {
        fits("rules (--policy-rules)", self.names.highest() + 1, limits.rules)
    }

    fn wanted_peer(&mut self, net: IpNetwork) -> Option<Peer> {
        let node = is_host(net) && self.node_addresses.contains(&net.ip());
        let known = node || self.derived.classes.is_known(net);
        let class = known.then(|| self.derived.classes.class(net));
        // An address of the class WORLD needs no entry, because no prefix that covers it has another class.
        class
            .filter(|class| node || *class != super::tables::ClassId::WORLD)
            .map(|class| Peer { class, node })
    }

    /// Checks that everything fits, before anything is written.
    fn check(&self, plan: Plan) -> Result<CheckedPlan, Overflow> {
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
        self.check_peers(&plan, limits)?;
        Ok(CheckedPlan(plan))
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

    /// Makes the writes in an order in which no packet sees half of the change.
    fn write(&mut self, CheckedPlan(plan): CheckedPlan) -> Result<Writes, TableError> {
        let Plan { extensions, mut peers, maps, endpoints } = plan;
        let mut writes = Writes { peers: peers.len(), maps: maps.len(), ..Writes::default() };
        for rule in self.names.take_fresh() {
            self.tables.clear_hits(rule)?;
        }
        // No address has the new classes yet.
        for (rules, extension) in extensions {
            let Some(compiled) = self.derived.maps.get_mut(&rules) else { continue };
            if let Some(map) = compiled.map {
                self.tables.extend_map(map, &extension.entries)?;
            }
            writes.entries += extension.entries.len();
            compiled.extended(extension);
        }
        // New entries are written with longer prefixes first, so that a shorter one never decides for an address of a
        // longer one. Removals have the reverse order.
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
        let (mut release_rules, mut concerned) = (Vec::new(), Concerned::nothing());
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
                endpoint.slot.put_posture(&mut *self.tables, posture)?;
                endpoint.posture = Some(posture);
                writes.postures += 1;
                concerned.add(endpoint.addresses.iter().copied().collect());
            }
            if let Some(compiled) = self.derived.maps.get_mut(&rules) {
                compiled.users += 1;
            }
            release_rules.extend(endpoint.rules.replace(rules));
        }
        let policed =
            self.endpoints.values().any(|endpoint| endpoint.posture.is_some_and(|it| it.map.is_some()));
        // The epoch is raised for the addresses of endpoints whose posture changed, and for reclassified addresses of
        // other sides.
        if policed {
            concerned.add(reclassified);
        }
        self.tables.raise_epoch(&concerned)?;
        for rules in release_rules {
            self.release_rules(&rules);
        }
        Ok(writes)
    }

    /// Releases an endpoint's use of these rules; the map of unused rules is retired.
    pub fn release_rules(&mut self, rules: &SharedRules) {
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

/// The policies, if their meaning does not depend on the endpoint.
fn same_for_all(selecting: &Selecting) -> Option<Vec<*const Policy>> {
    let each = selecting.values().map(|policy| policy.says_the_same_to_all().then_some(Arc::as_ptr(policy)));
    each.collect()
}

/// Checks that this many fit.
fn fits(what: &'static str, needed: usize, limit: u32) -> Result<(), Overflow> {
    if needed > limit as usize { Err(Overflow { what, needed, at_least: false, limit }) } else { Ok(()) }
}

/// Whether anything is said of either direction.
fn is_policed(rules: &EndpointRules) -> bool {
    Direction::BOTH.iter().any(|direction| rules.of(*direction).is_policed())
}
