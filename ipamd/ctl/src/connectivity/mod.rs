//! `cambricctl connectivity`: tries on the spot what a network is for.
//!
//! [`plan`] says who checks what, and touches nothing. [`kube`] and [`bare`] make pods, in a cluster by the API or on this
//! node as network namespaces, and take them away again. In each pod runs an [`agent`], which serves and probes.
//! [`report`] says what came of it.

mod agent;
mod arguments;
mod bare;
mod check;
mod interrupt;
mod kube;
mod objects;
mod plan;
mod progress;
mod report;
mod run_name;

use std::path::PathBuf;

use anyhow::Context;
use clap::Subcommand;
use serde::Serialize;

use self::{
    arguments::{Clean, Test},
    report::Report,
};
use crate::{
    daemon::Daemon,
    output::{Output, clean},
};

/// What can be done about connectivity.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Starts pods, checks who reaches whom, and removes them again. Exits with 0 if all is well, 1 if a check has failed, 2
    /// if the test could not be run
    Test(Box<Test>),
    /// Removes what tests have left that were killed; not while one runs
    Clean(Clean),
    /// Serves and probes, in a pod of a test
    #[command(hide = true)]
    Agent(agent::Agent),
}

/// Runs one command. Returns whether all is well.
pub(super) fn run(command: Command, socket: Option<PathBuf>, output: &Output) -> anyhow::Result<bool> {
    match command {
        Command::Agent(agent) => agent::run(&agent).map(|()| true),
        Command::Clean(what) => clean_up(&what, output),
        Command::Test(what) => {
            let report = test(&what, socket).context("the connectivity test could not be run")?;
            output.print(&report, Report::text)?;
            Ok(report.is_well())
        }
    }
}

fn test(what: &Test, socket: Option<PathBuf>) -> anyhow::Result<Report> {
    interrupt::listen()?;
    let mut report = match kube::Access::find(what.way.bare, what.way.kubeconfig.as_deref())? {
        Some(access) => kube::run(what, access)?,
        None => bare::run(what, &mut Daemon::connect(socket)?)?,
    };
    report.leave_out(what.skip.iter().map(|kind| (*kind, "--skip".to_owned())).collect());
    report.sort();
    Ok(report)
}

/// What a cleaning has removed.
#[derive(Debug, Serialize)]
struct Cleaned {
    removed: Vec<String>,
    left: Vec<String>,
}

fn clean_up(what: &Clean, output: &Output) -> anyhow::Result<bool> {
    interrupt::listen()?;
    let (removed, left) = match kube::Access::find(what.way.bare, what.way.kubeconfig.as_deref())? {
        Some(access) => (kube::clean(access, |run| what.means(run))?, Vec::new()),
        None => bare::clean(&what.places, |run| what.means(run)),
    };
    let cleaned = Cleaned { removed, left };
    output.print(&cleaned, |Cleaned { removed, left }| {
        if removed.is_empty() && left.is_empty() {
            return "no test has left anything here\n".to_owned();
        }
        let removed = removed.iter().map(|it| format!("removed: {}\n", clean(it)));
        removed.chain(left.iter().map(|it| format!("not removed: {}\n", clean(it)))).collect()
    })?;
    Ok(cleaned.left.is_empty())
}
