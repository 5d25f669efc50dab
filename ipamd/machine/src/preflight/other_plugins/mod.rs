//! Leftovers of other network plugins on the node, and their effect on Cambric. `docs/migrate.md` is the guide to these
//! findings.
//!
//! Leftovers are recognised by name ([`Plugin`]). Nothing is removed here: a plugin that still runs would put it back,
//! and its pods may still use it.

mod configurations;
mod interfaces;
mod network;
mod overlay;
mod phrases;
mod pins;
mod plugin;
mod programs;
mod reverse_path_filter;
mod routes;
mod rules;
mod running;

use std::{collections::BTreeSet, thread};

use self::{network::Network, phrases::in_words, plugin::Plugin};
use super::{finding::Finding, subject::Subject};
use ipamd_kernel::netlink::{NetlinkError, Socket};

/// What a check says if there is nothing.
const NONE: &str = "none of another network plugin";

/// Looks at everything, in the network namespace of the caller.
pub(super) fn check(subject: &Subject) -> Vec<Finding> {
    let chained = configurations::chained(&subject.cni_conf_dir, subject.cni_conflist.as_deref());
    let mut findings = configurations::check(&subject.cni_conf_dir);
    findings.extend(match rules::check() {
        Ok(warnings) => settled(rules::NAME, NONE, warnings, &chained),
        Err(error) => vec![unseen(rules::NAME, &error.to_string())],
    });
    // The socket waits in a runtime of its own, and the daemon's thread is in one already.
    let of_network = thread::scope(|scope| scope.spawn(|| check_network(subject, &chained)).join());
    findings.extend(match of_network {
        Ok(Ok(findings)) => findings,
        Ok(Err(error)) => vec![unseen(interfaces::NAME, &error.to_string())],
        Err(_) => vec![unseen(interfaces::NAME, "the thread that looks has panicked")],
    });
    findings
}

fn check_network(subject: &Subject, chained: &BTreeSet<Plugin>) -> Result<Vec<Finding>, NetlinkError> {
    let mut socket = Socket::open()?;
    let network = Network::read(&mut socket)?;
    let nobody = "no other network plugin runs or has pods here";
    let mut findings = settled(running::NAME, nobody, running::check(&network), chained);
    findings.extend(settled(interfaces::NAME, NONE, interfaces::check(&network), chained));
    let programs = programs::check(&mut socket, &network, subject.cgroup.as_deref());
    findings.extend(settled(programs::NAME, NONE, programs, chained));
    findings.extend(settled(routes::NAME, NONE, routes::check(&network), chained));
    findings.extend(overlay::check(subject.overlay, &network));
    findings.push(reverse_path_filter::check(subject, &network));
    Ok(findings)
}

/// What a check tells: its warnings but for those about plugins that Cambric is chained with, which have left nothing; or
/// that there are none.
fn settled(
    name: &'static str,
    none: &str,
    warnings: Vec<(Plugin, Finding)>,
    chained: &BTreeSet<Plugin>,
) -> Vec<Finding> {
    let (in_use, left): (Vec<_>, Vec<_>) =
        warnings.into_iter().partition(|(plugin, _)| chained.contains(plugin));
    if !left.is_empty() {
        return left.into_iter().map(|(_, finding)| finding).collect();
    }
    let plugins = in_use.into_iter().map(|(plugin, _)| plugin).collect::<BTreeSet<_>>();
    let plugins = plugins.iter().map(ToString::to_string).collect::<Vec<_>>();
    vec![Finding::ok(
        name,
        if plugins.is_empty() {
            none.to_owned()
        } else {
            format!("only of {}, which Cambric is chained with", in_words(&plugins))
        },
    )]
}

fn unseen(name: &'static str, why: &str) -> Finding {
    Finding::warning(name, format!("those of other network plugins cannot be looked for: {why}"), "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_the_chain_is_not_left() {
        let warning = |plugin: Plugin| (plugin, Finding::warning("rules", plugin.has_left(), ""));
        let warnings = || vec![warning(Plugin::Flannel), warning(Plugin::Reference)];
        let told = |warnings, chained: &[Plugin]| {
            let chained = chained.iter().copied().collect();
            settled("rules", NONE, warnings, &chained).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            told(warnings(), &[]),
            ["rules: Flannel has left", "rules: the reference plugins have left"]
        );
        assert_eq!(told(warnings(), &[Plugin::Reference]), ["rules: Flannel has left"]);
        assert_eq!(
            told(warnings(), &[Plugin::Flannel, Plugin::Reference]),
            ["rules: only of Flannel and the reference plugins, which Cambric is chained with"]
        );
        assert_eq!(told(Vec::new(), &[Plugin::Flannel]), ["rules: none of another network plugin"]);
    }
}
