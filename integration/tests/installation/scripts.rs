//! `scripts/install` and `scripts/uninstall`, on a node whose files are its own and where no systemd runs.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use integration::{
    needs_root,
    testbed::{Machine, Node, Settings, Snapshot, eventually},
};

/// Gives the namespace's processes folders of their own, all below `$0`, and no bpffs.
const ENTER: &str = "mount --bind \"$0/run\" /run && mount --bind \"$0/opt\" /opt && mount --bind \"$0/lib\" /var/lib && \\
    mount --bind \"$0/bin\" /usr/local/bin && \\
    mount -t overlay -o \"lowerdir=/etc,upperdir=$0/etc,workdir=$0/work\" etc /etc || exit; \\
    while mountpoint -q /sys/fs/bpf; do umount /sys/fs/bpf || exit; done; echo >\"$0/work/ready\"; exec sleep 600";

const PATIENCE: Duration = Duration::from_secs(20);

/// A node with its own files; what runs on it ends when this is dropped.
struct Place {
    running: Vec<Child>,
    files: PathBuf,
    node: Node,
}

impl Place {
    fn new() -> Result<Self> {
        let node = Node::new(Settings::default())?;
        let files = node.folder().join("files");
        // Those that others have things in are there, as on any node with a runtime.
        let shared = ["opt/cni/bin", "etc/cni/net.d", "etc/systemd/system"];
        for folder in ["run/netns", "lib", "bin", "work"].into_iter().chain(shared) {
            fs::create_dir_all(files.join(folder))?;
        }
        let mut holder = Command::new("setpriv");
        holder.args(["--pdeathsig", "KILL", "unshare", "--mount", "sh", "-c", ENTER]).arg(&files);
        let place = Self { running: vec![holder.spawn()?], files, node };
        let ready = || place.files.join("work/ready").exists();
        ensure!(eventually(PATIENCE, ready), "the node's files are not in their places");
        Ok(place)
    }

    fn holder(&self) -> u32 {
        self.running[0].id()
    }

    fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "nsenter"]);
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.holder()));
        command.arg(format!("--net={}", self.node.netns().path().display())).arg(program.as_ref());
        command
    }

    fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        let out = self.command(program).args(args).stdin(Stdio::null()).output()?;
        let said =
            format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        ensure!(out.status.success(), "{program} {args:?}: {said}");
        Ok(said)
    }

    fn script(&self, name: &str, args: &[&str]) -> Result<String> {
        self.run(&format!("{}/../scripts/{name}", env!("CARGO_MANIFEST_DIR")), args)
    }

    fn snapshot(&self) -> Result<Snapshot> {
        Snapshot::take(&self.node, &self.files, self.holder())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for child in self.running.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn what_is_installed_by_script_works_and_is_removed_by_script() -> Result<()> {
    needs_root!();
    let mut place = Place::new()?;
    let before = place.snapshot()?;
    let binaries = place.node.binaries().daemon().parent().context("their folder")?.display().to_string();
    let said = place.script("install", &["--binaries", &binaries])?;
    let start =
        said.lines().find_map(|line| line.strip_prefix("start the daemon with: ")).context(said.clone())?;
    let mut words = start.split(' ');
    let log = place.node.folder().join("log");
    let mut daemon = place.command(words.next().context("a program")?);
    daemon.args(words).stdout(Stdio::null()).stderr(File::create(&log)?);
    place.running.push(daemon.spawn()?);
    let ready = || place.run("cambricctl", &["status"]).is_ok();
    ensure!(eventually(PATIENCE, ready), "{}", fs::read_to_string(log)?);

    place.run("ip", &["netns", "add", "pod"])?;
    let mut add = place.command("sh");
    add.args([
        "-c",
        "jq '.plugins[0] + {name, cniVersion}' /etc/cni/net.d/10-cambric.conflist | /opt/cni/bin/cambric",
    ]);
    add.env("CNI_COMMAND", "ADD").env("CNI_CONTAINERID", "pod").env("CNI_NETNS", "/run/netns/pod");
    let added = add.env("CNI_IFNAME", "eth0").env("CNI_PATH", "/opt/cni/bin").output()?;
    ensure!(added.status.success(), "{}", String::from_utf8_lossy(&added.stdout));
    ensure!(place.node.pod_links()?.len() == 1);

    let refused = place.script("uninstall", &[]).expect_err("the daemon runs").to_string();
    ensure!(refused.contains("stop it first") && place.node.pod_links()?.len() == 1, "{refused}");
    let daemon = &place.running[1];
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(daemon.id().try_into()?),
        nix::sys::signal::Signal::SIGTERM,
    )?;
    ensure!(place.running[1].wait()?.success());
    place.script("uninstall", &[])?;
    place.run("ip", &["netns", "del", "pod"])?;
    before.equals(&place.snapshot()?)
}
