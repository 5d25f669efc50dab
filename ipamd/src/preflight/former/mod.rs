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

use std::thread;

use plugin::Plugin;

use super::{Finding, Subject};
use crate::netlink::{NetlinkError, Socket};
use network::Network;

/// Looks at everything, in the network namespace of the caller.
pub(super) fn check(subject: &Subject) -> Vec<Finding> {
    let mut findings = configurations::check(&subject.cni_conf_dir);
    findings.extend(rules::check());
    // The socket waits in a runtime of its own, and the daemon's thread is in one already.
    let of_network = thread::scope(|scope| scope.spawn(|| check_network(subject)).join());
    findings.extend(match of_network {
        Ok(Ok(findings)) => findings,
        Ok(Err(error)) => vec![unseen(&error.to_string())],
        Err(_) => vec![unseen("the thread that looks has panicked")],
    });
    findings
}

fn check_network(subject: &Subject) -> Result<Vec<Finding>, NetlinkError> {
    let mut socket = Socket::open()?;
    let network = Network::read(&mut socket)?;
    let mut findings = running::check(&network);
    findings.extend(interfaces::check(&network));
    findings.extend(programs::check(&mut socket, &network, subject.cgroup.as_deref()));
    findings.extend(routes::check(&network));
    findings.extend(overlay::check(subject.overlay, &network));
    findings.push(filtering::check(subject, &network));
    Ok(findings)
}

fn unseen(why: &str) -> Finding {
    Finding::warning("interfaces", format!("those of other network plugins cannot be looked for: {why}"), "")
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
