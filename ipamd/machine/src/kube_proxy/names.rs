//! Which names are kube-proxy's.
//!
//! Other agents use the prefix `KUBE-` too: the kubelet (`KUBE-KUBELET-CANARY`, `KUBE-IPTABLES-HINT`, `KUBE-MARK-DROP`,
//! and `KUBE-FIREWALL` of the table filter, which kube-proxy only repeats), and network policy controllers
//! (`KUBE-ROUTER-`, `KUBE-POD-FW-`, `KUBE-NWPLCY-`, sets named `KUBE-SRC-` and `KUBE-DST-`). So these are lists of what the
//! modes of kube-proxy have made since it began, and not a prefix.

/// The table of its mode nftables, one in each family.
pub(super) const TABLE: &str = "kube-proxy";

/// The interface of its mode IPVS, which has the services' addresses.
pub(super) const INTERFACE: &str = "kube-ipvs0";

/// What marks packets that are to be masqueraded.
pub(super) const MARK_MASQ: &str = "KUBE-MARK-MASQ";

/// What masquerades marked packets.
pub(super) const POSTROUTING: &str = "KUBE-POSTROUTING";

/// What the kubelet marks packets by that are to be dropped. Since 1.28 it has none.
pub(super) const MARK_DROP: &str = "KUBE-MARK-DROP";

/// Chains that a built-in chain jumps to.
const ENTRIES: [&str; 14] = [
    "KUBE-SERVICES",
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-NODEPORTS",
    "KUBE-FORWARD",
    "KUBE-PROXY-FIREWALL",
    POSTROUTING,
    "KUBE-NODE-PORT",
    "KUBE-IPVS-FILTER",
    "KUBE-IPVS-OUT-FILTER",
    "KUBE-PORTALS-CONTAINER",
    "KUBE-PORTALS-HOST",
    "KUBE-NODEPORT-CONTAINER",
    "KUBE-NODEPORT-HOST",
    "KUBE-NODEPORT-NON-LOCAL",
];

/// Chains that only chains of its own jump to, or none.
const INNER: [&str; 4] =
    [MARK_MASQ, "KUBE-PROXY-CANARY", "KUBE-SOURCE-RANGES-FIREWALL", "KUBE-LOAD-BALANCER"];

/// Chains of one service or endpoint: behind these, a hash in 16 letters of base 32.
const HASHED: [&str; 6] = ["KUBE-SVC-", "KUBE-SVL-", "KUBE-SEP-", "KUBE-FW-", "KUBE-EXT-", "KUBE-XLB-"];

const HASH: usize = 16;

/// Sets of the mode IPVS, for IPv4 behind `KUBE-`, for IPv6 behind `KUBE-6-`.
const SETS: [&str; 19] = [
    "LOOP-BACK",
    "CLUSTER-IP",
    "EXTERNAL-IP",
    "EXTERNAL-IP-LOCAL",
    "LOAD-BALANCER",
    "LOAD-BALANCER-LOCAL",
    "LOAD-BALANCER-FW",
    "LOAD-BALANCER-SOURCE-IP",
    "LOAD-BALANCER-SOURCE-CIDR",
    "NODE-PORT-TCP",
    "NODE-PORT-LOCAL-TCP",
    "NODE-PORT-UDP",
    "NODE-PORT-LOCAL-UDP",
    "NODE-PORT-SCTP",
    "NODE-PORT-LOCAL-SCTP",
    "NODE-PORT-SCTP-HASH",
    "NODE-PORT-LOCAL-SCTP-HASH",
    "HEALTH-CHECK-NODE-PORT",
    "IPVS-IPS",
];

/// The longest name that a set may have; kube-proxy cuts those of IPv6 to it.
const SET_NAME: usize = 31;

/// Whether a chain of this name in this table is kube-proxy's.
pub(super) fn is_chain(table: &str, name: &str) -> bool {
    let hashed = |prefix: &&str| {
        name.strip_prefix(*prefix).is_some_and(|hash| {
            hash.len() == HASH && hash.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'2'..=b'7'))
        })
    };
    // The older IPVS mode filtered sources in the table nat; in the table filter the name is the kubelet's.
    let older = table == "nat" && name == "KUBE-FIREWALL";
    is_entry(name) || INNER.contains(&name) || HASHED.iter().any(hashed) || older
}

/// Whether kube-proxy has a built-in chain jump to this one of its chains.
pub(super) fn is_entry(name: &str) -> bool {
    ENTRIES.contains(&name)
}

/// Whether a chain that is kube-proxy's may as well have been made by a kubelet older than 1.28, or for portmap.
pub(super) fn is_shared(table: &str, name: &str) -> bool {
    table == "nat" && matches!(name, MARK_MASQ | POSTROUTING)
}

/// Whether a set of this name is kube-proxy's.
pub(super) fn is_set(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("KUBE-") else { return false };
    let cut = |known: &&str| known.get(..SET_NAME - "KUBE-6-".len()).unwrap_or(known).to_owned();
    SETS.contains(&rest)
        || rest.strip_prefix("6-").is_some_and(|rest| SETS.iter().any(|known| cut(known) == rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_of_kube_proxy_are_known_by_name() {
        for name in [
            "KUBE-SERVICES",
            "KUBE-MARK-MASQ",
            "KUBE-PROXY-CANARY",
            "KUBE-SVC-NPX46M4PTMTKRN6Y",
            "KUBE-SEP-AAAAAAAAAAAAAA27",
            "KUBE-XLB-NPX46M4PTMTKRN6Y",
        ] {
            assert!(is_chain("nat", name), "{name}");
        }
        for name in ["KUBE-FORWARD", "KUBE-PROXY-FIREWALL", "KUBE-IPVS-FILTER", "KUBE-NODEPORTS"] {
            assert!(is_chain("filter", name), "{name}");
        }
        assert!(is_chain("mangle", "KUBE-PROXY-CANARY"));
    }

    #[test]
    fn chains_of_others_are_not() {
        for name in [
            "KUBE-KUBELET-CANARY",
            "KUBE-IPTABLES-HINT",
            "KUBE-MARK-DROP",
            "KUBE-FIREWALL",
            "KUBE-ROUTER-INPUT",
            "KUBE-POD-FW-ABCDEFGHIJKLMNOP",
            "KUBE-NWPLCY-DEFAULT",
            "KUBE-SVC-mine",
            "KUBE-SVC-NPX46M4PTMTKRN61",
            "KUBE-SVC-NPX46M4PTMTKRN6YY",
            "KUBE-SERVICES-2",
            "CNI-HOSTPORT-DNAT",
            "cali-INPUT",
            "DOCKER",
            "",
        ] {
            assert!(!is_chain("filter", name), "{name}");
        }
        assert!(is_chain("nat", "KUBE-FIREWALL"));
    }

    #[test]
    fn sets_are_known_in_both_families_and_when_cut() {
        for name in [
            "KUBE-CLUSTER-IP",
            "KUBE-6-CLUSTER-IP",
            "KUBE-LOAD-BALANCER-SOURCE-CIDR",
            "KUBE-6-LOAD-BALANCER-SOURCE-CID",
            "KUBE-6-NODE-PORT-LOCAL-SCTP-HAS",
        ] {
            assert!(is_set(name), "{name}");
            assert!(name.len() <= SET_NAME);
        }
        for name in
            ["KUBE-SRC-ABCDEFGH", "KUBE-DST-ABCDEFGH", "KUBE-6-", "KUBE-", "CLUSTER-IP", "kube-router-pods"]
        {
            assert!(!is_set(name), "{name}");
        }
    }
}
