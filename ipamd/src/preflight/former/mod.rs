//! What other network plugins have left on the node, and what it does to Cambric. `conf/kubernetes/MIGRATION.md` is the
//! guide that these findings are steps of.
//!
//! Names tell whose a thing is ([`Plugin`]). Nothing is removed here: a plugin that still runs would put it back, and pods
//! of its own may still use it.

mod configurations;
mod filtering;
mod interfaces;
mod network;
mod overlay;
mod pins;
mod plugin;
mod programs;
mod routes;
mod rules;
mod running;

use plugin::Plugin;

use super::{Finding, Subject};
use crate::netlink::Socket;
use network::Network;

/// Looks at everything, in the network namespace of the caller.
pub(super) fn check(subject: &Subject) -> Vec<Finding> {
    let mut findings = configurations::check(&subject.cni_conf_dir);
    findings.extend(rules::check());
    let read =
        Socket::open().and_then(|mut socket| Network::read(&mut socket).map(|network| (socket, network)));
    match read {
        Ok((mut socket, network)) => {
            findings.extend(running::check(&network));
            findings.extend(interfaces::check(&network));
            findings.extend(programs::check(&mut socket, &network, subject.cgroup.as_deref()));
            findings.extend(routes::check(&network));
            findings.extend(overlay::check(subject.overlay, &network));
            findings.push(filtering::check(subject, &network));
        }
        Err(error) => findings.push(Finding::warning(
            "interfaces",
            format!("those of other network plugins cannot be looked for: {error}"),
            "",
        )),
    }
    findings
}

/// A remedy: commands for when the plugin is gone, which would else put back what they remove.
fn once_gone(plugin: Plugin, commands: &[String]) -> String {
    let are = if plugin == Plugin::Reference { "are" } else { "is" };
    format!("once {plugin} {are} gone from this node: {}", commands.join("; "))
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// A list in a sentence.
fn in_words(parts: &[String]) -> String {
    match parts.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
        None => String::new(),
    }
}
