//! Which kinds of documents are read, which do not concern Cambric, and which must not be ignored silently.

use ipamd_model::objects::Kind;

/// What a document of some kind is to Cambric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Concern {
    /// It is read.
    Read(Kind),
    /// It is of a kind that is read, in a version that is not. Holds the version that is.
    Version(Kind, &'static str),
    /// It decides about traffic in a way that Cambric does not know. Holds what can be done instead, if there is a word for it.
    Foreign(Option<&'static str>),
    /// Its kind is none that its group is known to have: perhaps one that is misspelt.
    Unknown,
    /// It is about something else.
    None,
}

const KUBERNETES: &str = "networking.k8s.io";
const DISCOVERY: &str = "discovery.k8s.io";
const CALICO: &str = "projectcalico.org";
const CALICO_STORED: &str = "crd.projectcalico.org";
const CLUSTER_POLICY: &str = "policy.networking.k8s.io";

/// What a document with this `apiVersion` and `kind` is.
pub(super) fn concern(api_version: &str, kind: &str) -> Concern {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let read = |it, supported: &'static str| {
        if version == supported { Concern::Read(it) } else { Concern::Version(it, supported) }
    };
    match (group, kind) {
        ("", "Namespace") => read(Kind::Namespace, "v1"),
        ("", "Pod") => read(Kind::Pod, "v1"),
        ("", "ServiceAccount") => read(Kind::ServiceAccount, "v1"),
        ("", "Node") => read(Kind::Node, "v1"),
        ("", "Service") => read(Kind::Service, "v1"),
        (DISCOVERY, "EndpointSlice") => read(Kind::EndpointSlice, "v1"),
        (KUBERNETES, "NetworkPolicy") => read(Kind::NetworkPolicy, "v1"),
        ("extensions", "NetworkPolicy") => Concern::Version(Kind::NetworkPolicy, "networking.k8s.io/v1"),
        (KUBERNETES, "Ingress" | "IngressClass" | "IPAddress" | "ServiceCIDR" | "ClusterCIDR") => {
            Concern::None
        }
        (CALICO | CALICO_STORED, _) => match (calico(kind), group) {
            (Some(it), CALICO) => read(it, "v3"),
            (Some(it), _) => read(it, "v1"),
            (None, _)
                if ["Policy", "Set", "Tier", "Profile", "HostEndpoint"]
                    .iter()
                    .any(|it| kind.contains(it)) =>
            {
                Concern::Foreign(instead(kind))
            }
            (None, _) => Concern::None,
        },
        (CLUSTER_POLICY, "ClusterNetworkPolicy") if version == "v1alpha2" => {
            Concern::Read(Kind::ClusterNetworkPolicy)
        }
        (CLUSTER_POLICY, "ClusterNetworkPolicy") => read(Kind::ClusterNetworkPolicy, "v1beta1"),
        (CLUSTER_POLICY, "AdminNetworkPolicy" | "BaselineAdminNetworkPolicy") => {
            Concern::Foreign(Some("a ClusterNetworkPolicy has taken its place"))
        }
        (KUBERNETES | CLUSTER_POLICY, _) => Concern::Unknown,
        _ if kind.ends_with("NetworkPolicy") => Concern::Foreign(None),
        ("cilium.io", "CiliumCIDRGroup") => Concern::Foreign(None),
        _ => Concern::None,
    }
}

/// What to write in place of a kind of Calico's that is not read.
fn instead(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "Profile" => {
            "what its rules say, a GlobalNetworkPolicy says; the labels of namespaces and service accounts are inherited without it"
        }
        _ => return None,
    })
}

fn calico(kind: &str) -> Option<Kind> {
    Some(match kind {
        "NetworkPolicy" => Kind::CalicoNetworkPolicy,
        "GlobalNetworkPolicy" => Kind::GlobalNetworkPolicy,
        "NetworkSet" => Kind::NetworkSet,
        "GlobalNetworkSet" => Kind::GlobalNetworkSet,
        "HostEndpoint" => Kind::HostEndpoint,
        "Tier" => Kind::Tier,
        "StagedNetworkPolicy" => Kind::StagedNetworkPolicy,
        "StagedGlobalNetworkPolicy" => Kind::StagedGlobalNetworkPolicy,
        "StagedKubernetesNetworkPolicy" => Kind::StagedKubernetesNetworkPolicy,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_apart_by_group_and_version() {
        use Concern::{Foreign, None, Read, Unknown, Version};
        for (api_version, kind, concern) in [
            ("v1", "Pod", Read(Kind::Pod)),
            ("v2", "Pod", Version(Kind::Pod, "v1")),
            ("v1", "Service", Read(Kind::Service)),
            ("v1", "Endpoints", None),
            ("discovery.k8s.io/v1", "EndpointSlice", Read(Kind::EndpointSlice)),
            ("discovery.k8s.io/v1beta1", "EndpointSlice", Version(Kind::EndpointSlice, "v1")),
            ("apps/v1", "Deployment", None),
            ("apps/v1", "Pod", None),
            ("networking.k8s.io/v1", "NetworkPolicy", Read(Kind::NetworkPolicy)),
            ("networking.k8s.io/v1beta1", "NetworkPolicy", Version(Kind::NetworkPolicy, "v1")),
            ("extensions/v1beta1", "NetworkPolicy", Version(Kind::NetworkPolicy, "networking.k8s.io/v1")),
            ("networking.k8s.io/v1", "Ingress", None),
            ("networking.k8s.io/v1", "NetworkPolcy", Unknown),
            ("v1", "NetworkPolicy", Foreign(Option::None)),
            ("projectcalico.org/v3", "NetworkPolicy", Read(Kind::CalicoNetworkPolicy)),
            ("crd.projectcalico.org/v1", "GlobalNetworkPolicy", Read(Kind::GlobalNetworkPolicy)),
            ("crd.projectcalico.org/v3", "GlobalNetworkPolicy", Version(Kind::GlobalNetworkPolicy, "v1")),
            ("projectcalico.org/v3", "NetworkSet", Read(Kind::NetworkSet)),
            ("projectcalico.org/v3", "GlobalNetworkSet", Read(Kind::GlobalNetworkSet)),
            ("projectcalico.org/v3", "Tier", Read(Kind::Tier)),
            ("projectcalico.org/v3", "HostEndpoint", Read(Kind::HostEndpoint)),
            ("projectcalico.org/v3", "Profile", Foreign(instead("Profile"))),
            ("projectcalico.org/v3", "StagedNetworkPolicy", Read(Kind::StagedNetworkPolicy)),
            ("crd.projectcalico.org/v1", "StagedNetworkPolicy", Read(Kind::StagedNetworkPolicy)),
            ("projectcalico.org/v3", "StagedGlobalNetworkPolicy", Read(Kind::StagedGlobalNetworkPolicy)),
            (
                "crd.projectcalico.org/v1",
                "StagedKubernetesNetworkPolicy",
                Read(Kind::StagedKubernetesNetworkPolicy),
            ),
            ("projectcalico.org/v3", "IPPool", None),
            ("policy.networking.k8s.io/v1alpha2", "ClusterNetworkPolicy", Read(Kind::ClusterNetworkPolicy)),
            ("policy.networking.k8s.io/v1beta1", "ClusterNetworkPolicy", Read(Kind::ClusterNetworkPolicy)),
            (
                "policy.networking.k8s.io/v1alpha1",
                "ClusterNetworkPolicy",
                Version(Kind::ClusterNetworkPolicy, "v1beta1"),
            ),
            (
                "policy.networking.k8s.io/v1alpha1",
                "AdminNetworkPolicy",
                Foreign(Some("a ClusterNetworkPolicy has taken its place")),
            ),
            ("cilium.io/v2", "CiliumNetworkPolicy", Foreign(Option::None)),
            ("cilium.io/v2", "CiliumClusterwideNetworkPolicy", Foreign(Option::None)),
            ("cilium.io/v2", "CiliumEndpoint", None),
        ] {
            assert_eq!(super::concern(api_version, kind), concern, "{api_version} {kind}");
        }
    }
}
