//! `cambricctl policy`.

mod check;
mod diff;
mod list;
mod recorded;
mod refusals;
mod show;
mod sources;
mod trace;

use std::path::PathBuf;

use clap::Subcommand;

use crate::{daemon::Daemon, ending::Ending, output::Output};

/// What is asked of policy.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Lists the policies in force, in the order in which they are asked, and what is refused
    List,
    /// Shows one in full: whom it is for, its rules, and how many flows each of them decided here
    Show {
        /// Its kind, where several have the name
        #[arg(long, value_parser = show::kind)]
        kind: Option<String>,
        /// Its name
        #[arg(value_name = "[NAMESPACE/]NAME", value_parser = show::name)]
        policy: show::Name,
    },
    /// Says what would become of a flow, and why; fails if the kernel's maps say otherwise than the compiler
    Trace(trace::Flow),
    /// Says what is wrong with manifests, without applying them; needs no daemon
    Check {
        /// A tier that exists elsewhere; may be given several times
        #[arg(long = "tier", value_name = "NAME")]
        tiers: Vec<String>,
        /// Files, directories of *.yaml, *.yml and *.json, or - for the standard input
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
    },
    /// Says which of the flows seen lately would be judged otherwise if manifests were applied. Exit status: 0 if none
    /// would, 1 if some would, 2 if that is not known, as something is refused or the daemon does not answer
    Diff {
        /// Takes staged policies to be in force: those of the files, and those of the cluster
        #[arg(long)]
        staged: bool,
        /// Compares on recorded flows, without a daemon: a file of lines as `monitor -o json` prints them, or -
        #[arg(long, value_name = "FILE", requires = "cluster")]
        flows: Option<PathBuf>,
        /// The manifests of the cluster as it is, for --flows: all that policies speak of, with the addresses of pods; may be given
        /// several times
        #[arg(long, value_name = "FILE", requires = "flows")]
        cluster: Vec<PathBuf>,
        /// Files, directories of *.yaml, *.yml and *.json, or - for the standard input
        #[arg(value_name = "FILE", required_unless_present = "staged")]
        files: Vec<PathBuf>,
    },
}

/// Runs one command.
pub(super) fn run(command: Command, socket: Option<PathBuf>, output: &Output) -> anyhow::Result<Ending> {
    match command {
        Command::List => list::list(&mut Daemon::connect(socket)?, output).map(|()| Ending::Well),
        Command::Show { kind, policy } => {
            show::show(&mut Daemon::connect(socket)?, kind, policy, output).map(|()| Ending::Well)
        }
        Command::Trace(flow) => trace::trace(&mut Daemon::connect(socket)?, flow, output).map(Ending::of),
        Command::Check { tiers, files } => check::check(&files, &tiers, output).map(Ending::of),
        Command::Diff { staged, flows: Some(flows), cluster, files } => {
            let comparison = recorded::Comparison { flows: &flows, cluster: &cluster, files: &files, staged };
            diff::show(recorded::compare(&comparison)?, output)
        }
        Command::Diff { staged, files, .. } => {
            diff::diff(&mut Daemon::connect(socket)?, &files, staged, output)
        }
    }
}
