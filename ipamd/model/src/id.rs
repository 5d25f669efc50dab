//! Ids of objects, and where the objects were read.

use std::{fmt, path::Path, sync::Arc};

use ipamd_api::policy::ObjectName;
use serde::Serialize;

/// The kinds of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Kind {
    /// `v1` Namespace.
    Namespace,
    /// `v1` Pod.
    Pod,
    /// `v1` ServiceAccount.
    ServiceAccount,
    /// `v1` Node.
    Node,
    /// `projectcalico.org/v3` NetworkSet.
    NetworkSet,
    /// `projectcalico.org/v3` GlobalNetworkSet.
    GlobalNetworkSet,
    /// `projectcalico.org/v3` HostEndpoint.
    HostEndpoint,
    /// `projectcalico.org/v3` Tier.
    Tier,
    /// `networking.k8s.io/v1` NetworkPolicy.
    NetworkPolicy,
    /// `projectcalico.org/v3` NetworkPolicy.
    CalicoNetworkPolicy,
    /// `projectcalico.org/v3` GlobalNetworkPolicy.
    GlobalNetworkPolicy,
    /// `policy.networking.k8s.io/v1beta1` or `v1alpha2` ClusterNetworkPolicy.
    ClusterNetworkPolicy,
    /// `projectcalico.org/v3` StagedNetworkPolicy.
    StagedNetworkPolicy,
    /// `projectcalico.org/v3` StagedGlobalNetworkPolicy.
    StagedGlobalNetworkPolicy,
    /// `projectcalico.org/v3` StagedKubernetesNetworkPolicy.
    StagedKubernetesNetworkPolicy,
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
}

impl Kind {
    /// The name that people know it by; of the two kinds of the name NetworkPolicy, Calico's is named
    /// with its group, as `kubectl` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Pod => "Pod",
            Self::ServiceAccount => "ServiceAccount",
            Self::Node => "Node",
            Self::NetworkSet => "NetworkSet",
            Self::GlobalNetworkSet => "GlobalNetworkSet",
            Self::HostEndpoint => "HostEndpoint",
            Self::Tier => "Tier",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::CalicoNetworkPolicy => "NetworkPolicy.projectcalico.org",
            Self::GlobalNetworkPolicy => "GlobalNetworkPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
            Self::StagedNetworkPolicy => "StagedNetworkPolicy",
            Self::StagedGlobalNetworkPolicy => "StagedGlobalNetworkPolicy",
            Self::StagedKubernetesNetworkPolicy => "StagedKubernetesNetworkPolicy",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
        }
    }

    /// Whether objects of this kind are policies, staged ones among them.
    pub fn is_policy(self) -> bool {
        matches!(
            self,
            Self::NetworkPolicy
                | Self::CalicoNetworkPolicy
                | Self::GlobalNetworkPolicy
                | Self::ClusterNetworkPolicy
        ) || self.is_staged()
    }

    /// Whether policies of this kind are tried out and not enforced.
    pub fn is_staged(self) -> bool {
        self.enforced() != self
    }

    /// Of a staged kind, the kind that it stands for; any other kind stands for itself.
    #[must_use]
    pub fn enforced(self) -> Self {
        match self {
            Self::StagedNetworkPolicy => Self::CalicoNetworkPolicy,
            Self::StagedGlobalNetworkPolicy => Self::GlobalNetworkPolicy,
            Self::StagedKubernetesNetworkPolicy => Self::NetworkPolicy,
            other => other,
        }
    }
}

/// What tells one object from another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ObjectId {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; `None` for what the cluster has only one of.
    pub namespace: Option<Arc<str>>,
    /// Its name.
    pub name: Arc<str>,
}

impl ObjectId {
    /// The id of an object in a namespace.
    pub fn namespaced(kind: Kind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: Some(namespace.into()), name: name.into() }
    }

    /// The id of an object of the whole cluster.
    pub fn global(kind: Kind, name: &str) -> Self {
        Self { kind, namespace: None, name: name.into() }
    }

    /// Of a staged policy, the id of the policy that it stands for; any other id is the same.
    #[must_use]
    pub fn enforced(&self) -> Self {
        Self { kind: self.kind.enforced(), ..self.clone() }
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind.name(), self.name),
            None => write!(f, "{} {}", self.kind.name(), self.name),
        }
    }
}

/// Where an object was read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Origin {
    /// The file, or what stands for it.
    pub file: Arc<Path>,
    /// The line that the object begins on, from 1; 0 for what has no lines.
    pub line: u32,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 { write!(f, ":{}", self.line) } else { Ok(()) }
    }
}

impl From<&ObjectId> for ObjectName {
    fn from(id: &ObjectId) -> Self {
        Self {
            kind: id.kind.name().to_owned(),
            namespace: id.namespace.as_deref().map(ToOwned::to_owned),
            name: id.name.to_string(),
        }
    }
}
