//! Counts of kube-proxy's leftovers.

use std::{collections::BTreeMap, fmt, fs, io};

use nix::net::if_::if_nametoindex;

use super::{ipvs, names};
use ipamd_kernel::netfilter::{self, Family, Name, Ruleset};

/// How much of kube-proxy there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Its chains.
    pub chains: BTreeMap<Ruleset, usize>,
    /// Chains that may be its own, or a kubelet's that is older than 1.28: those that mark and masquerade.
    pub shared: BTreeMap<Ruleset, usize>,
    /// Its tables of nftables, by family: IPv6 or not.
    pub tables: Vec<bool>,
    /// Its sets of ipset.
    pub sets: Vec<String>,
    /// The index of its interface.
    pub interface: Option<u32>,
    /// Virtual services of IPVS, if it has the interface.
    pub services: usize,
}

impl Leftovers {
    /// Whether there is nothing that is certainly kube-proxy's.
    pub fn is_empty(&self) -> bool {
        let Self { chains, shared: _, tables, sets, interface, services: _ } = self;
        chains.is_empty() && tables.is_empty() && sets.is_empty() && interface.is_none()
    }
}

impl fmt::Display for Leftovers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted =
            |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        let mut parts = Vec::new();
        for (ruleset, count) in &self.chains {
            parts.push(format!("{} of {ruleset}", counted(*count, "chain")));
        }
        for ipv6 in &self.tables {
            parts.push(format!("the nftables table {}", table(*ipv6)));
        }
        if !self.sets.is_empty() {
            parts.push(counted(self.sets.len(), "ipset"));
        }
        if self.interface.is_some() {
            let services = counted(self.services, "IPVS service");
            parts.push(format!("the interface {} with {services}", names::INTERFACE));
        }
        match parts.split_last() {
            Some((last, [])) => f.write_str(last),
            Some((last, others)) => write!(f, "{} and {last}", others.join(", ")),
            None => f.write_str("nothing"),
        }
    }
}

/// What a table of nftables is called.
pub(super) fn table(ipv6: bool) -> String {
    format!("{} {}", if ipv6 { "ip6" } else { "ip" }, names::TABLE)
}

/// Looks at all of it, in the network namespace of the caller. What this kernel does not have is not there.
pub fn look() -> io::Result<Leftovers> {
    let mut found = Leftovers::default();
    netfilter::names(|name| found.count(name))?;
    found.interface = if_nametoindex(names::INTERFACE).ok();
    if found.interface.is_some() {
        let services = fs::read_to_string("/proc/thread-self/net/ip_vs").unwrap_or_default();
        found.services = ipvs::services(&services).len();
    }
    Ok(found)
}

impl Leftovers {
    fn count(&mut self, name: Name<'_>) {
        match name {
            Name::Chain { ruleset, table, chain } if names::is_chain(table, chain) => {
                let shared = names::is_shared(table, chain);
                let counts = if shared { &mut self.shared } else { &mut self.chains };
                *counts.entry(ruleset).or_default() += 1;
            }
            Name::Table { family: Family::Ip, table: names::TABLE } => self.tables.push(false),
            Name::Table { family: Family::Ip6, table: names::TABLE } => self.tables.push(true),
            Name::Set(set) if names::is_set(set) => self.sets.push(set.to_owned()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipamd_kernel::netfilter::Variant;

    #[test]
    fn what_is_found_is_told_in_one_sentence() {
        let mut found = Leftovers::default();
        assert!(found.is_empty());
        let (legacy, nft) = (
            Ruleset { variant: Variant::Legacy, ipv6: false },
            Ruleset { variant: Variant::Nft, ipv6: true },
        );
        let chain = |ruleset, table, chain| Name::Chain { ruleset, table, chain };
        found.count(chain(nft, "nat", "KUBE-MARK-MASQ"));
        found.count(chain(nft, "filter", "KUBE-FIREWALL"));
        found.count(Name::Table { family: Family::Inet, table: "kube-proxy" });
        found.count(Name::Set("KUBE-SRC-ABCDEFGH"));
        assert!(found.is_empty(), "{found:?}");
        found.count(chain(legacy, "nat", "KUBE-SERVICES"));
        assert_eq!(found.to_string(), "1 chain of iptables-legacy");
        found.count(chain(nft, "nat", "KUBE-SERVICES"));
        found.count(chain(nft, "filter", "KUBE-SERVICES"));
        for family in [Family::Ip, Family::Ip6] {
            found.count(Name::Table { family, table: "kube-proxy" });
        }
        found.count(Name::Set("KUBE-CLUSTER-IP"));
        (found.interface, found.services) = (Some(7), 3);
        assert_eq!(
            found.to_string(),
            "1 chain of iptables-legacy, 2 chains of ip6tables-nft, the nftables table ip kube-proxy, the nftables table \
             ip6 kube-proxy, 1 ipset and the interface kube-ipvs0 with 3 IPVS services"
        );
    }
}
