//! `cambricctl service`.

mod list;
mod show;

use std::{fmt, net::IpAddr};

use clap::Subcommand;
use ipamd_api::services::{BackendCount, ServiceQuery};

use super::{Daemon, output::Output};

/// What is asked of services.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Lists the services: where they are reached, how many of their backends are ready
    List,
    /// Shows one in full: its ports, its backends, how many connections each of them got here
    Show {
        /// Its name
        #[arg(value_name = "NAMESPACE/NAME", value_parser = name)]
        service: ServiceQuery,
    },
}

/// Runs one command.
pub(super) fn run(daemon: &mut Daemon, command: Command, output: &Output) -> anyhow::Result<()> {
    match command {
        Command::List => list::list(daemon, output),
        Command::Show { service } => show::show(daemon, service, output),
    }
}

fn name(text: &str) -> Result<ServiceQuery, &'static str> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(ServiceQuery { namespace: namespace.to_owned(), name: name.to_owned() })
        }
        _ => Err("a service is named by NAMESPACE/NAME"),
    }
}

/// Several values in one cell.
fn cell(values: impl IntoIterator<Item = impl fmt::Display>) -> String {
    let cell = values.into_iter().map(|value| value.to_string()).collect::<Vec<_>>().join(",");
    if cell.is_empty() { "-".to_owned() } else { cell }
}

/// Several values below each other.
fn lines(values: impl IntoIterator<Item = impl fmt::Display>) -> String {
    values.into_iter().map(|value| value.to_string()).collect::<Vec<_>>().join("\n")
}

/// Addresses by which a service is reached from outside, each once.
fn outside<'a>(external: &'a [IpAddr], load_balancer: &'a [IpAddr]) -> impl Iterator<Item = &'a IpAddr> {
    let others = load_balancer.iter().filter(|address| !external.contains(address));
    external.iter().chain(others)
}

/// How many backends are ready.
fn ready(backends: BackendCount) -> String {
    format!("{}/{}", backends.ready, backends.all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_named_with_its_namespace() {
        let named = ServiceQuery { namespace: "shop".into(), name: "web".into() };
        assert_eq!(name("shop/web"), Ok(named));
        for bad in ["", "web", "/web", "shop/", "a/b/c"] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }
}
