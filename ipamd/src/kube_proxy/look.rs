//! What is there, counted.

use std::{collections::BTreeMap, fmt, fs, io, path::Path};

use nix::net::if_::if_nametoindex;

use super::{ipvs, legacy, names};
use crate::netlink::netfilter::{IPV4, IPV6, Netfilter};

/// Where the kernel keeps rules of iptables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Variant {
    /// In tables of its own.
    Legacy,
    /// In tables of nftables.
    Nft,
}

/// Rules that one pair of programs reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ruleset {
    /// Where they are.
    pub variant: Variant,
    /// IPv6 or IPv4.
    pub ipv6: bool,
}

impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.ipv6 { "ip6tables" } else { "iptables" };
        let variant = match self.variant {
            Variant::Legacy => "legacy",
            Variant::Nft => "nft",
        };
        write!(f, "{family}-{variant}")
    }
}

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
    for (ipv6, family) in [(false, legacy::IPV4), (true, legacy::IPV6)] {
        let ruleset = Ruleset { variant: Variant::Legacy, ipv6 };
        legacy::chains(family, |table, chain| found.count(ruleset, table, chain))?;
    }
    // A kernel without its netlink has none of what is reached by it.
    if let Some(mut netfilter) = absent_is_fine(Netfilter::open().map(Some))? {
        found.look_into(&mut netfilter)?;
    }
    found.interface = if_nametoindex(names::INTERFACE).ok();
    if found.interface.is_some() {
        let services = fs::read_to_string("/proc/thread-self/net/ip_vs").unwrap_or_default();
        found.services = ipvs::services(&services).len();
    }
    Ok(found)
}

/// A kernel without the subsystem has nothing of it. It says so in one of these ways, by its version.
fn absent_is_fine<T: Default>(result: io::Result<T>) -> io::Result<T> {
    use nix::libc::{EINVAL, ENOENT, EOPNOTSUPP, EPROTONOSUPPORT};
    match result {
        Err(error)
            if matches!(error.raw_os_error(), Some(EINVAL | ENOENT | EOPNOTSUPP | EPROTONOSUPPORT)) =>
        {
            Ok(T::default())
        }
        result => result,
    }
}

impl Leftovers {
    fn look_into(&mut self, netfilter: &mut Netfilter) -> io::Result<()> {
        for (ipv6, family) in [(false, IPV4), (true, IPV6)] {
            let ruleset = Ruleset { variant: Variant::Nft, ipv6 };
            absent_is_fine(netfilter.chains(family, |table, chain| self.count(ruleset, table, chain)))?;
            if absent_is_fine(netfilter.has_table(family, names::TABLE))? {
                self.tables.push(ipv6);
            }
        }
        // Asking for sets would load the module.
        if Path::new("/sys/module/ip_set").exists() {
            self.sets = absent_is_fine(netfilter.sets())?;
            self.sets.retain(|name| names::is_set(name));
        }
        Ok(())
    }

    fn count(&mut self, ruleset: Ruleset, table: &str, chain: &str) {
        // The tables of iptables; others of nftables may use the same names.
        if !matches!(table, "nat" | "filter" | "mangle" | "raw") || !names::is_chain(table, chain) {
            return;
        }
        let counts = if names::is_shared(table, chain) { &mut self.shared } else { &mut self.chains };
        *counts.entry(ruleset).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_is_told_in_one_sentence() {
        let mut found = Leftovers::default();
        assert!(found.is_empty());
        let (legacy, nft) = (
            Ruleset { variant: Variant::Legacy, ipv6: false },
            Ruleset { variant: Variant::Nft, ipv6: true },
        );
        found.count(nft, "nat", "KUBE-MARK-MASQ");
        found.count(nft, "filter", "KUBE-FIREWALL");
        found.count(nft, "kube", "KUBE-SERVICES");
        assert!(found.is_empty(), "{found:?}");
        found.count(legacy, "nat", "KUBE-SERVICES");
        assert_eq!(found.to_string(), "1 chain of iptables-legacy");
        found.count(nft, "nat", "KUBE-SERVICES");
        found.count(nft, "filter", "KUBE-SERVICES");
        found.tables = vec![false, true];
        found.sets = vec!["KUBE-CLUSTER-IP".to_owned()];
        (found.interface, found.services) = (Some(7), 3);
        assert_eq!(
            found.to_string(),
            "1 chain of iptables-legacy, 2 chains of ip6tables-nft, the nftables table ip kube-proxy, the nftables table \
             ip6 kube-proxy, 1 ipset and the interface kube-ipvs0 with 3 IPVS services"
        );
    }

    #[test]
    fn looking_needs_no_program_and_does_not_fail() {
        // Without privileges the kernel refuses; nothing else may go wrong.
        if let Err(error) = look() {
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
        }
    }
}
