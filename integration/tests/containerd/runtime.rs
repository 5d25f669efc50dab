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

use crate::cri::{
    Cri,
    message::{field, text},
};

const IMAGE: &str = "cambric.test/pause:1";

/// All that runs in a sandbox.
const PAUSE: &str = "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n";

/// Its processes have process and mount namespaces of their own, so that nothing is left of them when the first is
/// killed; shims keep their sockets, and libcni its results, in folders that no configuration moves, so those are
/// private too.
const ENTER: &str = "for folder in /run/containerd /var/lib/cni; do \
    mkdir -p \"$folder\" && mount -t tmpfs private \"$folder\" || exit; \
    done; exec containerd --config \"$0\"";

/// As [`ENTER`], with all folders in which pods of a node find its files being the node's own, and without a bpffs. Mounts
/// are shared, as systemd has them, so that a pod sees those that come later.
const ENTER_NODE: &str = "mount --make-rshared / && mount --bind \"$1/run\" /run && mount --bind \"$1/opt\" /opt && \
    mount --bind \"$1/lib\" /var/lib && \
    mount -t overlay -o \"lowerdir=/etc,upperdir=$1/etc,workdir=$1/work\" etc /etc || exit; \
    while mountpoint -q /sys/fs/bpf; do umount /sys/fs/bpf || exit; done; exec containerd --config \"$0\"";

/// Where a containerd stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// On this machine, with plugins and networks of its own.
    Beside,
    /// On a node whose folders below `/run`, `/opt`, `/etc` and `/var/lib` are its own.
    Node,
}

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
        Self::start_in(node, Place::Beside)
    }

    /// Starts one in the node's network namespace as that of a new node: without Cambric, and without any network. Of its
    /// folders, `run`, `opt`, `etc` and `lib` below [`node_files`] are what pods can mount.
    pub fn start_on_new_node(node: &Node) -> Result<Self> {
        let files = node_files(node);
        for folder in ["run", "opt/cni/bin", "etc/cni/net.d", "lib", "work"] {
            fs::create_dir_all(files.join(folder))?;
        }
        let loopback = files.join("opt/cni/bin/loopback");
        if !loopback.exists() {
            symlink(Binaries::others().join("loopback"), loopback)?;
        }
        Self::start_in(node, Place::Node)
    }

    fn start_in(node: &Node, place: Place) -> Result<Self> {
        sweep();
        let folder = node.folder().join("containerd");
        fs::create_dir_all(&folder)?;
        configure(node, &folder, place)?;
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
        command.args(["sh", "-c", if place == Place::Node { ENTER_NODE } else { ENTER }]);
        command.arg(folder.join("config.toml")).arg(node_files(node));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().context("run unshare")?;
        let name = node.folder().file_name().and_then(|name| name.to_str()).context("the node's name")?;
        let cri = Cri::new(&folder.join("socket"));
        let containerd = Self { child, cgroup: format!("/{name}"), cri, folder };
        ensure!(
            eventually(Duration::from_secs(30), || containerd.cri.answers()),
            "containerd does not answer:\n{}",
            containerd.log()
        );
        let archive = containerd.folder.join("image.tar");
        if !archive.exists() {
            image(&containerd.folder, &archive)?;
            containerd.import(&archive)?;
        }
        Ok(containerd)
    }

    /// Has it know the images of an archive; returns what is said of that.
    pub fn import(&self, archive: &Path) -> Result<String> {
        run(self.ctr().args(["import", "--snapshotter", "native"]).arg(archive))
    }

    /// Names of the images that it knows.
    pub fn images(&self) -> Result<String> {
        run(self.ctr().args(["list", "--quiet"]))
    }

    fn ctr(&self) -> Command {
        let mut ctr = Command::new("ctr");
        ctr.arg("-a").arg(self.folder.join("socket")).args(["-n", "k8s.io", "images"]);
        ctr
    }

    /// Runs a sandbox for a pod of that name; returns its id.
    pub fn run_sandbox(&self, pod: &str) -> Result<String> {
        self.run_sandbox_of("default", pod)
    }

    /// The same, for a pod of a namespace.
    pub fn run_sandbox_of(&self, namespace: &str, pod: &str) -> Result<String> {
        let metadata = [text(1, pod), text(2, &format!("uid-of-{pod}")), text(3, namespace)].concat();
        self.cri.run_sandbox(&[field(1, &metadata), field(8, &text(1, &self.cgroup))].concat())
    }

    /// The same, for a pod of `default` of which more is said: the fields of `PodSandboxConfig` behind its metadata.
    pub fn run_sandbox_with(&self, pod: &str, fields: &[u8]) -> Result<String> {
        let metadata = [text(1, pod), text(2, &format!("uid-of-{pod}")), text(3, "default")].concat();
        self.cri.run_sandbox(&[&field(1, &metadata), fields, &field(8, &text(1, &self.cgroup))].concat())
    }

    /// The cgroup of all its pods.
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// A process in its mount namespace, and outside of its process namespace.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Where a path of its mount namespace is seen from outside.
    pub fn seen(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.process()))
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

/// The folder of the files of a node that is no other's.
pub fn node_files(node: &Node) -> PathBuf {
    node.folder().join("node")
}

fn configure(node: &Node, folder: &Path, place: Place) -> Result<()> {
    let (plugins, networks) = match place {
        Place::Beside => (folder.join("plugins"), folder.join("networks")),
        Place::Node => ("/opt/cni/bin".into(), "/etc/cni/net.d".into()),
    };
    if place == Place::Beside {
        install(node, &plugins, &networks)?;
    }
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
        netns_mounts_under_state_dir = {}
        disable_apparmor = true
        [plugins."io.containerd.grpc.v1.cri".containerd]
        snapshotter = "native"
        [plugins."io.containerd.grpc.v1.cri".cni]
        bin_dir = "{}"
        conf_dir = "{}"
        "#,
        place == Place::Beside,
        plugins.display(),
        networks.display(),
    );
    fs::write(folder.join("config.toml"), config)?;
    Ok(())
}

/// Puts the plugins under test and the network configuration where containerd looks.
fn install(node: &Node, plugins: &Path, networks: &Path) -> Result<()> {
    fs::create_dir(plugins)?;
    fs::create_dir(networks)?;
    // It takes one folder only, and sets up the loopback by its plugin.
    symlink(node.binaries().plugin(), plugins.join("cambric"))?;
    for name in ["loopback", "bandwidth"] {
        symlink(Binaries::others().join(name), plugins.join(name))?;
    }
    let network = json!({
        "cniVersion": "1.0.0",
        "cniVersions": ["1.0.0", "1.1.0"],
        "name": "pods",
        "plugins": [
            { "type": "cambric", "socket": node.socket(), "capabilities": { "portMappings": true, "dns": true } },
            { "type": "bandwidth", "capabilities": { "bandwidth": true } },
        ],
    });
    fs::write(networks.join("10-cambric.conflist"), network.to_string())?;
    Ok(())
}

/// Makes the archive of an image with one static program in it, as `docker save` would.
fn image(folder: &Path, archive: &Path) -> Result<()> {
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
    let files = ["manifest.json", "config.json", "layer.tar"];
    run(Command::new("tar").arg("-C").arg(&parts).arg("-cf").arg(archive).args(files))?;
    Ok(())
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
