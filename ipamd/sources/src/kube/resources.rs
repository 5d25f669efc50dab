//! The resources of the API that Cambric reads. All of them are listed and watched.

use std::fmt;

use super::types::Type;
use ipamd_model::objects::Kind;

/// A resource of the API.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Resource {
    /// What Cambric knows its objects as.
    pub kind: Kind,
    pub group: &'static str,
    pub version: &'static str,
    /// Versions with the same fields, for servers that do not serve that one.
    pub other_versions: &'static [&'static str],
    /// The name in requests.
    pub plural: &'static str,
    /// Which objects concern Cambric, by their labels.
    pub labels: Option<&'static str>,
    /// The same, by their fields.
    pub fields: Option<&'static str>,
    /// Whether it comes with a CustomResourceDefinition, and may be missing.
    pub optional: bool,
    /// Whether what is in force follows from it. Nothing waits for what is only tried out.
    pub enforced: bool,
}

const fn core(kind: Kind, plural: &'static str) -> Resource {
    Resource {
        kind,
        group: "",
        version: "v1",
        other_versions: &[],
        plural,
        labels: None,
        fields: None,
        optional: false,
        enforced: true,
    }
}

const fn calico(kind: Kind, plural: &'static str) -> Resource {
    Resource { group: "projectcalico.org", version: "v3", optional: true, ..core(kind, plural) }
}

const fn staged(kind: Kind, plural: &'static str) -> Resource {
    Resource { enforced: false, ..calico(kind, plural) }
}

/// All of them.
pub(super) static RESOURCES: [Resource; 17] = [
    core(Kind::Node, "nodes"),
    core(Kind::Namespace, "namespaces"),
    core(Kind::ServiceAccount, "serviceaccounts"),
    // One that has ended has no address any more.
    Resource { fields: Some("status.phase!=Succeeded,status.phase!=Failed"), ..core(Kind::Pod, "pods") },
    // Those of other proxies are not Cambric's; as kube-proxy asks for them.
    Resource { labels: Some("!service.kubernetes.io/service-proxy-name"), ..core(Kind::Service, "services") },
    // Those of headless Services and of other proxies, too: policies may mean their endpoints.
    Resource { group: "discovery.k8s.io", ..core(Kind::EndpointSlice, "endpointslices") },
    Resource { group: "networking.k8s.io", ..core(Kind::NetworkPolicy, "networkpolicies") },
    Resource {
        group: "policy.networking.k8s.io",
        version: "v1beta1",
        other_versions: &["v1alpha2"],
        optional: true,
        ..core(Kind::ClusterNetworkPolicy, "clusternetworkpolicies")
    },
    calico(Kind::Tier, "tiers"),
    calico(Kind::NetworkSet, "networksets"),
    calico(Kind::GlobalNetworkSet, "globalnetworksets"),
    calico(Kind::HostEndpoint, "hostendpoints"),
    calico(Kind::CalicoNetworkPolicy, "networkpolicies"),
    calico(Kind::GlobalNetworkPolicy, "globalnetworkpolicies"),
    staged(Kind::StagedNetworkPolicy, "stagednetworkpolicies"),
    staged(Kind::StagedGlobalNetworkPolicy, "stagedglobalnetworkpolicies"),
    staged(Kind::StagedKubernetesNetworkPolicy, "stagedkubernetesnetworkpolicies"),
];

impl Resource {
    /// The resource of a kind.
    pub fn of(kind: Kind) -> &'static Self {
        // Every kind is in the list, which a test makes sure of.
        RESOURCES.iter().find(|resource| resource.kind == kind).unwrap_or(&RESOURCES[0])
    }

    /// The type of its objects.
    pub fn object(&self) -> Type {
        self.object_in(self.version)
    }

    /// The type of its objects in a version.
    pub fn object_in(&self, version: &str) -> Type {
        // People are told the group of one of two kinds of the same name.
        let kind = self.kind.name().split('.').next().unwrap_or_default();
        match self.group {
            "" => Type::new(kind, version),
            group => Type::new(kind, &format!("{group}/{version}")),
        }
    }

    /// The path of its objects in a version.
    pub fn path_in(&self, version: &str) -> String {
        match self.group {
            "" => format!("/api/{version}/{}", self.plural),
            group => format!("/apis/{group}/{version}/{}", self.plural),
        }
    }

    /// The name of its CustomResourceDefinition, if it has one.
    pub fn definition(&self) -> String {
        format!("{}.{}", self.plural, self.group)
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.group {
            "" => f.write_str(self.plural),
            group => write!(f, "{}.{group}", self.plural),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_resource() {
        for resource in &RESOURCES {
            assert_eq!(Resource::of(resource.kind), resource);
        }
        assert_eq!(Resource::of(Kind::GlobalNetworkSet).definition(), "globalnetworksets.projectcalico.org");
        assert_eq!(Resource::of(Kind::Pod).object(), Type::new("Pod", "v1"));
        let calico = Resource::of(Kind::CalicoNetworkPolicy).object();
        assert_eq!(calico.list(), Type::new("NetworkPolicyList", "projectcalico.org/v3"));
    }
}
