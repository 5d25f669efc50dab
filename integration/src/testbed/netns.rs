//! A network namespace.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use ipamd_waiting::eventually;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};

use super::{
    names::{NAMED, remove_netns, unique},
    sweep,
};

/// How long a new interface may take until it works. The kernel has a queue for that, and may be late.
const LINK_PATIENCE: Duration = Duration::from_secs(10);

/// A network namespace with a name and its loopback up. It goes when this is dropped, if it was made by this.
#[derive(Debug)]
pub struct Netns {
    path: PathBuf,
    file: File,
    made: bool,
}

impl Netns {
    /// Makes one; `label` is for people who look at a failed test.
    ///
    /// # Panics
    /// If no thread can be started.
    pub fn new(label: &str) -> Result<Self> {
        sweep::once();
        fs::create_dir_all(NAMED)?;
        let path = Path::new(NAMED).join(format!("{}-{label}", unique()));
        File::create(&path).with_context(|| format!("create {}", path.display()))?;
        let target = path.clone();
        // A thread of its own: the namespace belongs to the thread that makes it.
        let made = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            mount(Some("/proc/thread-self/ns/net"), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        });
        made.join().expect("the thread ran").context("make a network namespace")?;
        let netns = Self { file: File::open(&path)?, path, made: true };
        netns.run("ip", &["link", "set", "lo", "up"])?;
        Ok(netns)
    }

    /// One that others have made.
    pub fn of_others(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        Ok(Self { path, file, made: false })
    }

    /// The path that it can be opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Calls `f` on a thread inside.
    ///
    /// # Panics
    /// If `f` does, or the namespace cannot be entered.
    pub fn inside<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.file, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
                f()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A command that will run inside. Only the network differs: `ip netns exec` would hide cgroups and bpffs.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let file = self.file.try_clone()?;
        let mut command = Command::new(program);
        // SAFETY: the closure makes one system call and allocates nothing.
        unsafe {
            command.pre_exec(move || Ok(setns(&file, CloneFlags::CLONE_NEWNET)?));
        }
        Ok(command)
    }

    /// Runs a program inside and returns what it printed; fails with what it complained of.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        let out = self.command(program)?.args(args).output().with_context(|| format!("run {program}"))?;
        ensure!(
            out.status.success(),
            "{program} {args:?}: {}: {}{}",
            out.status,
            String::from_utf8_lossy(&out.stdout),
            String::from_utf8_lossy(&out.stderr)
        );
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }

    /// Runs `ip` with the words of `line`.
    pub fn ip(&self, line: &str) -> Result<String> {
        self.run("ip", &line.split_whitespace().collect::<Vec<_>>())
    }

    /// Names of the links inside.
    pub fn links(&self) -> Result<Vec<String>> {
        let links: serde_json::Value = serde_json::from_str(&self.ip("-json link show")?)?;
        let links = links.as_array().context("a list of links")?;
        Ok(links.iter().filter_map(|link| link["ifname"].as_str().map(str::to_owned)).collect())
    }

    /// Waits until an interface sends what it is given: the kernel switches on the queue of a new one some time after its peer is up.
    pub fn wait_until_sends(&self, ifname: &str) -> Result<()> {
        let sends = |link: &serde_json::Value| {
            let flags = link["flags"].as_array();
            let is_connected = flags.is_some_and(|flags| flags.iter().any(|flag| flag == "LOWER_UP"));
            is_connected && link["qdisc"] != "noop" && link["operstate"] != "DOWN"
        };
        self.wait_for_link(ifname, sends)
    }

    /// Waits until a port of a bridge forwards, which begins some time after its peer is up.
    pub fn wait_until_forwards(&self, port: &str) -> Result<()> {
        self.wait_for_link(port, |link| link["linkinfo"]["info_slave_data"]["state"] == "forwarding")
    }

    fn wait_for_link(&self, ifname: &str, is_ready: impl Fn(&serde_json::Value) -> bool) -> Result<()> {
        let seen = || -> Result<serde_json::Value> {
            Ok(serde_json::from_str(&self.ip(&format!("-details -json link show dev {ifname}"))?)?)
        };
        let ready = || seen().is_ok_and(|links| is_ready(&links[0]));
        ensure!(eventually(LINK_PATIENCE, ready), "{ifname} is not ready: {}", seen()?);
        Ok(())
    }

    /// Writes a sysctl inside; `name` with slashes, below `/proc/sys`.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{name}");
        self.inside(|| fs::write(&path, value)).with_context(|| format!("write {path}"))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if self.made {
            remove_netns(&self.path);
        }
    }
}
