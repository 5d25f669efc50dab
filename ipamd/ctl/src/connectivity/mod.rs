//! `cambricctl connectivity`: tries on the spot what a network is for.
//!
//! [`plan`] says who checks what, and touches nothing. [`kube`] and [`bare`] make pods, in a cluster by the API or on this
//! node as network namespaces, and take them away again. In each pod runs an [`agent`], which serves and probes.
//! [`report`] says what came of it.

mod agent;
mod bare;
mod check;
mod interrupt;
mod kube;
mod objects;
mod plan;
mod report;
mod run_name;

use std::{
    io::{self, IsTerminal},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use anyhow::Context;
use clap::{Args, Subcommand};
use serde::Serialize;

use self::{check::Kind, plan::Outside, report::Report};
use super::{
    Daemon,
    output::{Output, clean},
};
use ipamd_config::{Cluster, Locations};

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

/// Where pods are made.
#[derive(Debug, Args)]
struct Way {
    /// On this node alone, in network namespaces, although there is a kubeconfig
    #[arg(long)]
    bare: bool,
    /// The cluster's kubeconfig [default: $KUBECONFIG or ~/.kube/config, or the pod's own rights; without any, this node alone
    /// is tested]
    #[arg(long, value_name = "FILE", conflicts_with = "bare")]
    kubeconfig: Option<PathBuf>,
}

/// Where the node's files are; for tests of this node alone.
#[derive(Debug, Args)]
struct Places {
    /// Folder of network configurations
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    conf_dir: PathBuf,
    /// Folder of plugins; repeatable [default: /opt/cni/bin]
    #[arg(long, value_name = "DIR")]
    bin_dir: Vec<PathBuf>,
    /// The network to test [default: the first that Cambric is part of]
    #[arg(long, value_name = "NAME")]
    network: Option<String>,
    /// The daemon's configuration, for its directory of manifests [default: /etc/cambric/ipamd.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The directory of manifests that the daemon follows, over the configuration's
    #[arg(long, value_name = "DIR")]
    manifests: Option<PathBuf>,
}

impl Places {
    fn bin_dirs(&self) -> Vec<PathBuf> {
        if self.bin_dir.is_empty() { vec!["/opt/cni/bin".into()] } else { self.bin_dir.clone() }
    }

    /// The directory of manifests that the daemon follows, if that is its cluster.
    fn manifests(&self) -> Result<Option<PathBuf>, String> {
        if self.manifests.is_some() {
            return Ok(self.manifests.clone());
        }
        let locations = Locations::load(self.config.as_deref()).map_err(|error| error.to_string())?;
        Ok(match locations.cluster {
            Cluster::Dir(directory) => Some(directory),
            _ => None,
        })
    }
}

/// What is tested.
#[derive(Debug, Args)]
pub(super) struct Test {
    #[command(flatten)]
    way: Way,
    #[command(flatten)]
    places: Places,
    /// Image with cambricctl, in a cluster [default: that of Cambric's DaemonSet]
    #[arg(long)]
    image: Option<String>,
    /// Beyond the cluster: an address to ping, or one with a port to connect to; repeatable [default: the gateways of the
    /// nodes]
    #[arg(long, value_name = "IP[:PORT]")]
    outside: Vec<Outside>,
    /// DNS server to ask, on bare namespaces; repeatable [default: those of /etc/resolv.conf]
    #[arg(long, value_name = "IP")]
    dns: Vec<IpAddr>,
    /// Port of each node that leads to a pod; 0 for none
    #[arg(long, value_name = "PORT", default_value_t = 24_681)]
    host_port: u16,
    /// Port that an agent serves in the network of each node
    #[arg(long, value_name = "PORT", default_value_t = 24_680)]
    node_agent_port: u16,
    /// Node port of the service, on bare namespaces; a cluster chooses one itself
    #[arg(long, value_name = "PORT", default_value_t = 32_681)]
    node_port: u16,
    /// Leaves out these checks; repeatable
    #[arg(long, value_name = "CHECK")]
    skip: Vec<Kind>,
    /// How long each check may take until its outcome is as it should be
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    patience: u64,
    /// How long pods may take to start, and to go
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    timeout: u64,
}

impl Test {
    fn wants(&self, kind: Kind) -> bool {
        !self.skip.contains(&kind)
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(self.patience)
    }

    fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

/// What is removed.
#[derive(Debug, Args)]
pub(super) struct Clean {
    /// The test, by the name of its namespace [default: all]
    run: Option<String>,
    #[command(flatten)]
    way: Way,
    #[command(flatten)]
    places: Places,
}

impl Clean {
    fn means(&self, run: &str) -> bool {
        self.run.as_deref().is_none_or(|it| it == run)
    }
}

impl FromStr for Outside {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = |address| Self { address, port: None };
        let with_port = |to: SocketAddr| Self { address: to.ip(), port: Some(to.port()) };
        text.parse().map(address).or_else(|_| text.parse().map(with_port)).map_err(|_| {
            format!("{text:?} is neither an address nor one with a port, such as 198.51.100.1:443 or [2001:db8::1]:443")
        })
    }
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

/// Says to a person who waits what is being done.
fn progress(what: &str) {
    if io::stderr().is_terminal() {
        eprintln!("cambricctl: {what} ...");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn somebody_outside_has_an_address_and_perhaps_a_port() {
        let of = |text: &str| text.parse::<Outside>().map(|it| (it.address.to_string(), it.port));
        assert_eq!(of("198.51.100.1"), Ok(("198.51.100.1".into(), None)));
        assert_eq!(of("2001:db8::1"), Ok(("2001:db8::1".into(), None)));
        assert_eq!(of("[2001:db8::1]:443"), Ok(("2001:db8::1".into(), Some(443))));
        assert!(of("example.org").unwrap_err().contains("198.51.100.1:443"));
    }
}
