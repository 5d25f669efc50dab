//! `cambricctl preflight` and `uninstall`: about the machine, without the daemon.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use ipamd_api::Client;
use nix::sys::signal::{SigSet, Signal};

use super::output::{Output, clean, table};
use ipamd_config::Locations;
use ipamd_kernel::kernel_files;
use ipamd_machine::{
    kube_proxy::{self, Cleanup, Removed},
    preflight::{self, Finding, Outcome, Subject},
    uninstall,
};

/// Where things are.
#[derive(Debug, Args)]
pub(super) struct Configuration {
    /// The daemon's configuration [default: /etc/cambric/ipamd.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The daemon's state-dir, over the configuration's
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// The daemon's bpffs, over the configuration's
    #[arg(long, value_name = "DIR")]
    bpffs: Option<PathBuf>,
}

/// What to check.
#[derive(Debug, Args)]
pub(super) struct Preflight {
    #[command(flatten)]
    configuration: Configuration,
    /// Instead of checking, removes the rules that kube-proxy has left here, and nothing of anybody else's
    #[arg(long)]
    cleanup_kube_proxy: bool,
    /// First mounts a bpffs on the node if it has none; for a container that starts before the daemon's
    #[arg(long, conflicts_with = "cleanup_kube_proxy")]
    mount_bpffs: bool,
}

/// What to remove.
#[derive(Debug, Args)]
pub(super) struct Uninstall {
    #[command(flatten)]
    configuration: Configuration,
    /// When everything is removed, waits to be told to stop; for a container that would be started again
    #[arg(long)]
    stay: bool,
}

impl Configuration {
    /// The configuration's file, if it is named.
    pub fn file(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    pub fn locations(&self) -> anyhow::Result<Locations> {
        let mut locations = Locations::load(self.config.as_deref())?;
        if let Some(dir) = &self.state_dir {
            locations.state_dir.clone_from(dir);
        }
        if let Some(dir) = &self.bpffs {
            locations.bpffs.clone_from(dir);
        }
        kernel_files::set_root(&locations.host_root);
        Ok(locations)
    }
}

pub(super) fn preflight(what: &Preflight, output: &Output) -> anyhow::Result<bool> {
    let Preflight { configuration, cleanup_kube_proxy, mount_bpffs } = what;
    if *cleanup_kube_proxy {
        return clean_up(output);
    }
    let locations = configuration.locations()?;
    if *mount_bpffs {
        preflight::mount_bpffs_of_node(&locations.bpffs)?;
    }
    let findings = preflight::check(&Subject::from(&locations));
    output.print(&findings[..], |findings| table(["", "CHECK", "FOUND"], findings.iter().map(row)))?;
    Ok(findings.iter().all(|finding| finding.outcome != Outcome::Failure))
}

fn row(finding: &Finding) -> [String; 3] {
    let outcome = match finding.outcome {
        Outcome::Ok => "ok",
        Outcome::Warning => "warn",
        Outcome::Failure => "FAIL",
    };
    let found = if finding.remedy.is_empty() {
        finding.detail.clone()
    } else {
        format!("{}; {}", finding.detail, finding.remedy)
    };
    [outcome.to_owned(), finding.name.to_owned(), found]
}

/// Removes what kube-proxy has left. Returns whether it was not needed or all of it could be removed.
fn clean_up(output: &Output) -> anyhow::Result<bool> {
    if let Some(process) = kube_proxy::process() {
        bail!("kube-proxy runs (process {process}) and would put its rules back; stop it first");
    }
    let cleanup = kube_proxy::clean_up().context("what kube-proxy has left cannot be seen")?;
    output.print(&cleanup, |cleanup| {
        let Cleanup { removed, kept, failed } = cleanup;
        if removed.is_empty() && kept.is_empty() && failed.is_empty() {
            return "kube-proxy has left nothing here\n".to_owned();
        }
        let removed = removed.iter().map(|Removed { place, what }| format!("removed from {place}: {what}\n"));
        let others = kept.iter().chain(failed).map(|line| clean(line) + "\n");
        removed.chain(others).collect()
    })?;
    Ok(cleanup.failed.is_empty())
}

pub(super) fn uninstall(what: &Uninstall, socket: Option<PathBuf>, output: &Output) -> anyhow::Result<()> {
    let mut locations = what.configuration.locations()?;
    if let Some(socket) = socket {
        locations.socket = socket;
    }
    if answers(&locations.socket) {
        bail!("the daemon answers on {}; stop it first", locations.socket.display());
    }
    let removal = uninstall::uninstall(&locations);
    output.print(&removal.done[..], |done| done.iter().map(|line| line.clone() + "\n").collect())?;
    if !removal.failed.is_empty() {
        bail!("not everything could be removed:\n{}", removal.failed.join("\n"));
    }
    if what.stay {
        wait_for_the_end().context("cannot wait for a signal")?;
    }
    Ok(())
}

/// Waits until this process is told to end, as process 1 of a container, too.
pub(super) fn wait_for_the_end() -> nix::Result<()> {
    let ends = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    // A signal that comes before is kept until it is waited for.
    ends.thread_block()?;
    ends.wait()?;
    Ok(())
}

fn answers(socket: &Path) -> bool {
    Client::connect(socket).is_ok()
}
