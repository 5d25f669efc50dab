//! The names by which each network plugin is recognised.
//!
//! Interfaces are known by name and kind: a name alone proves little. Prefixes are those that the plugin itself looks for
//! when it clears up, or all that it has ever made.

use std::fmt;

use ipamd_kernel::netfilter::Family;

/// A network plugin other than Cambric, or several that come together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Plugin {
    Flannel,
    Calico,
    Cilium,
    KubeRouter,
    Weave,
    /// `bridge`, `portmap`, `firewall` and others of the CNI project; Flannel and kube-router have pods made by them.
    Reference,
}

impl Plugin {
    pub(super) const ALL: [Self; 6] =
        [Self::Flannel, Self::Calico, Self::Cilium, Self::KubeRouter, Self::Weave, Self::Reference];

    /// The beginning of a sentence.
    pub(super) fn has_left(self) -> String {
        let verb = if self == Self::Reference { "have" } else { "has" };
        format!("{self} {verb} left")
    }

    /// What all rules of its chains, and all jumps to them, have in them: for `grep -E`.
    pub(super) fn pattern(self) -> &'static str {
        match self {
            Self::Flannel => "FLANNEL-",
            // Some rules outside of its chains have its comment only.
            Self::Calico => "cali[-:]",
            Self::Cilium => "CILIUM_",
            Self::KubeRouter => "KUBE-ROUTER-|KUBE-POD-FW-|KUBE-NWPLCY-",
            Self::Weave => "WEAVE",
            Self::Reference => "CNI-",
        }
    }

    /// What the names of its sets have in front, if it makes any: for `grep -E`.
    pub(super) fn set_pattern(self) -> Option<&'static str> {
        match self {
            Self::Calico => Some("^cali[46]"),
            Self::Cilium => Some("^cilium_"),
            Self::KubeRouter => Some("^(inet6:)?(KUBE-SRC-|KUBE-DST-|KUBE-ROUTER-|kube-router-)"),
            Self::Weave => Some("^weave-"),
            Self::Flannel | Self::Reference => None,
        }
    }

    /// Whose plugin a network configuration names by this type.
    pub(super) fn of_type(kind: &str) -> Option<Self> {
        Some(match kind {
            "flannel" => Self::Flannel,
            "calico" => Self::Calico,
            "cilium-cni" => Self::Cilium,
            "weave-net" => Self::Weave,
            "bridge" | "ptp" | "ipvlan" | "macvlan" => Self::Reference,
            _ => return None,
        })
    }

    /// Whose things are in use where a chain has a plugin of this type.
    pub(super) fn in_a_chain(kind: &str) -> &'static [Self] {
        match kind {
            "flannel" => &[Self::Flannel, Self::Reference],
            "calico" => &[Self::Calico],
            "cilium-cni" => &[Self::Cilium],
            "weave-net" => &[Self::Weave],
            "bridge" | "ptp" | "ipvlan" | "macvlan" | "portmap" | "firewall" => &[Self::Reference],
            _ => &[],
        }
    }

    /// Whose process it is, by its name.
    pub(super) fn of_process(name: &str) -> Option<Self> {
        Some(match name {
            "flanneld" => Self::Flannel,
            "calico-node" | "calico-felix" => Self::Calico,
            "cilium-agent" => Self::Cilium,
            "kube-router" => Self::KubeRouter,
            "weaver" => Self::Weave,
            _ => return None,
        })
    }

    /// Whose interface of the node it is.
    pub(super) fn of_node_interface(name: &str, kind: &str) -> Option<Self> {
        Some(match (name, kind) {
            ("vxlan.calico" | "vxlan-v6.calico", "vxlan")
            | ("wireguard.cali" | "wg-v6.cali", "wireguard")
            | ("bpfin.cali" | "bpfout.cali", "veth")
            | ("tunl0", "ipip") => Self::Calico,
            ("cilium_host" | "cilium_net", "veth")
            | ("cilium_vxlan", "vxlan")
            | ("cilium_geneve", "geneve")
            | ("cilium_wg0", "wireguard") => Self::Cilium,
            ("kube-bridge", "bridge") | ("kube-dummy-if", "dummy") => Self::KubeRouter,
            ("weave", "bridge") | ("vxlan-6784", "vxlan") | ("datapath", "openvswitch") => Self::Weave,
            ("cni0", "bridge") => Self::Reference,
            (name, "vxlan") if is_numbered(name, "flannel.") || is_numbered(name, "flannel-v6.") => {
                Self::Flannel
            }
            ("flannel-wg" | "flannel-wg-v6", "wireguard")
            | ("flannel.ipip", "ipip")
            | ("flannel0", "tun") => Self::Flannel,
            (name, "veth") if name.starts_with("vethwe-") => Self::Weave,
            _ => return None,
        })
    }

    /// Whose pod's interface it is. Those at a bridge are known by the bridge.
    pub(super) fn of_pod_interface(name: &str, kind: &str) -> Option<Self> {
        let hashed = |prefix: &str, digits: usize| {
            name.strip_prefix(prefix)
                .is_some_and(|hash| hash.len() == digits && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
        };
        match kind {
            "veth" | "netkit" if hashed("cali", 11) => Some(Self::Calico),
            "veth" | "netkit" if hashed("lxc", 12) || name == "lxc_health" => Some(Self::Cilium),
            _ => None,
        }
    }

    /// Whose chain of iptables it is.
    pub(super) fn of_chain(name: &str) -> Option<Self> {
        const PREFIXES: [(&str, Plugin); 9] = [
            ("FLANNEL-", Plugin::Flannel),
            ("cali-", Plugin::Calico),
            ("CILIUM_", Plugin::Cilium),
            ("OLD_CILIUM_", Plugin::Cilium),
            ("KUBE-ROUTER-", Plugin::KubeRouter),
            ("KUBE-POD-FW-", Plugin::KubeRouter),
            ("KUBE-NWPLCY-", Plugin::KubeRouter),
            ("WEAVE-", Plugin::Weave),
            ("CNI-", Plugin::Reference),
        ];
        let known = PREFIXES.iter().find(|(prefix, _)| name.starts_with(prefix));
        known.map(|(_, plugin)| *plugin).or((name == "WEAVE").then_some(Self::Weave))
    }

    /// Whose table of nftables it is.
    pub(super) fn of_table(family: Family, name: &str) -> Option<Self> {
        Some(match (family, name) {
            (Family::Ip, "flannel-ipv4") | (Family::Ip6, "flannel-ipv6") => Self::Flannel,
            (Family::Ip | Family::Ip6, "calico") => Self::Calico,
            (Family::Ip | Family::Ip6, "cni_hostport") | (Family::Inet, "cni_plugins_masquerade") => {
                Self::Reference
            }
            _ => return None,
        })
    }

    /// Whose set of ipset it is.
    pub(super) fn of_set(name: &str) -> Option<Self> {
        let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
        if begins(&["cali4", "cali6"]) {
            Some(Self::Calico)
        } else if begins(&["cilium_"]) {
            Some(Self::Cilium)
        } else if begins(&["weave-"]) {
            Some(Self::Weave)
        } else {
            let name = name.strip_prefix("inet6:").unwrap_or(name);
            ["KUBE-SRC-", "KUBE-DST-", "KUBE-ROUTER-", "kube-router-"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
                .then_some(Self::KubeRouter)
        }
    }

    /// Whose program it is, by what the kernel keeps of its name.
    pub(super) fn of_program(name: &str) -> Option<Self> {
        if name.starts_with("cali_") || name.starts_with("calico_") || name.starts_with("xdp_cali") {
            Some(Self::Calico)
        } else if name.starts_with("cil_") {
            Some(Self::Cilium)
        } else {
            None
        }
    }

    /// Who marks routes by this protocol: what it is called, and whose it is. BIRD may be somebody else's as well.
    pub(super) fn of_protocol(protocol: u8) -> Option<(&'static str, Self)> {
        match protocol {
            80 => Some(("80", Self::Calico)),
            12 => Some(("bird", Self::Calico)),
            _ => None,
        }
    }
}

impl fmt::Display for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flannel => "Flannel",
            Self::Calico => "Calico",
            Self::Cilium => "Cilium",
            Self::KubeRouter => "kube-router",
            Self::Weave => "Weave Net",
            Self::Reference => "the reference plugins",
        })
    }
}

fn is_numbered(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix)
        .is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_known_by_name_and_kind() {
        for (name, kind, plugin) in [
            ("flannel.1", "vxlan", Plugin::Flannel),
            ("flannel-v6.4096", "vxlan", Plugin::Flannel),
            ("vxlan.calico", "vxlan", Plugin::Calico),
            ("bpfin.cali", "veth", Plugin::Calico),
            ("tunl0", "ipip", Plugin::Calico),
            ("cilium_host", "veth", Plugin::Cilium),
            ("kube-bridge", "bridge", Plugin::KubeRouter),
            ("weave", "bridge", Plugin::Weave),
            ("vethwe-bridge", "veth", Plugin::Weave),
            ("cni0", "bridge", Plugin::Reference),
        ] {
            assert_eq!(Plugin::of_node_interface(name, kind), Some(plugin), "{name}");
            assert_eq!(Plugin::of_node_interface(name, "macvlan"), None, "{name}");
        }
        for (name, kind) in [
            ("flannel.", "vxlan"),
            ("flannel.x", "vxlan"),
            ("cambric-overlay", "vxlan"),
            ("docker0", "bridge"),
            ("lxcbr0", "bridge"),
            ("eth0", ""),
        ] {
            assert_eq!(Plugin::of_node_interface(name, kind), None, "{name}");
            assert_eq!(Plugin::of_pod_interface(name, kind), None, "{name}");
        }
    }

    #[test]
    fn pods_interfaces_are_told_from_those_of_the_node() {
        assert_eq!(Plugin::of_pod_interface("cali12d4a061371", "veth"), Some(Plugin::Calico));
        assert_eq!(Plugin::of_pod_interface("lxc8d9a0b1c2d3e", "veth"), Some(Plugin::Cilium));
        for (name, kind) in
            [("cali12d4a061371", "bridge"), ("califw", "veth"), ("lxc0", "veth"), ("veth12345678", "veth")]
        {
            assert_eq!(Plugin::of_pod_interface(name, kind), None, "{name}");
        }
    }

    #[test]
    fn chains_tables_and_sets_are_known_by_name() {
        for (name, plugin) in [
            ("FLANNEL-POSTRTG", Plugin::Flannel),
            ("cali-INPUT", Plugin::Calico),
            ("CILIUM_POST_nat", Plugin::Cilium),
            ("KUBE-ROUTER-INPUT", Plugin::KubeRouter),
            ("KUBE-POD-FW-ABCDEFGHIJKLMNOP", Plugin::KubeRouter),
            ("WEAVE-NPC", Plugin::Weave),
            ("WEAVE", Plugin::Weave),
            ("CNI-HOSTPORT-DNAT", Plugin::Reference),
        ] {
            assert_eq!(Plugin::of_chain(name), Some(plugin), "{name}");
        }
        for name in ["INPUT", "KUBE-SERVICES", "KUBE-KUBELET-CANARY", "DOCKER", "calico-dhcp-x", "WEAVER"] {
            assert_eq!(Plugin::of_chain(name), None, "{name}");
        }
        assert_eq!(Plugin::of_table(Family::Ip6, "calico"), Some(Plugin::Calico));
        assert_eq!(Plugin::of_table(Family::Inet, "calico"), None);
        assert_eq!(Plugin::of_table(Family::Ip, "flannel-ipv6"), None);
        for (name, plugin) in [
            ("cali40masq-ipam-pools", Some(Plugin::Calico)),
            ("cali6ts:abc", Some(Plugin::Calico)),
            ("inet6:KUBE-DST-ABCDEFGH", Some(Plugin::KubeRouter)),
            ("KUBE-CLUSTER-IP", None),
            ("calibre", None),
        ] {
            assert_eq!(Plugin::of_set(name), plugin, "{name}");
        }
    }

    #[test]
    fn our_own_programs_are_nobody_elses() {
        for name in ["from_endpoint", "connect4", "sendmsg6", "overlay", "to_network", ""] {
            assert_eq!(Plugin::of_program(name), None, "{name}");
        }
        assert_eq!(Plugin::of_program("calico_connect_"), Some(Plugin::Calico));
        assert_eq!(Plugin::of_program("cil_from_netdev"), Some(Plugin::Cilium));
    }
}
