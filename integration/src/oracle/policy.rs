//! A policy of any kind, and where it stands.

use serde_json::Value;

use super::{
    calico::CalicoPolicy,
    cluster_policy::ClusterNetworkPolicy,
    decision::Decision,
    document::{metadata, namespace, text},
    inventory::{Inventory, Item},
    kubernetes::NetworkPolicy,
    packet::{Direction, Packet},
};

/// A policy.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Name of its tier.
    pub tier: String,
    /// Its place in the tier; `None`: behind those that have one.
    pub order: Option<f64>,
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: Option<String>,
    kind: Kind,
}

/// The kinds, in the order that decides last.
#[derive(Clone, Debug)]
enum Kind {
    Kubernetes(NetworkPolicy),
    Calico(CalicoPolicy),
    Global(CalicoPolicy),
    Cluster(ClusterNetworkPolicy),
}

impl Policy {
    /// Reads a policy.
    ///
    /// # Panics
    /// If it is none.
    pub fn read(document: &Value) -> Self {
        let spec = &document["spec"];
        let calico = || {
            let tier = Some(text(spec, "tier")).filter(|it| !it.is_empty()).unwrap_or("default");
            (tier.to_owned(), spec["order"].as_f64())
        };
        let (api, kind) = (text(document, "apiVersion"), text(document, "kind"));
        let ((tier, order), kind) = match (api, kind) {
            ("networking.k8s.io/v1", "NetworkPolicy") => {
                (("default".to_owned(), Some(1000.0)), Kind::Kubernetes(NetworkPolicy::read(document)))
            }
            ("projectcalico.org/v3", "NetworkPolicy") => {
                (calico(), Kind::Calico(CalicoPolicy::read(document)))
            }
            ("projectcalico.org/v3", "GlobalNetworkPolicy") => {
                (calico(), Kind::Global(CalicoPolicy::read(document)))
            }
            ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy") => {
                let tier = if text(spec, "tier") == "Admin" { "kube-admin" } else { "kube-baseline" };
                let place = (tier.to_owned(), spec["priority"].as_f64());
                (place, Kind::Cluster(ClusterNetworkPolicy::read(document)))
            }
            _ => panic!("{kind} of {api} is no policy"),
        };
        Self {
            tier,
            order,
            name: metadata(document, "name").to_owned(),
            namespace: namespace(document).map(str::to_owned),
            kind,
        }
    }

    /// Where it stands among those of its tier and order.
    pub fn place(&self) -> (&str, Option<&str>, u8) {
        let kind = match self.kind {
            Kind::Kubernetes(_) => 0,
            Kind::Calico(_) => 1,
            Kind::Global(_) => 2,
            Kind::Cluster(_) => 3,
        };
        (&self.name, self.namespace.as_deref(), kind)
    }

    /// Whether it is for a pod, and speaks of the direction.
    pub fn applies_to(&self, inventory: &Inventory, pod: &Item, direction: Direction) -> bool {
        match &self.kind {
            Kind::Kubernetes(it) => it.applies_to(pod, direction),
            Kind::Calico(it) | Kind::Global(it) => it.applies_to(inventory, pod, direction),
            Kind::Cluster(it) => it.applies_to(inventory, pod, direction),
        }
    }

    /// What it says of a packet of a pod that it applies to; `None`: nothing.
    pub fn decide(&self, packet: &Packet<'_>, direction: Direction) -> Option<Decision> {
        match &self.kind {
            Kind::Kubernetes(it) => it.allows(packet, direction).then_some(Decision::Allow),
            Kind::Calico(it) | Kind::Global(it) => it.decide(packet, direction),
            Kind::Cluster(it) => it.decide(packet, direction),
        }
    }
}
