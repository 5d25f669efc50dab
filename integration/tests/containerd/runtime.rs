//! A containerd of a node's own, which touches nothing of the machine's.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use integration::testbed::{Binaries, Machine, Node, eventually};
use serde_json::json;

use crate::cri::Cri;

const IMAGE: &str = "cambric.test/pause:1";

/// All that runs in a sandbox.
const PAUSE: &str = "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n";

/// Its processes have process and mount namespaces of their own, so that nothing is left of them when the first is
/// killed; shims keep their sockets, and libcni its results, in folders that no configuration moves, so those are
/// private too.
const ENTER: &str = "for folder in /run/containerd /var/lib/cni; do \
    mkdir -p \"$folder\" && mount -t tmpfs private \"$folder\" || exit; \
    done; exec containerd --config \"$0\"";

/// A running containerd with the pause image, killed with all its sandboxes when this is dropped.
#[derive(Debug)]
pub struct Containerd {
    child: Child,
    folder: PathBuf,
    cgroup: String,
    /// Its runtime service.
    pub cri: Cri,
}

impl Containerd {
    /// Starts one in the node's network namespace, its plugins being those under test.
    pub fn start(node: &Node) -> Result<Self> {
        sweep();
        let folder = node.folder().join("containerd");
        fs::create_dir_all(&folder)?;
        configure(node, &folder)?;
        let log = File::create(folder.join("log"))?;
        // Killed when this thread ends, however it does.
        let mut command = node.netns().command("setpriv")?;
        command.args([
            "--pdeathsig",
            "KILL",
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
        ]);
        command.args(["sh", "-c", ENTER]);
        command.arg(folder.join("config.toml")).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().context("run unshare")?;
        let name = node.folder().file_name().and_then(|name| name.to_str()).context("the node's name")?;
        let cri = Cri::new(&folder.join("socket"));
        let containerd = Self { child, cgroup: format!("/{name}"), cri, folder };
        ensure!(
            eventually(Duration::from_secs(30), || containerd.cri.answers()),
            "containerd does not answer:\n{}",
            containerd.log()
        );
        let image = image(&containerd.folder)?;
        let mut import = Command::new("ctr");
        import.arg("-a").arg(containerd.folder.join("socket")).args(["-n", "k8s.io", "images", "import"]);
        run(import.args(["--snapshotter", "native"]).arg(image))?;
        Ok(containerd)
    }

    /// Runs a sandbox for a pod of that name; returns its id.
    pub fn run_sandbox(&self, pod: &str) -> Result<String> {
        self.cri.run_sandbox(pod, &self.cgroup)
    }

    /// What it has said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// A command in a sandbox's network namespace, whose path only containerd's mount namespace has.
    pub fn inside(&self, netns: &str, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.child.id()));
        // unshare itself stands in the new mount namespace, and outside of the process namespace.
        command.args(["nsenter", &format!("--net={netns}"), program]);
        command
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- containerd's log\n{}", self.log());
        }
        // With it go its child, the first of the process namespace, and thereby all others.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The sandboxes' cgroups can be removed once their processes are gone.
        eventually(Duration::from_secs(5), || {
            let left = cgroups(&self.cgroup);
            for group in &left {
                remove_cgroup(group);
            }
            left.is_empty()
        });
    }
}

fn configure(node: &Node, folder: &Path) -> Result<()> {
    let (plugins, networks) = (folder.join("plugins"), folder.join("networks"));
    fs::create_dir(&plugins)?;
    fs::create_dir(&networks)?;
    // It takes one folder only, and sets up the loopback by its plugin.
    symlink(node.binaries().plugin(), plugins.join("cambric"))?;
    for name in ["loopback", "portmap"] {
        symlink(Binaries::others().join(name), plugins.join(name))?;
    }
    let network = json!({
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            { "type": "cambric", "socket": node.socket() },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    });
    fs::write(networks.join("10-cambric.conflist"), network.to_string())?;
    let path = folder.display();
    let config = format!(
        r#"
        version = 2
        root = "{path}/root"
        state = "{path}/state"
        disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.grpc.v1.introspection"]
        [grpc]
        address = "{path}/socket"
        [plugins."io.containerd.grpc.v1.cri"]
        sandbox_image = "{IMAGE}"
        # Not every machine that runs tests may lower an oom score.
        restrict_oom_score_adj = true
        netns_mounts_under_state_dir = true
        disable_apparmor = true
        [plugins."io.containerd.grpc.v1.cri".containerd]
        snapshotter = "native"
        [plugins."io.containerd.grpc.v1.cri".cni]
        bin_dir = "{path}/plugins"
        conf_dir = "{path}/networks"
        "#
    );
    fs::write(folder.join("config.toml"), config)?;
    Ok(())
}

/// Makes the archive of an image with one static program in it, as `docker save` would.
fn image(folder: &Path) -> Result<PathBuf> {
    let parts = folder.join("image");
    fs::create_dir(&parts)?;
    let mut compiler = Command::new("cc");
    compiler.current_dir(&parts).args(["-static", "-Os", "-s", "-x", "c", "-o", "pause", "-"]);
    let mut compiling = compiler.stdin(Stdio::piped()).spawn().context("run cc")?;
    compiling.stdin.take().context("a pipe")?.write_all(PAUSE.as_bytes())?;
    ensure!(compiling.wait()?.success(), "cc failed");
    run(Command::new("tar").current_dir(&parts).args(["-cf", "layer.tar", "pause"]))?;
    let digest = run(Command::new("sha256sum").current_dir(&parts).arg("layer.tar"))?;
    let digest = digest.split_whitespace().next().context("a digest")?;
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = json!({
        "architecture": architecture,
        "os": "linux",
        "config": { "Entrypoint": ["/pause"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
    });
    let manifest = json!([{ "Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"] }]);
    fs::write(parts.join("config.json"), config.to_string())?;
    fs::write(parts.join("manifest.json"), manifest.to_string())?;
    let archive = folder.join("image.tar");
    let files = ["manifest.json", "config.json", "layer.tar"];
    run(Command::new("tar").arg("-C").arg(&parts).arg("-cf").arg(&archive).args(files))?;
    Ok(archive)
}

/// Runs a command and returns what it printed; fails with what it complained of.
pub fn run(command: &mut Command) -> Result<String> {
    let out = command.output().with_context(|| format!("run {command:?}"))?;
    ensure!(
        out.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// The roots of the cgroup hierarchies: several with cgroup v1, one with v2.
fn hierarchies() -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let below = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    below.chain([root.to_owned()]).filter(|path| path.join("cgroup.procs").exists()).collect()
}

/// The cgroups of that name.
fn cgroups(name: &str) -> Vec<PathBuf> {
    let groups = hierarchies().into_iter().map(|root| root.join(name.trim_start_matches('/')));
    groups.filter(|group| group.is_dir()).collect()
}

/// Removes the cgroups of nodes whose process was killed: the first number in their names.
fn sweep() {
    for entry in hierarchies().iter().flat_map(fs::read_dir).flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix("cambric-test-")?.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove_cgroup(&entry.path());
        }
    }
}

fn remove_cgroup(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroup(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}
