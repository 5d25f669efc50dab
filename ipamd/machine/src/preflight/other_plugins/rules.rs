//! Chains of iptables, tables of nftables and sets of ipset that another network plugin has left.

use std::{collections::BTreeMap, io};

use super::{
    phrases::{counted, in_words, once_gone},
    plugin::Plugin,
};
use crate::preflight::finding::Finding;
use ipamd_kernel::netfilter::{self, Family, Name, Ruleset};

pub(super) const NAME: &str = "rules";

pub(super) fn check() -> io::Result<Vec<(Plugin, Finding)>> {
    let mut found = Rules::default();
    netfilter::names(|name| found.count(name))?;
    Ok(judge(&found))
}

/// How much there is of whom.
#[derive(Clone, Debug, Default)]
struct Rules(BTreeMap<Plugin, OfPlugin>);

#[derive(Clone, Debug, Default)]
struct OfPlugin {
    chains: BTreeMap<Ruleset, usize>,
    tables: Vec<(Family, String)>,
    sets: usize,
}

impl Rules {
    fn count(&mut self, name: Name<'_>) {
        let plugin = match name {
            Name::Chain { chain, .. } => Plugin::of_chain(chain),
            Name::Table { family, table } => Plugin::of_table(family, table),
            Name::Set(set) => Plugin::of_set(set),
        };
        let Some(plugin) = plugin else { return };
        let of_plugin = self.0.entry(plugin).or_default();
        match name {
            Name::Chain { ruleset, .. } => *of_plugin.chains.entry(ruleset).or_default() += 1,
            Name::Table { family, table } => of_plugin.tables.push((family, table.to_owned())),
            Name::Set(_) => of_plugin.sets += 1,
        }
    }
}

fn judge(found: &Rules) -> Vec<(Plugin, Finding)> {
    let finding = |(plugin, OfPlugin { chains, tables, sets }): (&Plugin, &OfPlugin)| {
        let (mut parts, mut removals) = (Vec::new(), Vec::new());
        for (ruleset, count) in chains {
            parts.push(format!("{} of {ruleset}", counted(*count, "chain")));
            let pattern = plugin.pattern();
            removals.push(format!("{ruleset}-save | grep -vE '{pattern}' | {ruleset}-restore"));
        }
        for (family, table) in tables {
            parts.push(format!("the nftables table {family} {table}"));
            removals.push(format!("nft delete table {family} {table}"));
        }
        if *sets > 0 {
            parts.push(counted(*sets, "ipset"));
            let command = |pattern| format!("ipset list -n | grep -E '{pattern}' | xargs -rn1 ipset destroy");
            // Behind the chains, whose rules use them.
            removals.extend(plugin.set_pattern().map(command));
        }
        let detail = format!("{} {}", plugin.has_left(), in_words(&parts));
        (*plugin, Finding::warning(NAME, detail, once_gone(*plugin, &removals)))
    };
    found.0.iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipamd_kernel::netfilter::Variant;

    const LEGACY: Ruleset = Ruleset { variant: Variant::Legacy, ipv6: false };
    const NFT6: Ruleset = Ruleset { variant: Variant::Nft, ipv6: true };

    fn chain(ruleset: Ruleset, chain: &str) -> Name<'_> {
        Name::Chain { ruleset, table: "filter", chain }
    }

    #[test]
    fn what_is_left_is_counted_by_plugin_with_what_removes_it() {
        let mut found = Rules::default();
        for name in [
            chain(LEGACY, "cali-INPUT"),
            chain(LEGACY, "cali-FORWARD"),
            chain(NFT6, "cali-INPUT"),
            chain(LEGACY, "FORWARD"),
            chain(LEGACY, "KUBE-SERVICES"),
            chain(LEGACY, "FLANNEL-FWD"),
            Name::Table { family: Family::Ip, table: "calico" },
            Name::Table { family: Family::Ip, table: "filter" },
            Name::Set("cali40masq-ipam-pools"),
            Name::Set("KUBE-CLUSTER-IP"),
        ] {
            found.count(name);
        }
        let said = judge(&found).iter().map(|(_, finding)| finding.to_string()).collect::<Vec<_>>();
        assert_eq!(
            said,
            [
                "rules: Flannel has left 1 chain of iptables-legacy; once Flannel is gone from this node: \
                 iptables-legacy-save | grep -vE 'FLANNEL-' | iptables-legacy-restore",
                "rules: Calico has left 2 chains of iptables-legacy, 1 chain of ip6tables-nft, the nftables table ip calico \
                 and 1 ipset; once Calico is gone from this node: iptables-legacy-save | grep -vE 'cali[-:]' | \
                 iptables-legacy-restore; ip6tables-nft-save | grep -vE 'cali[-:]' | ip6tables-nft-restore; nft \
                 delete table ip calico; ipset list -n | grep -E '^cali[46]' | xargs -rn1 ipset destroy",
            ]
        );
    }

    #[test]
    fn rules_of_others_are_nothing_to_tell_of() {
        let mut found = Rules::default();
        for name in [chain(LEGACY, "DOCKER"), chain(NFT6, "KUBE-KUBELET-CANARY"), Name::Set("mine")] {
            found.count(name);
        }
        assert_eq!(judge(&found), []);
    }
}
