//! Which chains of a table are kube-proxy's and can be removed, and the transaction that removes them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use super::{
    iptables_save::{Rule, Table},
    names,
};

/// The chains and rules of one table that are to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Removal<'a> {
    table: &'a str,
    /// Chains that go with all that is in them.
    pub(super) chains: Vec<&'a str>,
    /// How many rules are in them.
    pub(super) rules: usize,
    /// Jumps from built-in chains to these chains.
    pub(super) jumps: Vec<Rule<'a>>,
    /// Chains of kube-proxy that stay, each with the reason.
    pub(super) kept: BTreeMap<&'a str, Reason<'a>>,
}

/// Why a chain of kube-proxy stays, and all that it jumps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason<'a> {
    /// The kubelet of this node is so old that it has made it too.
    Kubelet,
    /// A rule of somebody else's, in this chain, jumps to it.
    UsedIn(&'a str),
    /// This chain stays, and needs it.
    NeededBy(&'a str),
}

impl<'a> Removal<'a> {
    /// Tells what is kube-proxy's from what is not.
    pub(super) fn of(table: &Table<'a>) -> Self {
        let ours = |name: &str| names::is_chain(table.name, name);
        let chains = table.chains.iter().filter(|chain| !chain.built_in && ours(chain.name));
        let chains = chains.map(|chain| chain.name).collect::<BTreeSet<_>>();
        let built_in = table.chains.iter().filter(|chain| chain.built_in);
        let built_in = built_in.map(|chain| chain.name).collect::<BTreeSet<_>>();
        let jump = |rule: &&Rule<'a>| {
            built_in.contains(rule.chain)
                && rule.target.is_some_and(|target| chains.contains(target) && names::is_entry(target))
        };

        let mut kept = BTreeMap::new();
        if table.rules.iter().any(|rule| rule.chain == names::MARK_DROP) {
            for name in chains.iter().filter(|name| names::is_shared(table.name, name)) {
                kept.insert(*name, Reason::Kubelet);
            }
        }
        let foreign = table.rules.iter().filter(|rule| !chains.contains(rule.chain) && !jump(rule));
        for rule in foreign {
            if let Some(target) = rule.target.and_then(|target| chains.get(target)) {
                kept.entry(*target).or_insert(Reason::UsedIn(rule.chain));
            }
        }
        Self::keep_what_is_needed(table, &chains, &mut kept);

        let goes = |name: &str| chains.contains(name) && !kept.contains_key(name);
        Self {
            table: table.name,
            chains: table.chains.iter().map(|chain| chain.name).filter(|name| goes(name)).collect(),
            rules: table.rules.iter().filter(|rule| goes(rule.chain)).count(),
            jumps: table
                .rules
                .iter()
                .filter(jump)
                .filter(|rule| rule.target.is_some_and(goes))
                .copied()
                .collect(),
            kept,
        }
    }

    /// Adds to `kept` what those in it jump to, and to the mark what acts on it.
    fn keep_what_is_needed(
        table: &Table<'a>,
        chains: &BTreeSet<&'a str>,
        kept: &mut BTreeMap<&'a str, Reason<'a>>,
    ) {
        let mut jumps: BTreeMap<&str, Vec<&'a str>> = BTreeMap::new();
        for rule in &table.rules {
            let target = rule.target.and_then(|target| chains.get(target));
            jumps.entry(rule.chain).or_default().extend(target);
        }
        if let Some(postrouting) = chains.get(names::POSTROUTING) {
            jumps.entry(names::MARK_MASQ).or_default().push(postrouting);
        }
        let mut open = kept.keys().copied().collect::<Vec<_>>();
        while let Some(name) = open.pop() {
            for target in jumps.remove(name).unwrap_or_default() {
                if !kept.contains_key(target) {
                    kept.insert(target, Reason::NeededBy(name));
                    open.push(target);
                }
            }
        }
    }

    /// Whether there is nothing to remove.
    pub(super) fn is_empty(&self) -> bool {
        self.chains.is_empty()
    }

    /// What `iptables-restore --noflush` removes it by: in one transaction, which fails as a whole if one of the jumps
    /// is not there any more, or if somebody else has begun to use one of the chains.
    pub(super) fn transaction(&self) -> String {
        let mut text = format!("*{}\n", self.table);
        // Writing to a String does not fail.
        for chain in &self.chains {
            // Empties it.
            let _ = writeln!(text, ":{chain} - [0:0]");
        }
        for Rule { chain, spec, .. } in &self.jumps {
            let _ = writeln!(text, "-D {chain} {spec}");
        }
        for chain in &self.chains {
            let _ = writeln!(text, "-X {chain}");
        }
        text.push_str("COMMIT\n");
        text
    }
}

#[cfg(test)]
mod tests;
