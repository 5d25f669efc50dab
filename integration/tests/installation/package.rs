//! The Debian package: installed, upgraded, removed and purged on a node whose files are its own; containers keep their network until
//! the purge. The machine's own files and packages stay as they are: all is written into an overlay.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use integration::{
    needs_root,
    testbed::{Machine, Node, Settings, eventually},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Makes the root `$0/root` of the machine's files, to which nothing is written, without its bpffs; waits then.
const ENTER: &str = "while mountpoint -q /sys/fs/bpf; do umount /sys/fs/bpf || exit; done; \\
    mount -t overlay -o \"lowerdir=/,upperdir=$0/upper,workdir=$0/work\" root \"$0/root\" && \\
    for place in proc sys dev; do mount --rbind /$place \"$0/root/$place\" || exit; done && \\
    mount -t tmpfs run \"$0/root/run\" && mkdir -p \"$0/root/run/systemd/system\" \"$0/root/run/netns\" && \\
    mount -t tmpfs tmp \"$0/root/tmp\" && echo >\"$0/ready\" && exec sleep 600";

/// Stands for systemd: notes what it is told.
const SYSTEMCTL: &str = "#!/bin/sh\necho \"$*\" >>/run/systemctl\n";

/// A node with files of its own; what runs on it ends when this is dropped.
struct Place {
    running: Vec<Child>,
    files: PathBuf,
    node: Node,
}

impl Place {
    fn new() -> Result<Self> {
        let node = Node::new(Settings::default())?;
        let files = node.folder().join("files");
        for folder in ["upper/usr/bin", "work", "root"] {
            fs::create_dir_all(files.join(folder))?;
        }
        let stand_in = files.join("upper/usr/bin/systemctl");
        fs::write(&stand_in, SYSTEMCTL)?;
        let mut holder = Command::new("setpriv");
        holder.args(["--pdeathsig", "KILL", "unshare", "--mount", "sh", "-c", ENTER]).arg(&files);
        let mut place = Self { running: vec![holder.spawn()?], files, node };
        let ready = || place.files.join("ready").exists();
        ensure!(eventually(PATIENCE, ready), "the node's files are not in their places");
        ensure!(place.running[0].try_wait()?.is_none(), "who holds the node's files has ended");
        place.run("chmod", &["755", "/usr/bin/systemctl"])?;
        Ok(place)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "nsenter"]);
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.running[0].id()));
        command.arg(format!("--net={}", self.node.netns().path().display()));
        command.arg("chroot").arg(self.files.join("root")).arg(program).stdin(Stdio::null());
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        let out = self.command(program).args(args).output()?;
        ensure!(out.status.success(), "{program} {args:?}: {}", said(&out));
        Ok(said(&out))
    }

    /// Where a file is that the node has at a path.
    fn at(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.running[0].id()))
            .join(self.files.join("root").strip_prefix("/").unwrap_or(Path::new("")))
            .join(path.trim_start_matches('/'))
    }

    fn dpkg(&self, args: &[&str]) -> Result<String> {
        // Triggers would have man-db read all pages of the machine.
        self.run("dpkg", &[&["--force-confold", "--no-triggers"], args].concat())
    }

    /// Installs a package, from the only directory that both sides see.
    fn install(&self, package: &Path) -> Result<()> {
        fs::copy(package, self.at("/tmp/cambric.deb"))?;
        self.dpkg(&["--install", "/tmp/cambric.deb"]).map(|_| ())
    }

    /// What systemd was told since the last time.
    fn told(&self) -> Vec<String> {
        let file = self.at("/run/systemctl");
        let told = fs::read_to_string(&file).unwrap_or_default();
        let _ = fs::remove_file(file);
        told.lines().map(str::to_owned).collect()
    }

    fn start_daemon(&mut self) -> Result<()> {
        let mut daemon = self.command("/usr/sbin/cambric-ipamd");
        daemon.args(["--config", "/etc/cambric/ipamd.toml"]).stdout(Stdio::null()).stderr(Stdio::null());
        self.running.push(daemon.spawn()?);
        let ready = eventually(PATIENCE, || self.run("cambricctl", &["status"]).is_ok());
        ensure!(ready, "{:?}", self.run("cambricctl", &["status"]));
        Ok(())
    }

    fn stop_daemon(&mut self) -> Result<()> {
        let mut daemon = self.running.pop().context("a daemon")?;
        let pid = nix::unistd::Pid::from_raw(daemon.id().try_into()?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        ensure!(daemon.wait()?.success());
        Ok(())
    }

    fn add_pod(&self) -> Result<()> {
        self.run("ip", &["netns", "add", "pod"])?;
        let mut add = self.command("sh");
        add.args([
            "-c",
            "jq '.plugins[0] + {name, cniVersion}' /etc/cni/net.d/10-cambric.conflist | /opt/cni/bin/cambric",
        ]);
        add.env("CNI_COMMAND", "ADD").env("CNI_CONTAINERID", "pod").env("CNI_NETNS", "/run/netns/pod");
        let added = add.env("CNI_IFNAME", "eth0").env("CNI_PATH", "/opt/cni/bin").output()?;
        ensure!(added.status.success(), "{}", said(&added));
        Ok(())
    }

    /// Whether the pod reaches its node, by both families.
    fn pod_has_its_network(&self) -> Result<()> {
        for gateway in ["10.88.0.1", "fd00:88::1"] {
            self.run("ip", &["netns", "exec", "pod", "ping", "-c", "1", "-W", "2", gateway])?;
        }
        Ok(())
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

fn said(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

/// A package of the binaries under test.
fn package(folder: &Path, version: &str) -> Result<PathBuf> {
    let binaries = integration::testbed::Binaries::find()?;
    let binaries = binaries.daemon().parent().context("their folder")?.to_owned();
    let mut make = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/package"));
    make.arg("--binaries").arg(binaries).arg("--output").arg(folder).args(["--version", version]);
    let out = make.output()?;
    ensure!(out.status.success(), "{}", said(&out));
    Ok(String::from_utf8(out.stdout)?.trim().into())
}

/// What below a directory has Cambric in its name.
fn left(of: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![of.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            // The overlay notes what is removed by a device.
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            }
            let is_ours = entry.file_name().to_string_lossy().contains("cambric");
            if is_ours && (kind.is_dir() || kind.is_file() || kind.is_symlink()) {
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}

/// What Debian's own checker says: no error, and no warning.
fn is_well_made(package: &Path) -> Result<()> {
    let lintian = Command::new("lintian")
        .args(["--allow-root", "--tag-display-limit", "0", "--fail-on", "error,warning"])
        .arg(package)
        .output()
        .context("run lintian; scripts/setup installs it")?;
    ensure!(lintian.status.success(), "{}", said(&lintian));
    Ok(())
}

#[test]
fn containers_keep_their_network_until_the_package_is_purged() -> Result<()> {
    needs_root!();
    let mut place = Place::new()?;
    let packages = [package(place.node.folder(), "0.1.0-1")?, package(place.node.folder(), "0.1.0-2")?];
    is_well_made(&packages[0])?;
    place.install(&packages[0])?;
    ensure!(place.told() == ["daemon-reload", "enable cambric-ipamd.service", "start cambric-ipamd.service"]);
    for page in ["man8/cambric-ipamd.8.gz", "man1/cambricctl-policy-trace.1.gz", "man8/cambric.8.gz"] {
        place.run("gzip", &["-t", &format!("/usr/share/man/{page}")])?;
    }
    place.run("bash", &["-n", "/usr/share/bash-completion/completions/cambricctl"])?;
    ensure!(place.run("kubectl-cambric", &["--help"])?.contains("Usage: kubectl cambric"));
    place.start_daemon()?;
    place.add_pod()?;
    place.pod_has_its_network()?;

    let config = place.at("/etc/cambric/ipamd.toml");
    // The conffile is the administrator's.
    fs::write(&config, fs::read_to_string(&config)? + "# mine\n")?;
    place.install(&packages[1])?;
    ensure!(place.told() == ["daemon-reload", "try-restart cambric-ipamd.service"]);
    ensure!(fs::read_to_string(&config)?.ends_with("# mine\n"), "the configuration was written over");
    // It goes on by itself: nothing but systemd was told.
    place.run("cambricctl", &["status"])?;
    place.pod_has_its_network()?;

    // The stand-in for systemd stops nothing, and what a running daemon uses is not removed.
    let refused = place.dpkg(&["--purge", "cambric"]).expect_err("the daemon runs").to_string();
    ensure!(refused.contains("stop it first"), "{refused}");
    place.pod_has_its_network()?;
    place.install(&packages[1])?;
    place.told();

    place.stop_daemon()?;
    place.dpkg(&["--remove", "cambric"])?;
    ensure!(place.told() == ["disable --now cambric-ipamd.service", "daemon-reload"]);
    let conflist = place.at("/etc/cni/net.d/10-cambric.conflist");
    ensure!(!conflist.exists() && config.exists() && place.at("/var/lib/cambric").exists());
    place.pod_has_its_network()?;

    place.install(&packages[1])?;
    ensure!(conflist.exists(), "the network configuration did not come back");
    place.told();
    place.dpkg(&["--remove", "cambric"])?;
    place.pod_has_its_network()?;

    place.dpkg(&["--purge", "cambric"])?;
    ensure!(
        place.pod_has_its_network().is_err() && place.node.pod_links()?.is_empty(),
        "interfaces are left"
    );
    let left = left(&place.files.join("upper"))?;
    ensure!(left.is_empty(), "these are left: {left:?}");
    ensure!(place.run("dpkg", &["--get-selections", "cambric"]).is_ok_and(|it| !it.contains("install")));
    Ok(())
}
