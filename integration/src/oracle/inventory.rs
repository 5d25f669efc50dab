//! Whom an address belongs to: what a cluster's documents and the endpoints of this node tell of pods, sets and nodes.

use std::{collections::BTreeMap, net::IpAddr};

use serde_json::Value;

use super::{
    document::{field, labels, list, metadata, namespace, text, texts},
    endpoint_slice::EndpointSlice,
    net::Net,
    selector::{Labels, Selector},
};

/// What an address can belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ItemKind {
    /// A pod.
    Pod,
    /// A network set, of a namespace or of none.
    NetworkSet,
    /// A node.
    Node,
}

/// A named port of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// IP protocol number.
    pub protocol: u8,
    /// Its number.
    pub number: u16,
}

/// Something that addresses belong to.
#[derive(Clone, Debug)]
pub struct Item {
    /// What it is.
    pub kind: ItemKind,
    /// Its namespace.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Its labels, those among them that nobody writes.
    pub labels: Labels,
    /// Whether a document says what labels it has.
    labelled: bool,
    /// A pod's service account.
    pub account: Option<String>,
    /// Its addresses.
    pub nets: Vec<Net>,
    /// Its named ports.
    pub ports: Vec<Port>,
    /// A network set's DNS names.
    pub domains: Vec<String>,
}

/// An endpoint of this node: what the container runtime told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// Its container.
    pub container: String,
    /// Namespace and name of its pod, if the runtime named one.
    pub pod: Option<(String, String)>,
    /// The labels that the runtime told.
    pub labels: Labels,
    /// Its addresses, one of a family at most.
    pub addresses: Vec<IpAddr>,
}

impl Local {
    /// Namespace and name of what counts as its pod.
    pub fn identity(&self) -> (String, String) {
        self.pod.clone().unwrap_or_else(|| ("default".to_owned(), self.container.clone()))
    }
}

/// Everything that addresses belong to, with the labels of namespaces and service accounts.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    namespaces: BTreeMap<String, Labels>,
    accounts: BTreeMap<(String, String), Labels>,
    /// Everything that addresses belong to.
    pub items: Vec<Item>,
    /// Where Services lead.
    pub slices: Vec<EndpointSlice>,
}

impl Inventory {
    /// Reads a document. Returns whether it is of a kind that this is made of.
    pub fn read(&mut self, document: &Value) -> bool {
        let name = || metadata(document, "name").to_owned();
        match text(document, "kind") {
            "Namespace" => {
                self.namespaces.insert(name(), labels(&document["metadata"], "labels"));
            }
            "ServiceAccount" => {
                let key = (metadata(document, "namespace").to_owned(), name());
                self.accounts.insert(key, labels(&document["metadata"], "labels"));
            }
            "Pod" => self.items.push(pod(document)),
            "Node" => self.items.push(node(document)),
            "NetworkSet" | "GlobalNetworkSet" => self.items.push(network_set(document)),
            "EndpointSlice" => self.slices.push(EndpointSlice::read(document)),
            _ => return false,
        }
        true
    }

    /// Adds this node's endpoints.
    pub fn add_locals<'a>(&mut self, locals: impl IntoIterator<Item = &'a Local>) {
        let mut pods = BTreeMap::<_, Vec<&Local>>::new();
        for local in locals {
            pods.entry(local.identity()).or_default().push(local);
        }
        for (identity, locals) in pods {
            self.add_local(identity, &locals);
        }
    }

    /// What the runtime says of addresses holds; of labels, what the cluster says, if it says anything.
    fn add_local(&mut self, (namespace, name): (String, String), locals: &[&Local]) {
        let nets = locals.iter().flat_map(|local| &local.addresses).copied().map(Net::of).collect();
        let told = locals.iter().flat_map(|local| local.labels.clone());
        let is_its = |item: &&mut Item| {
            item.kind == ItemKind::Pod && item.namespace.as_ref() == Some(&namespace) && item.name == name
        };
        if let Some(item) = self.items.iter_mut().find(is_its) {
            item.nets = nets;
            if !item.labelled {
                let implied = std::mem::take(&mut item.labels);
                item.labels = told.chain(implied).collect();
            }
            return;
        }
        let mut labels = told.collect();
        imply(&mut labels, &namespace, Some("default"));
        self.items.push(Item {
            kind: ItemKind::Pod,
            namespace: Some(namespace),
            name,
            labels,
            labelled: false,
            account: Some("default".to_owned()),
            nets,
            ports: Vec::new(),
            domains: Vec::new(),
        });
    }

    /// Everything that an address belongs to.
    pub fn owners(&self, address: IpAddr) -> Vec<&Item> {
        self.items.iter().filter(|item| item.nets.iter().any(|net| net.has(address))).collect()
    }

    /// The pod of that namespace and name.
    pub fn pod(&self, (namespace, name): &(String, String)) -> Option<&Item> {
        self.items.iter().find(|item| {
            item.kind == ItemKind::Pod && item.namespace.as_ref() == Some(namespace) && item.name == *name
        })
    }

    /// Whether a namespace is among those that a selector takes in; `None` stands for what belongs to none.
    pub fn takes_in(&self, selector: &Selector, namespace: Option<&str>) -> bool {
        let labels = namespace.map(|name| {
            let mut labels = self.namespaces.get(name).cloned().unwrap_or_default();
            for key in ["kubernetes.io/metadata.name", "projectcalico.org/name"] {
                labels.insert(key.to_owned(), name.to_owned());
            }
            labels
        });
        selector.takes_in(labels.as_ref())
    }

    /// Whether an item is a pod whose service account a selector matches.
    pub fn account_matches(&self, selector: &Selector, item: &Item) -> bool {
        let (Some(namespace), Some(account)) = (&item.namespace, &item.account) else { return false };
        let mut labels =
            self.accounts.get(&(namespace.clone(), account.clone())).cloned().unwrap_or_default();
        labels.insert("projectcalico.org/name".to_owned(), account.clone());
        selector.matches(&labels)
    }

    /// Whether a selector of Calico matches an item: by its labels, and by those that it inherits from its namespace (`pcns.`) and its
    /// service account (`pcsa.`).
    pub fn calico_matches(&self, selector: &Selector, item: &Item) -> bool {
        let mut labels = Labels::new();
        if let Some(namespace) = &item.namespace {
            let inherited = self.namespaces.get(namespace).into_iter().flatten();
            labels.extend(inherited.map(|(key, value)| (format!("pcns.{key}"), value.clone())));
            for key in ["kubernetes.io/metadata.name", "projectcalico.org/name"] {
                labels.insert(format!("pcns.{key}"), namespace.clone());
            }
        }
        if let (Some(namespace), Some(account)) = (&item.namespace, &item.account) {
            let inherited = self.accounts.get(&(namespace.clone(), account.clone())).into_iter().flatten();
            labels.extend(inherited.map(|(key, value)| (format!("pcsa.{key}"), value.clone())));
            labels.insert("pcsa.projectcalico.org/name".to_owned(), account.clone());
        }
        labels.extend(item.labels.clone());
        selector.matches(&labels)
    }

    /// Whether an item is a pod that two Kubernetes selectors select.
    pub fn pod_matches(&self, namespaces: &Selector, pods: &Selector, item: &Item) -> bool {
        item.kind == ItemKind::Pod
            && self.takes_in(namespaces, item.namespace.as_deref())
            && pods.matches(&item.labels)
    }
}

/// The labels that follow from what something is.
fn imply(labels: &mut Labels, namespace: &str, account: Option<&str>) {
    labels.insert("projectcalico.org/namespace".to_owned(), namespace.to_owned());
    if let Some(account) = account {
        labels.insert("projectcalico.org/serviceaccount".to_owned(), account.to_owned());
        labels.insert("projectcalico.org/orchestrator".to_owned(), "k8s".to_owned());
    }
}

/// Pods on the host's network and those that have ended have no address of their own.
fn pod(document: &Value) -> Item {
    let (spec, status) = (&document["spec"], &document["status"]);
    let namespace = metadata(document, "namespace").to_owned();
    let account = Some(text(spec, "serviceAccountName")).filter(|it| !it.is_empty()).unwrap_or("default");
    let mut own = labels(&document["metadata"], "labels");
    imply(&mut own, &namespace, Some(account));
    let ended = ["Succeeded", "Failed"].contains(&text(status, "phase"));
    let addressless = ended || spec["hostNetwork"] == true;
    let addresses = list(status, "podIPs").iter().map(|it| text(it, "ip"));
    let nets = addresses.filter(|_| !addressless).filter_map(Net::read).collect();
    let ports = list(spec, "containers").iter().flat_map(|container| list(container, "ports"));
    Item {
        kind: ItemKind::Pod,
        namespace: Some(namespace),
        name: metadata(document, "name").to_owned(),
        labels: own,
        labelled: field(&document["metadata"], "labels").is_some(),
        account: Some(account.to_owned()),
        nets,
        ports: ports.filter_map(named_port).collect(),
        domains: Vec::new(),
    }
}

fn named_port(document: &Value) -> Option<Port> {
    let name = field(document, "name")?.as_str()?.to_owned();
    let protocol = field(document, "protocol").map_or(6, super::document::protocol);
    Some(Port { name, protocol, number: super::document::port(&document["containerPort"])? })
}

fn node(document: &Value) -> Item {
    let addresses = list(&document["status"], "addresses").iter();
    let reachable = addresses.filter(|it| ["InternalIP", "ExternalIP"].contains(&text(it, "type")));
    Item {
        kind: ItemKind::Node,
        namespace: None,
        name: metadata(document, "name").to_owned(),
        labels: labels(&document["metadata"], "labels"),
        labelled: true,
        account: None,
        nets: reachable.filter_map(|it| Net::read(text(it, "address"))).collect(),
        ports: Vec::new(),
        domains: Vec::new(),
    }
}

fn network_set(document: &Value) -> Item {
    let namespace = namespace(document).map(str::to_owned);
    let mut own = labels(&document["metadata"], "labels");
    if let Some(namespace) = &namespace {
        imply(&mut own, namespace, None);
    }
    Item {
        kind: ItemKind::NetworkSet,
        namespace,
        name: metadata(document, "name").to_owned(),
        labels: own,
        labelled: true,
        account: None,
        nets: texts(&document["spec"], "nets").into_iter().filter_map(Net::read).collect(),
        ports: Vec::new(),
        domains: texts(&document["spec"], "allowedEgressDomains").into_iter().map(str::to_owned).collect(),
    }
}
