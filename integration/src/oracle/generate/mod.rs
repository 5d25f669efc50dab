//! Random clusters, small and crowded: pods of few labels, policies of all kinds over them.

mod calico;
mod cluster_policy;
mod kubernetes;
mod pods;
mod pools;
mod questions;
mod story;

use std::{collections::BTreeSet, fmt, net::IpAddr};

use proptest::{collection::vec, prelude::*, sample::select, strategy::Union};
use serde_json::{Value, json};

use self::pools::{ACCOUNTS, NAMESPACES, NETS4, NETS6, at_times, labels, object};
pub use self::{
    questions::Questions,
    story::{Step, story},
};
use super::{cluster::Local, document::text};

/// A cluster as its sources tell it.
#[derive(Clone)]
pub struct Scene {
    /// Its documents, each id once.
    pub documents: Vec<Value>,
    /// The endpoints of this node.
    pub locals: Vec<Local>,
    /// The addresses of this node.
    pub node_addresses: Vec<IpAddr>,
}

/// A line for each thing.
impl fmt::Debug for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.documents.iter().try_for_each(|document| writeln!(f, "{document}"))?;
        self.locals.iter().try_for_each(|local| writeln!(f, "{local:?}"))?;
        writeln!(f, "node: {:?}", self.node_addresses)
    }
}

impl Scene {
    /// A scene in which each thing is there once: of several, the first.
    fn new(documents: Vec<Value>, locals: Vec<Local>, node_addresses: Vec<IpAddr>) -> Self {
        let mut seen = BTreeSet::new();
        let documents = documents.into_iter().filter(|document| seen.insert(id(document))).collect();
        Self { documents, locals, node_addresses }
    }
}

/// What tells a document from others.
pub fn id(document: &Value) -> [String; 4] {
    let metadata = &document["metadata"];
    [
        text(document, "apiVersion"),
        text(document, "kind"),
        text(metadata, "namespace"),
        text(metadata, "name"),
    ]
    .map(str::to_owned)
}

/// A random cluster with up to so many policies.
pub fn scene(policies: usize) -> BoxedStrategy<Scene> {
    let documents = (
        vec(namespace(), 2..=4),
        vec(account(), 0..=4),
        vec(network_set(), 0..=2),
        vec(tier(), 0..=2),
        vec(policy(), 1..=policies),
    )
        .prop_map(|(namespaces, accounts, sets, tiers, policies)| {
            [namespaces, accounts, sets, tiers, policies].concat()
        });
    (documents, pods::pods(), pods::nodes())
        .prop_map(|(documents, (pods, locals), (nodes, own))| {
            Scene::new([documents, pods, nodes].concat(), locals, own)
        })
        .boxed()
}

/// A policy of any kind.
pub fn policy() -> BoxedStrategy<Value> {
    prop_oneof![
        5 => kubernetes::network_policy(),
        6 => calico::calico_policy(),
        3 => cluster_policy::cluster_network_policy(),
    ]
    .boxed()
}

/// Anything of which a cluster has several and which may come and go, but for pods.
pub fn document() -> BoxedStrategy<Value> {
    prop_oneof![2 => namespace(), 1 => account(), 2 => network_set(), 1 => tier(), 6 => policy()].boxed()
}

/// A pod of this node or of another, as the cluster tells it, and the endpoint that it has here.
pub fn pod() -> BoxedStrategy<(Option<Value>, Option<Local>)> {
    (0..NAMESPACES.len(), 0..pools::PODS.len())
        .prop_flat_map(|(namespace, pod)| pods::pod(namespace, pod))
        .boxed()
}

/// Few names, so that ties are decided by what comes after the name.
fn policy_name() -> BoxedStrategy<String> {
    select(&["first", "second", "third", "fourth"][..]).prop_map(str::to_owned).boxed()
}

fn namespace() -> BoxedStrategy<Value> {
    (select(&NAMESPACES[..]), labels())
        .prop_map(|(name, labels)| {
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        })
        .boxed()
}

fn account() -> BoxedStrategy<Value> {
    (select(&NAMESPACES[..]), select(&ACCOUNTS[..]), labels())
        .prop_map(|(namespace, name, labels)| {
            json!({
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": {"namespace": namespace, "name": name, "labels": labels},
            })
        })
        .boxed()
}

fn network_set() -> BoxedStrategy<Value> {
    let nets = select([&NETS4[..], &NETS6[..]].concat());
    (prop::option::of(select(&NAMESPACES[..])), select(&["near", "far"][..]), labels(), vec(nets, 0..=3))
        .prop_map(|(namespace, name, labels, nets)| {
            json!({
                "apiVersion": "projectcalico.org/v3",
                "kind": if namespace.is_some() { "NetworkSet" } else { "GlobalNetworkSet" },
                "metadata": object([
                    ("namespace", namespace.map(Value::from)),
                    ("name", Some(json!(name))),
                    ("labels", Some(labels)),
                ]),
                "spec": {"nets": nets},
            })
        })
        .boxed()
}

/// Their names are before that of the tier `default` and behind it, for ties.
fn tier() -> BoxedStrategy<Value> {
    let orders = [10.0, 1_000.0, 5_000.0, 1_000_000.0, 2_000_000.0, 10_000_000.0, 20_000_000.0];
    let action = Union::new([Just("Deny").boxed(), Just("Pass").boxed()]);
    (
        select(&["apple", "zebra"][..]),
        at_times(85, select(orders.to_vec()).prop_map(Value::from)),
        at_times(70, action.prop_map(Value::from)),
    )
        .prop_map(|(name, order, action)| {
            json!({
                "apiVersion": "projectcalico.org/v3",
                "kind": "Tier",
                "metadata": {"name": name},
                "spec": object([("order", order), ("defaultAction", action)]),
            })
        })
        .boxed()
}
