//! The inputs of policy: the cluster's objects, and the items (pods, network sets) that addresses belong to.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
    sync::Arc,
};

use ipamd_api::AttachmentKey;
use ipnetwork::IpNetwork;

use super::{
    item::{Facts, Item},
    nets::Nets,
    rank::Rank,
    service_endpoints::ServiceEndpoints,
};
use ipamd_addresses::ipam::Pool;
use ipamd_model::{
    domain::DomainPattern,
    field::FieldError,
    host::{Failsafe, HostEndpoint, HostLayer},
    interned::shared,
    labels::Labels,
    objects::{Change, Kind, NamedPort, Namespace, NetworkSet, Node, Object, ObjectId, Pod, ServiceAccount},
    policy::{Denied, Dialect, ItemKinds, ItemSelector, Policy, Scope, Tier},
    selector::Subject,
    staged::StagedPolicy,
};
use ipamd_runtime::work;

/// The namespace of containers that no pod is named for.
pub const BARE_NAMESPACE: &str = "default";
/// The service account of pods that name none.
pub const DEFAULT_SERVICE_ACCOUNT: &str = "default";

/// An endpoint of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalEndpoint {
    /// Its attachment.
    pub key: AttachmentKey,
    /// Its pod, where the runtime names one.
    pub pod: Option<ipamd_api::wire::Pod>,
    /// The labels that it was added with.
    pub labels: BTreeMap<String, String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// What it is of a host endpoint; `None`: it is a container's.
    pub host: Option<HostRole>,
}

/// A layer of a host endpoint of this node. Each is an endpoint of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRole {
    /// The name of the HostEndpoint.
    pub name: Arc<str>,
    /// What is asked about.
    pub layer: HostLayer,
    /// Whether it stands for all interfaces that no other one stands for.
    pub is_all: bool,
    /// Whether what no policy decides is allowed.
    pub allows_by_default: bool,
    /// What no policy can close.
    pub failsafe: Arc<Failsafe>,
}

impl HostRole {
    /// The key of the endpoint: no runtime gives a container such an id.
    pub fn key(&self) -> AttachmentKey {
        AttachmentKey {
            network: String::new(),
            container_id: format!("host endpoint {}", self.name),
            ifname: self.layer.to_string(),
        }
    }
}

impl LocalEndpoint {
    /// The item that it belongs to: its pod, or the host endpoint. A container without a pod counts as a pod of its own.
    pub fn item(&self) -> ObjectId {
        if let Some(host) = &self.host {
            return ObjectId::global(Kind::HostEndpoint, &host.name);
        }
        match &self.pod {
            Some(pod) => ObjectId::namespaced(Kind::Pod, &pod.namespace, &pod.name),
            None => ObjectId::namespaced(Kind::Pod, BARE_NAMESPACE, &self.key.container_id),
        }
    }
}

/// A pod's namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PodKey {
    namespace: Arc<str>,
    name: Arc<str>,
}

impl PodKey {
    fn of(id: &ObjectId) -> Self {
        Self { namespace: id.namespace.clone().unwrap_or_default(), name: Arc::clone(&id.name) }
    }

    fn id(&self) -> ObjectId {
        let (namespace, name) = (Some(Arc::clone(&self.namespace)), Arc::clone(&self.name));
        ObjectId { kind: Kind::Pod, namespace, name }
    }
}

/// What the pods of a workload have in common.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Workload {
    labels: Option<Labels>,
    service_account: Arc<str>,
    ports: Arc<[NamedPort]>,
}

/// What was told of a pod besides its name. This is small, because a cluster may have a hundred thousand pods.
#[derive(Clone, Debug, PartialEq, Eq)]
struct KnownPod {
    workload: Arc<Workload>,
    addresses: Nets,
}

impl KnownPod {
    /// Makes one of a pod. It shares with the pods that were `seen` what it has in common with them.
    fn of(pod: Pod, seen: &mut HashSet<Arc<Workload>>) -> (PodKey, Self) {
        let Pod { namespace, name, labels, service_account, addresses, ports } = pod;
        let addresses = addresses.into_iter().map(IpNetwork::from).collect();
        let workload = shared(seen, &Arc::new(Workload { labels, service_account, ports }));
        (PodKey { namespace, name }, Self { workload, addresses })
    }

    fn object(self, PodKey { namespace, name }: PodKey) -> Object {
        let Workload { labels, service_account, ports } = &*self.workload;
        Object::Pod(Pod {
            namespace,
            name,
            labels: labels.clone(),
            service_account: Arc::clone(service_account),
            addresses: self.addresses.iter().map(|net| net.ip()).collect(),
            ports: Arc::clone(ports),
        })
    }
}

/// Everything that was told of the cluster, as far as policy needs it.
#[derive(Clone, Debug, Default)]
pub struct PolicyInputs {
    namespaces: BTreeMap<Arc<str>, Namespace>,
    accounts: BTreeMap<(Arc<str>, Arc<str>), Labels>,
    pods: BTreeMap<PodKey, KnownPod>,
    workloads: HashSet<Arc<Workload>>,
    nodes: BTreeMap<ObjectId, Node>,
    hosts: BTreeMap<ObjectId, Arc<HostEndpoint>>,
    sets: BTreeMap<ObjectId, NetworkSet>,
    /// Those of them that have DNS names.
    sets_with_names: BTreeSet<ObjectId>,
    tiers: BTreeMap<Arc<str>, Tier>,
    /// All policies, including those whose tier is not known.
    pub policies: BTreeMap<ObjectId, Arc<Policy>>,
    /// The staged policies, from which nothing follows here.
    pub staged: BTreeMap<ObjectId, Arc<StagedPolicy>>,
    /// The EndpointSlices, and which of them count.
    pub service_endpoints: ServiceEndpoints,
    /// The endpoints of this node.
    pub locals: BTreeMap<AttachmentKey, LocalEndpoint>,
    /// The attachments of each pod that has some here.
    by_item: BTreeMap<ObjectId, BTreeSet<AttachmentKey>>,
}

impl PolicyInputs {
    /// Takes in the whole cluster, where nothing is known yet. The tree of the pods, which are many, is built at once: one that is
    /// filled one by one in order is half empty, and making it anew would leave holes in memory.
    pub fn fill(&mut self, changes: Vec<Change>) {
        let mut pods = Vec::new();
        for change in changes {
            match change {
                Change::Put(Object::Pod(pod)) => {
                    let (key, pod) = KnownPod::of(pod, &mut self.workloads);
                    pods.push((key, Some(pod)));
                }
                Change::Remove(id) if id.kind == Kind::Pod => pods.push((PodKey::of(&id), None)),
                Change::Put(object) => drop(self.put(object)),
                Change::Remove(id) => drop(self.remove(&id)),
            }
        }
        // The last change of each pod counts.
        pods.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut last = Vec::with_capacity(pods.len());
        let mut pods = pods.into_iter().peekable();
        while let Some((key, pod)) = pods.next() {
            if pods.peek().is_none_or(|next| next.0 != key) {
                last.extend(pod.map(|pod| (key, pod)));
            }
        }
        self.pods = last.into_iter().collect();
    }

    /// Takes in an object, and returns the one that had its id.
    pub fn put(&mut self, object: Object) -> Option<Object> {
        let id = object.id();
        match object {
            Object::Namespace(it) => self.namespaces.insert(Arc::clone(&it.name), it).map(Object::Namespace),
            Object::ServiceAccount(it) => {
                let key = (it.namespace, it.name);
                let old = self.accounts.insert(key.clone(), it.labels);
                old.map(|labels| account(key, labels))
            }
            Object::Pod(it) => {
                let (key, pod) = KnownPod::of(it, &mut self.workloads);
                let old = self.pods.insert(key.clone(), pod);
                old.map(|old| old.object(key))
            }
            Object::Node(it) => self.nodes.insert(id, it).map(Object::Node),
            Object::NetworkSet(it) => {
                if it.domains.is_empty() {
                    self.sets_with_names.remove(&id);
                } else {
                    self.sets_with_names.insert(id.clone());
                }
                self.sets.insert(id, it).map(Object::NetworkSet)
            }
            Object::HostEndpoint(it) => self.hosts.insert(id, it).map(Object::HostEndpoint),
            Object::Tier(it) => self.tiers.insert(Arc::clone(&it.name), it).map(Object::Tier),
            Object::Policy(it) => {
                let old = self.policies.insert(id, Arc::clone(&it));
                self.service_endpoints.policy_changed(old.as_deref(), Some(&it));
                old.map(Object::Policy)
            }
            Object::Staged(it) => self.staged.insert(id, it).map(Object::Staged),
            Object::EndpointSlice(it) => self.service_endpoints.put(id, it).map(Object::EndpointSlice),
            // Policy is about the endpoints behind a service, not about the service.
            Object::Service(_) => None,
        }
    }

    /// Forgets an object, and returns it.
    pub fn remove(&mut self, id: &ObjectId) -> Option<Object> {
        match id.kind {
            Kind::Namespace => self.namespaces.remove(&id.name).map(Object::Namespace),
            Kind::ServiceAccount => {
                let key = (Arc::clone(id.namespace.as_ref()?), Arc::clone(&id.name));
                let labels = self.accounts.remove(&key)?;
                Some(account(key, labels))
            }
            Kind::Pod => {
                let (key, pod) = self.pods.remove_entry(&PodKey::of(id))?;
                Some(pod.object(key))
            }
            Kind::Node => self.nodes.remove(id).map(Object::Node),
            Kind::NetworkSet | Kind::GlobalNetworkSet => {
                self.sets_with_names.remove(id);
                self.sets.remove(id).map(Object::NetworkSet)
            }
            Kind::HostEndpoint => self.hosts.remove(id).map(Object::HostEndpoint),
            Kind::Tier => self.tiers.remove(&id.name).map(Object::Tier),
            Kind::NetworkPolicy
            | Kind::CalicoNetworkPolicy
            | Kind::GlobalNetworkPolicy
            | Kind::ClusterNetworkPolicy => self.remove_policy(id),
            // Where it is tried out, it is a policy like others.
            Kind::StagedNetworkPolicy
            | Kind::StagedGlobalNetworkPolicy
            | Kind::StagedKubernetesNetworkPolicy => {
                self.staged.remove(id).map(Object::Staged).or_else(|| self.remove_policy(id))
            }
            Kind::EndpointSlice => self.service_endpoints.remove(id).map(Object::EndpointSlice),
            Kind::Service => None,
        }
    }

    fn remove_policy(&mut self, id: &ObjectId) -> Option<Object> {
        let old = self.policies.remove(id)?;
        self.service_endpoints.policy_changed(Some(&old), None);
        Some(Object::Policy(old))
    }

    /// Whether there is an object of that id. Services are not kept here.
    pub fn has(&self, id: &ObjectId) -> bool {
        match id.kind {
            Kind::Namespace => self.namespaces.contains_key(&id.name),
            Kind::ServiceAccount => id.namespace.as_ref().is_some_and(|namespace| {
                self.accounts.contains_key(&(Arc::clone(namespace), Arc::clone(&id.name)))
            }),
            Kind::Pod => self.pods.contains_key(&PodKey::of(id)),
            Kind::Node => self.nodes.contains_key(id),
            Kind::NetworkSet | Kind::GlobalNetworkSet => self.sets.contains_key(id),
            Kind::HostEndpoint => self.hosts.contains_key(id),
            Kind::Tier => self.tiers.contains_key(&id.name),
            Kind::NetworkPolicy
            | Kind::CalicoNetworkPolicy
            | Kind::GlobalNetworkPolicy
            | Kind::ClusterNetworkPolicy => self.policies.contains_key(id),
            Kind::StagedNetworkPolicy
            | Kind::StagedGlobalNetworkPolicy
            | Kind::StagedKubernetesNetworkPolicy => {
                self.staged.contains_key(id) || self.policies.contains_key(id)
            }
            Kind::EndpointSlice => self.service_endpoints.has(id),
            Kind::Service => false,
        }
    }

    /// Takes in a local endpoint, and returns the one that had its key.
    pub fn put_local(&mut self, endpoint: LocalEndpoint) -> Option<LocalEndpoint> {
        let old = self.remove_local(&endpoint.key);
        self.by_item.entry(endpoint.item()).or_default().insert(endpoint.key.clone());
        self.locals.insert(endpoint.key.clone(), endpoint);
        old
    }

    /// Forgets a local endpoint, and returns it.
    pub fn remove_local(&mut self, key: &AttachmentKey) -> Option<LocalEndpoint> {
        let old = self.locals.remove(key)?;
        let item = old.item();
        if let Some(keys) = self.by_item.get_mut(&item) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_item.remove(&item);
            }
        }
        Some(old)
    }

    /// The attachments of a pod on this node.
    pub fn locals_of(&self, item: &ObjectId) -> impl Iterator<Item = &LocalEndpoint> {
        self.by_item.get(item).into_iter().flatten().filter_map(|key| self.locals.get(key))
    }

    /// What a namespace says of packets that are denied at its pods.
    pub fn denied_in(&self, namespace: &str) -> Option<Denied> {
        self.namespaces.get(namespace)?.denied.as_ref().ok().copied().flatten()
    }

    /// The namespaces whose annotation about denied packets says nothing, and why.
    pub fn not_understood(&self) -> impl Iterator<Item = (&str, &FieldError)> {
        self.namespaces.iter().filter_map(|(name, it)| Some((&**name, it.denied.as_ref().err()?)))
    }

    /// A tier, which is declared or built in.
    pub fn tier(&self, name: &str) -> Option<Tier> {
        let declared = self.tiers.get(name).cloned();
        declared.or_else(|| Tier::built_in().into_iter().find(|tier| *tier.name == *name))
    }

    /// The place of a policy. `None` if its tier is not known, so that the policy is not enforced.
    pub fn rank(&self, policy: &Policy) -> Option<Rank> {
        Some(Rank::new(&self.tier(&policy.tier)?, policy))
    }

    /// The places of all policies that are enforced.
    pub fn ranks(&self) -> BTreeMap<ObjectId, Rank> {
        let placed = self.policies.iter().filter_map(|(id, policy)| Some((id.clone(), self.rank(policy)?)));
        placed.collect()
    }

    /// The ids of all items, in order.
    pub fn item_ids(&self) -> Vec<ObjectId> {
        let others = self.by_item.keys().chain(self.nodes.keys()).chain(self.hosts.keys());
        let others = others.chain(self.sets.keys());
        let others = others.chain(self.service_endpoints.item_ids());
        let mut ids: Vec<_> = self.pods.keys().map(PodKey::id).chain(others.cloned()).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// The item of that id, as it is now.
    pub fn item(&self, id: &ObjectId) -> Option<Item> {
        let hosts = |addresses: &[IpAddr]| addresses.iter().copied().map(IpNetwork::from).collect::<Vec<_>>();
        let mut item = match id.kind {
            Kind::Pod => self.pod(id)?,
            Kind::Node => {
                let node = self.nodes.get(id)?;
                let gateways = node.pod_cidrs.iter().filter_map(|cidr| Pool::new("node", *cidr).ok());
                // A node sends through the overlay from its gateway addresses.
                let gateways = gateways.map(|pool| IpNetwork::from(pool.gateway()));
                let nets = hosts(&node.addresses).into_iter().chain(gateways).collect();
                Item { facts: Facts::plain(id, &node.labels), nets }
            }
            Kind::EndpointSlice => self.service_endpoints.item(id)?,
            Kind::HostEndpoint => {
                let host = self.hosts.get(id)?;
                let facts = Facts { ports: Arc::clone(&host.ports), ..Facts::plain(id, &host.labels) };
                Item { facts, nets: hosts(&host.addresses) }
            }
            _ => {
                let set = self.sets.get(id)?;
                Item { facts: Facts::plain(id, &set.labels), nets: set.nets.clone() }
            }
        };
        item.nets.sort_unstable();
        item.nets.dedup();
        Some(item)
    }

    /// The DNS names of the network sets that a selector selects.
    pub fn domains_of<'a>(&'a self, selector: &'a ItemSelector) -> impl Iterator<Item = &'a DomainPattern> {
        let sets = self.sets_with_names.iter().filter_map(|id| Some((id, self.sets.get(id)?)));
        let selected = sets.inspect(|_| work::step(1));
        let selected = selected.filter(|(id, set)| self.selects(selector, &Facts::plain(id, &set.labels)));
        selected.flat_map(|(_, set)| &set.domains)
    }

    /// The labels and the DNS names of a network set that has names.
    pub fn names_of(&self, id: &ObjectId) -> Option<(&Labels, &[DomainPattern])> {
        let set = self.sets.get(id).filter(|set| !set.domains.is_empty())?;
        Some((&set.labels, &set.domains))
    }

    /// Whether a network set of a namespace has DNS names.
    pub fn has_names_in(&self, namespace: &str) -> bool {
        self.sets_with_names.iter().any(|id| id.namespace.as_deref() == Some(namespace))
    }

    fn pod(&self, id: &ObjectId) -> Option<Item> {
        let object = self.pods.get(&PodKey::of(id));
        let local = self.locals_of(id).next();
        if object.is_none() && local.is_none() {
            return None;
        }
        let labels = object
            .and_then(|pod| pod.workload.labels.clone())
            .or_else(|| local.map(|endpoint| Labels::from(&endpoint.labels)))
            .unwrap_or_default();
        let ports = object.map(|pod| Arc::clone(&pod.workload.ports)).unwrap_or_default();
        // For a pod of this node the endpoints are asked, because what the cluster tells of its addresses may be out of date.
        let nets = match local {
            Some(_) => {
                self.locals_of(id).flat_map(|it| it.addresses.iter().copied()).map(IpNetwork::from).collect()
            }
            None => object.map(|pod| pod.addresses.iter().collect()).unwrap_or_default(),
        };
        Some(Item {
            facts: Facts {
                kind: Kind::Pod,
                namespace: id.namespace.clone(),
                labels,
                service_account: Some(object.map_or_else(
                    || DEFAULT_SERVICE_ACCOUNT.into(),
                    |pod| Arc::clone(&pod.workload.service_account),
                )),
                ports,
            },
            nets,
        })
    }

    /// Whether an item of these facts is among those that a selector means.
    pub fn selects(&self, selector: &ItemSelector, facts: &Facts) -> bool {
        let kind = match selector.kinds {
            ItemKinds::Pods => facts.kind == Kind::Pod,
            ItemKinds::PodsAndHosts => matches!(facts.kind, Kind::Pod | Kind::HostEndpoint),
            ItemKinds::PodsAndNetworkSets => !matches!(facts.kind, Kind::Node | Kind::EndpointSlice),
            ItemKinds::Nodes => facts.kind == Kind::Node,
            ItemKinds::ServiceEndpoints => facts.kind == Kind::EndpointSlice,
        };
        if !kind || !selector.labels.matches(&OwnLabels { facts, inputs: self, dialect: selector.dialect }) {
            return false;
        }
        facts.kind == Kind::Node
            || (self.means(selector, facts.namespace.as_ref()) && self.account_matches(selector, facts))
    }

    /// Whether items of a namespace, or of none, can be among those that a selector means.
    pub fn means(&self, selector: &ItemSelector, namespace: Option<&Arc<str>>) -> bool {
        match &selector.scope {
            Scope::Any => true,
            Scope::Namespace(name) => namespace.is_some_and(|namespace| **namespace == **name),
            Scope::Matching(namespaces) => namespaces.matches_namespace(&NamespaceLabels {
                name: namespace.map(|namespace| &**namespace),
                labels: namespace.and_then(|name| self.namespaces.get(name)).map(|it| &it.labels),
            }),
        }
    }

    fn account_matches(&self, selector: &ItemSelector, facts: &Facts) -> bool {
        if selector.service_account_names.is_none() && selector.service_accounts.is_none() {
            return true;
        }
        let (Some(namespace), Some(account)) = (&facts.namespace, &facts.service_account) else {
            return false;
        };
        let named = selector.service_account_names.as_ref().is_none_or(|names| names.contains(account));
        named
            && selector.service_accounts.as_ref().is_none_or(|labels| {
                let found = self.accounts.get(&(Arc::clone(namespace), Arc::clone(account)));
                labels.matches(&AccountLabels { name: account, labels: found })
            })
    }
}

fn account((namespace, name): (Arc<str>, Arc<str>), labels: Labels) -> Object {
    Object::ServiceAccount(ServiceAccount { namespace, name, labels })
}

/// The labels of an item: those that it has, and those that follow from what it is.
struct OwnLabels<'a> {
    facts: &'a Facts,
    inputs: &'a PolicyInputs,
    /// Whose selector asks.
    dialect: Dialect,
}

impl OwnLabels<'_> {
    /// A label that an item inherits, as Calico names it: `pcns.KEY` is the label KEY of the namespace, `pcsa.KEY` that of a pod's
    /// service account.
    fn inherited(&self, key: &str) -> Option<&str> {
        if self.dialect != Dialect::Calico {
            return None;
        }
        let namespace = self.facts.namespace.as_ref()?;
        if let Some(key) = key.strip_prefix("pcns.") {
            let labels = self.inputs.namespaces.get(namespace).map(|it| &it.labels);
            return namespace_label(Some(namespace), labels, key);
        }
        let key = key.strip_prefix("pcsa.")?;
        let account = self.facts.service_account.as_ref()?;
        let labels = self.inputs.accounts.get(&(Arc::clone(namespace), Arc::clone(account)));
        account_label(account, labels, key)
    }
}

impl Subject for OwnLabels<'_> {
    fn label(&self, key: &str) -> Option<&str> {
        let facts = self.facts;
        match key {
            "projectcalico.org/namespace" => facts.namespace.as_deref(),
            "projectcalico.org/serviceaccount" => facts.service_account.as_deref(),
            "projectcalico.org/orchestrator" if facts.kind == Kind::Pod => Some("k8s"),
            // A label of its own counts before one that it inherits.
            _ => facts.labels.get(key).or_else(|| self.inherited(key)),
        }
    }
}

fn namespace_label<'a>(name: Option<&'a str>, labels: Option<&'a Labels>, key: &str) -> Option<&'a str> {
    match key {
        "kubernetes.io/metadata.name" | "projectcalico.org/name" => name,
        _ => labels?.get(key),
    }
}

fn account_label<'a>(name: &'a str, labels: Option<&'a Labels>, key: &str) -> Option<&'a str> {
    match key {
        "projectcalico.org/name" => Some(name),
        _ => labels?.get(key),
    }
}

struct NamespaceLabels<'a> {
    name: Option<&'a str>,
    labels: Option<&'a Labels>,
}

impl Subject for NamespaceLabels<'_> {
    fn label(&self, key: &str) -> Option<&str> {
        namespace_label(self.name, self.labels, key)
    }

    fn in_namespace(&self) -> bool {
        self.name.is_some()
    }
}

struct AccountLabels<'a> {
    name: &'a str,
    labels: Option<&'a Labels>,
}

impl Subject for AccountLabels<'_> {
    fn label(&self, key: &str) -> Option<&str> {
        account_label(self.name, self.labels, key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_whole_cluster_the_last_word_counts() {
        let pod = |name: &str, account: &str| {
            Change::Put(Object::Pod(Pod {
                namespace: "ns".into(),
                name: name.into(),
                labels: None,
                service_account: account.into(),
                addresses: Vec::new(),
                ports: Arc::new([]),
            }))
        };
        let gone = |name: &str| Change::Remove(ObjectId::namespaced(Kind::Pod, "ns", name));
        let space = Change::Put(Object::Namespace(Namespace {
            name: "ns".into(),
            labels: Labels::default(),
            denied: Ok(None),
        }));
        let changes =
            vec![pod("b", "x"), pod("a", "x"), gone("a"), space, pod("c", "x"), pod("b", "y"), gone("d")];
        let (mut filled, mut one_by_one) = (PolicyInputs::default(), PolicyInputs::default());
        filled.fill(changes.clone());
        for change in changes {
            match change {
                Change::Put(object) => drop(one_by_one.put(object)),
                Change::Remove(id) => drop(one_by_one.remove(&id)),
            }
        }
        assert_eq!((&filled.pods, &filled.namespaces), (&one_by_one.pods, &one_by_one.namespaces));
        let accounts: Vec<_> =
            filled.pods.iter().map(|(key, pod)| (&*key.name, &*pod.workload.service_account)).collect();
        assert_eq!(accounts, [("b", "y"), ("c", "x")]);
    }
}
