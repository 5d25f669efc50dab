//! The host endpoints of this node: which interface each one stands for, and its policies.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ipamd_api::{AttachmentKey, host as wire, key::is_host_ifname};
use ipamd_datapath::HostLink;
use ipamd_kernel::netlink::{Address, Link};
use ipamd_model::{
    endpoint::Slot,
    host::{Failsafe, HostEndpoint, HostInterface, HostLayer},
    objects::{Change, Kind, Object},
    uplink::OVERLAY,
};
use ipamd_policy::{
    compile::policy_inputs::{HostRole, LocalEndpoint},
    enforce::Enforcer,
};

use crate::remote_nodes::RemoteNodes;

/// The index that stands for what pods send to the node.
const FROM_PODS: u32 = 0;
/// The loopback interface has this index in every network namespace.
const LOOPBACK: u32 = 1;

/// The host endpoints of this node.
#[derive(Debug)]
pub struct HostEndpoints {
    node: Arc<str>,
    failsafe: Arc<Failsafe>,
    policy: Arc<Enforcer>,
    /// Wakes the reconciliation.
    remote_nodes: Arc<RemoteNodes>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Those of this node, by name.
    objects: BTreeMap<Arc<str>, Arc<HostEndpoint>>,
    /// The slots of each one's layers.
    slots: BTreeMap<Arc<str>, BTreeMap<HostLayer, Slot>>,
    /// Whose policies the programs do not ask any more. They are forgotten once the programs know.
    leaving: BTreeMap<Arc<str>, BTreeMap<HostLayer, Slot>>,
    /// The addresses of each one's interfaces, as policy knows them.
    addresses: BTreeMap<Arc<str>, Vec<IpAddr>>,
    /// Why one has no policies, by its name.
    failures: BTreeMap<Arc<str>, String>,
}

/// The interfaces that have policies, and what is wrong with host endpoints.
#[derive(Debug, Default)]
pub struct HostLinks {
    /// For the datapath.
    pub links: Vec<HostLink>,
    /// For people.
    pub endpoints: Vec<wire::HostEndpoint>,
    /// A sentence each.
    pub problems: Vec<String>,
}

impl HostEndpoints {
    /// None yet.
    pub fn new(
        node: &str,
        failsafe: Failsafe,
        policy: Arc<Enforcer>,
        remote_nodes: Arc<RemoteNodes>,
    ) -> Self {
        Self {
            node: node.into(),
            failsafe: Arc::new(failsafe),
            policy,
            remote_nodes,
            state: Mutex::default(),
        }
    }

    /// Takes in what changes say, and returns the names of this node's host endpoints that are concerned.
    fn note(&self, changes: &[Change], state: &mut State) -> BTreeSet<Arc<str>> {
        let mut concerned = BTreeSet::new();
        for change in changes.iter().filter(|change| change.kind() == Kind::HostEndpoint) {
            let name = change.id().name;
            let put = match change {
                Change::Put(Object::HostEndpoint(host)) if host.node == self.node => Some(Arc::clone(host)),
                _ => None,
            };
            let is_other = match put {
                Some(host) => state.objects.insert(Arc::clone(&name), Arc::clone(&host)) != Some(host),
                None => state.objects.remove(&name).is_some(),
            };
            if is_other {
                concerned.insert(name);
            }
        }
        concerned
    }

    /// The endpoints of the first state of the cluster, each with the slot that the programs ask already: `asked`. `interfaces` are
    /// the names and addresses of the node's interfaces.
    pub fn first(
        &self,
        changes: &[Change],
        asked: &BTreeMap<u32, BTreeMap<HostLayer, Slot>>,
        interfaces: &BTreeMap<u32, (String, Vec<IpAddr>)>,
    ) -> Vec<(LocalEndpoint, Option<Slot>)> {
        let mut state = self.state();
        self.note(changes, &mut state);
        let wanted = |host: &HostEndpoint, layer: HostLayer| {
            let of_it = asked.iter().find(|(ifindex, _)| match &host.interface {
                HostInterface::All => **ifindex == FROM_PODS,
                HostInterface::Named(name) => {
                    interfaces.get(*ifindex).is_some_and(|(known, _)| **known == **name)
                }
                HostInterface::ByAddress => interfaces
                    .get(*ifindex)
                    .is_some_and(|(_, own)| host.addresses.iter().any(|address| own.contains(address))),
            });
            of_it.and_then(|(_, slots)| slots.get(&layer).copied())
        };
        let hosts = state.objects.values();
        let all = hosts.flat_map(|host| {
            HostLayer::ALL.map(|layer| (self.endpoint(host, layer, &[]), wanted(host, layer)))
        });
        all.collect()
    }

    /// The slots of these, which are in force.
    pub fn started(&self, slots: &[(AttachmentKey, Slot)]) {
        let mut state = self.state();
        let slots: BTreeMap<_, _> = slots.iter().map(|(key, slot)| (key, *slot)).collect();
        let names: Vec<_> = state.objects.keys().cloned().collect();
        for name in names {
            let of_layer = |layer| {
                let key = self.role_of(&name, layer, false, false).key();
                slots.get(&key).map(|slot| (layer, *slot))
            };
            let of_it: BTreeMap<_, _> = HostLayer::ALL.into_iter().filter_map(of_layer).collect();
            state.slots.insert(name, of_it);
        }
        self.remote_nodes.wake();
    }

    /// Applies changes that policy has taken in.
    pub fn apply(&self, changes: &[Change]) {
        let mut state = self.state();
        let concerned = self.note(changes, &mut state);
        for name in &concerned {
            if let Some(host) = state.objects.get(name).cloned() {
                self.admit(&host, &mut state);
                continue;
            }
            state.failures.remove(name);
            state.addresses.remove(name);
            if let Some(slots) = state.slots.remove(name) {
                state.leaving.insert(Arc::clone(name), slots);
            }
        }
        if !concerned.is_empty() {
            self.remote_nodes.wake();
        }
    }

    fn admit(&self, host: &HostEndpoint, state: &mut State) {
        let mut slots = BTreeMap::new();
        state.failures.remove(&host.name);
        for layer in HostLayer::ALL {
            match self.policy.admit(self.endpoint(host, layer, &[])) {
                Ok(slot) => {
                    slots.insert(layer, slot);
                }
                Err(error) => {
                    let sentence = format!(
                        "HostEndpoint {}: its policy cannot be put in force, so what was in force stays: {error}",
                        host.name
                    );
                    tracing::warn!("{sentence}");
                    state.failures.insert(Arc::clone(&host.name), sentence);
                    return;
                }
            }
        }
        state.leaving.remove(&host.name);
        state.addresses.remove(&host.name);
        state.slots.insert(Arc::clone(&host.name), slots);
    }

    fn role_of(&self, name: &Arc<str>, layer: HostLayer, is_all: bool, allows_by_default: bool) -> HostRole {
        let (name, failsafe) = (Arc::clone(name), Arc::clone(&self.failsafe));
        HostRole { name, layer, is_all, allows_by_default, failsafe }
    }

    fn endpoint(&self, host: &HostEndpoint, layer: HostLayer, addresses: &[IpAddr]) -> LocalEndpoint {
        let is_all = host.interface == HostInterface::All;
        let role = self.role_of(&host.name, layer, is_all, host.allows_by_default);
        LocalEndpoint {
            key: role.key(),
            pod: None,
            labels: BTreeMap::new(),
            addresses: addresses.to_vec(),
            host: Some(role),
        }
    }

    /// Which interfaces have policies now, and what is wrong.
    pub fn links(&self, links: &[Link], addresses: &[Address], uplinks: &BTreeSet<u32>) -> HostLinks {
        let mut state = self.state();
        let mut found =
            HostLinks { problems: state.failures.values().cloned().collect(), ..HostLinks::default() };
        let (mut taken, mut all) = (BTreeMap::<u32, Arc<str>>::new(), None::<Arc<str>>);
        let mut with_addresses = Vec::new();
        for (name, host) in &state.objects {
            let Some(slots) = state.slots.get(name) else { continue };
            let link = match (&host.interface, &all) {
                (HostInterface::All, None) => {
                    all = Some(Arc::clone(name));
                    continue;
                }
                (HostInterface::All, Some(first)) => {
                    found.problems.push(is_taken(name, "interfaceName \"*\"", first));
                    continue;
                }
                _ => match of_host(host, links, addresses) {
                    Ok(link) => link,
                    Err(why) => {
                        found
                            .problems
                            .push(format!("HostEndpoint {name}: {why}, so nothing is policed for it"));
                        continue;
                    }
                },
            };
            if let Some(first) = taken.get(&link.index) {
                found.problems.push(is_taken(name, &format!("the interface {}", link.name), first));
                continue;
            }
            taken.insert(link.index, Arc::clone(name));
            found.links.push(host_link(link, uplinks, slots));
            with_addresses.push((Arc::clone(name), vec![link.index]));
            found.endpoints.push(told(name, [link.name.clone()], false));
        }
        if let Some(name) = all {
            let slots = state.slots.get(&name).cloned().unwrap_or_default();
            let others =
                links.iter().filter(|link| !taken.contains_key(&link.index) && fault(link).is_none());
            let others = others.map(|link| host_link(link, uplinks, &slots)).collect::<Vec<_>>();
            let headless =
                links.iter().filter(|link| link.headless && link.up && !taken.contains_key(&link.index));
            found.problems.extend(headless.filter(|link| link.index != LOOPBACK).map(|link| {
                format!(
                    "HostEndpoint {name}: the interface {} is not policed: it has no Ethernet header",
                    link.name
                )
            }));
            found.endpoints.push(told(&name, others.iter().map(|link| link.ifname.clone()), true));
            with_addresses.push((name, others.iter().map(|link| link.ifindex).collect()));
            found.links.extend(others);
            let local = slots.into_iter().filter(|(layer, _)| *layer == HostLayer::Local).collect();
            found.links.push(HostLink {
                ifindex: FROM_PODS,
                ifname: String::new(),
                is_uplink: false,
                slots: local,
            });
        }
        found.links.sort_unstable_by_key(|link| link.ifindex);
        for (name, indices) in with_addresses {
            let own = addresses.iter().filter(|it| indices.contains(&it.ifindex)).map(|it| it.address);
            self.tell_addresses(&name, own.collect(), &mut state);
        }
        found
    }

    /// Tells policy the addresses of a host endpoint, by which people ask about it.
    fn tell_addresses(&self, name: &Arc<str>, addresses: Vec<IpAddr>, state: &mut State) {
        let Some(host) = state.objects.get(name).cloned() else { return };
        if state.addresses.get(name) == Some(&addresses) {
            return;
        }
        // What is in force does not depend on them, so a failure is nothing but a question that has no answer yet.
        match self.policy.admit(self.endpoint(&host, HostLayer::Local, &addresses)) {
            Ok(_) => drop(state.addresses.insert(Arc::clone(name), addresses)),
            Err(error) => {
                tracing::debug!(host = &**name, %error, "policy does not know the addresses of a host endpoint");
            }
        }
    }

    /// The programs ask only what [`Self::links`] has said: the policies of the others are forgotten.
    pub fn settled(&self) {
        let leaving = std::mem::take(&mut self.state().leaving);
        for (name, slots) in leaving {
            for layer in slots.into_keys() {
                self.policy.dismiss(&self.role_of(&name, layer, false, false).key());
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn told(name: &str, interfaces: impl IntoIterator<Item = String>, polices_pods: bool) -> wire::HostEndpoint {
    wire::HostEndpoint { name: name.to_owned(), interfaces: interfaces.into_iter().collect(), polices_pods }
}

fn is_taken(name: &str, what: &str, first: &str) -> String {
    format!(
        "HostEndpoint {name}: {what} is that of the HostEndpoint {first} already, which counts; remove one of them"
    )
}

/// Why an interface cannot have policies, as a clause; `None`: it can.
fn fault(link: &Link) -> Option<&'static str> {
    if link.index == LOOPBACK {
        Some("is the loopback interface")
    } else if is_host_ifname(&link.name) {
        Some("is a pod's, whose policies are those of the pod")
    } else if link.name == OVERLAY {
        Some("is the overlay's, whose packets are those of pods")
    } else if link.headless {
        Some("has no Ethernet header")
    } else {
        None
    }
}

/// The interface that a host endpoint stands for, if it is not a star.
fn of_host<'a>(host: &HostEndpoint, links: &'a [Link], addresses: &[Address]) -> Result<&'a Link, String> {
    let link = match &host.interface {
        HostInterface::Named(name) => links
            .iter()
            .find(|link| link.is_named(name))
            .ok_or_else(|| format!("this node has no interface {name:?} (interfaceName)"))?,
        HostInterface::All | HostInterface::ByAddress => addresses
            .iter()
            .find(|address| host.addresses.contains(&address.address))
            .and_then(|address| links.iter().find(|link| link.index == address.ifindex))
            .ok_or_else(|| "no interface of this node has one of its expectedIPs".to_owned())?,
    };
    match fault(link) {
        Some(fault) => Err(format!("the interface {} {fault}", link.name)),
        None => Ok(link),
    }
}

fn host_link(link: &Link, uplinks: &BTreeSet<u32>, slots: &BTreeMap<HostLayer, Slot>) -> HostLink {
    HostLink {
        ifindex: link.index,
        ifname: link.name.clone(),
        is_uplink: uplinks.contains(&link.index),
        slots: slots.clone(),
    }
}
