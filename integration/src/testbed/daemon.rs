//! A running daemon.

use std::{
    fs::{File, OpenOptions},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use ipamd_api::{Client, Reply, Request};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use ipamd_waiting::eventually;

/// How long a daemon may take to be ready, and to stop: the kernel verifies its programs, on a busy machine beside those of others.
const PATIENCE: Duration = Duration::from_mins(1);

/// `cambric-ipamd`, killed when this is dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts `command`; what it says is added to `log`.
    pub(super) fn start(mut command: Command, log: PathBuf) -> Result<Self> {
        let to: File = OpenOptions::new().create(true).append(true).open(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(to.try_clone()?)
            .stderr(to)
            .spawn()
            .context("start the daemon")?;
        Ok(Self { child, log })
    }

    /// Waits until it is ready.
    pub fn wait_until_ready(&mut self, socket: &Path) -> Result<()> {
        let ready = eventually(PATIENCE, || {
            let asked = Client::connect(socket).and_then(|mut client| client.call(Request::Status));
            matches!(asked, Ok(Reply::Status(status)) if status.ready) || !self.runs()
        });
        if !ready || !self.runs() {
            bail!("the daemon did not become ready:\n{}", self.log());
        }
        Ok(())
    }

    fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What it has logged, and those before it on the node.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The memory that is its own, in KiB: what is resident without the pages of its binary, which are as many as the
    /// build has made them and which the kernel may drop.
    pub fn own_memory_kib(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).context("RssAnon")?;
        Ok(line.split_whitespace().nth(1).context("a number")?.parse()?)
    }

    /// Asks it to stop, as systemd does, and waits for it.
    pub fn stop(mut self) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        if !eventually(PATIENCE, || !self.runs()) {
            bail!("the daemon does not stop:\n{}", self.log());
        }
        let status: ExitStatus = self.child.wait()?;
        if !status.success() {
            bail!("the daemon stopped with {status} (signal {:?}):\n{}", status.signal(), self.log());
        }
        Ok(())
    }

    /// Kills it on the spot.
    pub fn kill9(self) {
        drop(self);
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.child.id())?), signal)?)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
