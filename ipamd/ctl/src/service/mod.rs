//! `cambricctl service`.

mod cells;
mod list;
mod show;

use clap::Subcommand;
use ipamd_api::services::ServiceQuery;

use crate::{daemon::Daemon, output::Output};

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
