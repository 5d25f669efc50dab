//! The objects of a cluster as Cambric needs them: small, checked, and the same for every source.

use std::{collections::BTreeMap, fmt::Write as _, net::IpAddr, path::PathBuf, sync::Arc};

use ipamd_api::policy::RefusedObject;
use ipnetwork::IpNetwork;
use serde::Serialize;

pub use crate::{
    id::{Kind, ObjectId, Origin},
    named_port::NamedPort,
};

use crate::{
    domain::DomainPattern,
    field::FieldError,
    host::HostEndpoint,
    labels::Labels,
    policy::{Denied, Policy, Tier},
    services::{EndpointSlice, Service},
    staged::StagedPolicy,
};

/// `v1` Namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: Arc<str>,
    /// `metadata.labels`, without those that follow from the name.
    pub labels: Labels,
    /// What becomes of packets that policy denies at its pods; `None`: what the node says. An error: why its annotation says nothing.
    pub denied: Result<Option<Denied>, FieldError>,
}

/// `v1` Pod. Pods of the host's network have no address of their own and are left out by the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// `metadata.labels`; `None` if the object does not have that field, which leaves a local endpoint's own.
    pub labels: Option<Labels>,
    /// `spec.serviceAccountName`; `default` where none is given.
    pub service_account: Arc<str>,
    /// `status.podIPs`; empty before it has any and once it has ended.
    pub addresses: Vec<IpAddr>,
    /// The named ports of its containers, ordered.
    pub ports: Arc<[NamedPort]>,
}

/// `v1` ServiceAccount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccount {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// `metadata.labels`.
    pub labels: Labels,
}

/// `v1` Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: Arc<str>,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `status.addresses` of the types InternalIP and ExternalIP.
    pub addresses: Vec<IpAddr>,
    /// Those of the type InternalIP, in their order: by which nodes reach each other.
    pub internal: Vec<IpAddr>,
    /// `spec.podCIDRs`: the prefixes that its pods have their addresses from.
    pub pod_cidrs: Vec<IpNetwork>,
}

/// `projectcalico.org/v3` NetworkSet and GlobalNetworkSet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSet {
    /// Its namespace; `None` for a GlobalNetworkSet.
    pub namespace: Option<Arc<str>>,
    /// Its name.
    pub name: Arc<str>,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `spec.nets`.
    pub nets: Vec<IpNetwork>,
    /// `spec.allowedEgressDomains`.
    pub domains: Vec<DomainPattern>,
}

/// One object of the cluster.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// See [`Namespace`].
    Namespace(Namespace),
    /// See [`Pod`].
    Pod(Pod),
    /// See [`ServiceAccount`].
    ServiceAccount(ServiceAccount),
    /// See [`Node`].
    Node(Node),
    /// See [`NetworkSet`].
    NetworkSet(NetworkSet),
    /// See [`HostEndpoint`].
    HostEndpoint(Arc<HostEndpoint>),
    /// See [`Tier`].
    Tier(Tier),
    /// See [`Policy`].
    Policy(Arc<Policy>),
    /// See [`StagedPolicy`].
    Staged(Arc<StagedPolicy>),
    /// See [`Service`].
    Service(Arc<Service>),
    /// See [`EndpointSlice`].
    EndpointSlice(Arc<EndpointSlice>),
}

impl Object {
    /// What tells it from others.
    pub fn id(&self) -> ObjectId {
        let id = |kind, namespace: Option<&Arc<str>>, name: &Arc<str>| ObjectId {
            kind,
            namespace: namespace.cloned(),
            name: Arc::clone(name),
        };
        match self {
            Self::Namespace(it) => id(Kind::Namespace, None, &it.name),
            Self::Pod(it) => id(Kind::Pod, Some(&it.namespace), &it.name),
            Self::ServiceAccount(it) => id(Kind::ServiceAccount, Some(&it.namespace), &it.name),
            Self::Node(it) => id(Kind::Node, None, &it.name),
            Self::NetworkSet(it) => {
                let kind = if it.namespace.is_some() { Kind::NetworkSet } else { Kind::GlobalNetworkSet };
                id(kind, it.namespace.as_ref(), &it.name)
            }
            Self::HostEndpoint(it) => id(Kind::HostEndpoint, None, &it.name),
            Self::Tier(it) => id(Kind::Tier, None, &it.name),
            Self::Policy(it) => it.id.clone(),
            Self::Staged(it) => it.id.clone(),
            Self::Service(it) => id(Kind::Service, Some(&it.namespace), &it.name),
            Self::EndpointSlice(it) => id(Kind::EndpointSlice, Some(&it.namespace), &it.name),
        }
    }
}

/// An object that could not be understood. What was known by its id before stays in force.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, thiserror::Error)]
#[error("{}", self.sentence())]
pub struct Refusal {
    /// The file it was read from.
    pub file: PathBuf,
    /// The line of the field, from 1; 0 for what has no lines.
    pub line: u32,
    /// Which object, as far as that could be read.
    pub object: Option<ObjectId>,
    /// The field, such as `spec.ingress[0].source.selector`; empty for the document as a whole.
    pub field: String,
    /// What is wrong with it: a clause that names the value.
    pub reason: String,
}

impl Refusal {
    fn sentence(&self) -> String {
        let mut sentence = self.file.display().to_string();
        // Writing into a String does not fail.
        if self.line > 0 {
            let _ = write!(sentence, ":{}", self.line);
        }
        sentence.push_str(": ");
        if let Some(object) = &self.object {
            let _ = write!(sentence, "{object}: ");
        }
        if !self.field.is_empty() {
            let _ = write!(sentence, "{}: ", self.field);
        }
        sentence.push_str(&self.reason);
        sentence
    }
}

/// One change of the cluster.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// An object is new or has changed.
    Put(Object),
    /// An object is gone.
    Remove(ObjectId),
}

impl Change {
    /// Of which kind that object is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Remove(id) => id.kind,
            Self::Put(object) => match object {
                Object::Namespace(_) => Kind::Namespace,
                Object::Pod(_) => Kind::Pod,
                Object::ServiceAccount(_) => Kind::ServiceAccount,
                Object::Node(_) => Kind::Node,
                Object::NetworkSet(it) if it.namespace.is_some() => Kind::NetworkSet,
                Object::NetworkSet(_) => Kind::GlobalNetworkSet,
                Object::HostEndpoint(_) => Kind::HostEndpoint,
                Object::Tier(_) => Kind::Tier,
                Object::Policy(it) => it.id.kind,
                Object::Staged(it) => it.id.kind,
                Object::Service(_) => Kind::Service,
                Object::EndpointSlice(_) => Kind::EndpointSlice,
            },
        }
    }

    /// Which object changes.
    pub fn id(&self) -> ObjectId {
        match self {
            Self::Put(object) => object.id(),
            Self::Remove(id) => id.clone(),
        }
    }
}

/// Changes that are taken together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// In their order; the first batch of a source is the whole cluster.
    pub changes: Vec<Change>,
    /// All objects that cannot be understood now; `None` while these have not changed.
    pub refusals: Option<Vec<Refusal>>,
}

impl From<&Refusal> for RefusedObject {
    fn from(refusal: &Refusal) -> Self {
        Self {
            // A name that is no text would not get into JSON.
            file: Some(refusal.file.to_string_lossy().into_owned().into()),
            line: Some(refusal.line).filter(|line| *line > 0),
            object: refusal.object.as_ref().map(Into::into),
            field: refusal.field.clone(),
            reason: refusal.reason.clone(),
            in_force: false,
        }
    }
}

/// All nodes of the cluster by name, this one too.
pub type Nodes = BTreeMap<Arc<str>, Arc<Node>>;
