//! A node: its namespace, its uplink, its daemon and its pods.

use std::{
    borrow::Cow,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::Output,
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use ipamd_waiting::eventually;

use super::{
    binaries::Binaries, daemon::Daemon, machine::Machine, names::unique, neighbour::Neighbour, netns::Netns,
    sweep,
};

/// How many full frames wait for a neighbour that does not answer. The kernel sends the ICMP answers of all namespaces through one socket
/// for each processor and family, with room for some 350. With the usual 101 frames a few neighbours hold all of them for seconds, and
/// pings in other tests that run at the same time are not answered.
const UNRESOLVED: &str = "4";

/// The node's address on its uplink.
pub const NODE4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// As [`NODE4`].
pub const NODE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
/// The neighbour's address on the node's network.
pub const NEIGHBOUR4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// As [`NEIGHBOUR4`].
pub const NEIGHBOUR6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// An address of the neighbour that the node has no route of its own to.
pub const FAR4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// As [`FAR4`].
pub const FAR6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xfa, 0, 0, 0, 0, 1);

/// The address on its uplink of the node that [`Node::beside`] makes.
pub const OTHER4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
/// As [`OTHER4`].
pub const OTHER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2);

/// The network that a node shares with its neighbour.
struct Lan {
    /// The neighbour's end of the link.
    link: Cow<'static, str>,
    /// The neighbour's bridge that the link is a port of; without one it carries the neighbour's addresses itself.
    bridge: Option<&'static str>,
    node4: Ipv4Addr,
    node6: Ipv6Addr,
    neighbour4: Ipv4Addr,
    neighbour6: Ipv6Addr,
}

static LAN: Lan = Lan {
    link: Cow::Borrowed("lan"),
    bridge: None,
    node4: NODE4,
    node6: NODE6,
    neighbour4: NEIGHBOUR4,
    neighbour6: NEIGHBOUR6,
};
static OTHER_LAN: Lan = Lan {
    link: Cow::Borrowed("other-lan"),
    bridge: None,
    node4: OTHER4,
    node6: OTHER6,
    neighbour4: Ipv4Addr::new(198, 18, 0, 1),
    neighbour6: Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1),
};

/// How a node's daemon is started.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `--pool`, each.
    pub pools: Vec<String>,
    /// Other flags.
    pub flags: Vec<String>,
    /// Whether the daemon follows a directory of manifests.
    pub cluster: bool,
}

impl Default for Settings {
    fn default() -> Self {
        let pools = ["10.88.0.0/16", "fd00:88::/64"].map(str::to_owned).to_vec();
        // A connection table that is quickly made: the tests start hundreds of daemons.
        let flags =
            ["--node-name=node", "--conntrack-size=8192", "--log-level=debug"].map(str::to_owned).to_vec();
        Self { pools, flags, cluster: false }
    }
}

impl Settings {
    /// With these pools instead.
    #[must_use]
    pub fn pools(mut self, pools: &[&str]) -> Self {
        self.pools = pools.iter().map(|&pool| pool.to_owned()).collect();
        self
    }

    /// With a directory of manifests as the cluster, empty at first.
    #[must_use]
    pub fn cluster(mut self) -> Self {
        self.cluster = true;
        self
    }

    /// With one more flag.
    #[must_use]
    pub fn flag(mut self, flag: impl Into<String>) -> Self {
        self.flags.push(flag.into());
        self
    }
}

/// A node in a namespace of its own, with a neighbour that is its default route: nothing leaves the machine.
#[derive(Debug)]
pub struct Node {
    // Dropped in this order: the daemon before what it stands on.
    daemon: Mutex<Option<Daemon>>,
    settings: Settings,
    binaries: Mutex<Binaries>,
    netns: Netns,
    /// The machine on the other end of the uplink.
    pub neighbour: Neighbour,
    folder: TempDir,
    bpffs: PathBuf,
}

impl Node {
    /// A node whose daemon runs, with the default settings.
    pub fn start() -> Result<Self> {
        Self::start_with(Settings::default())
    }

    /// A node whose daemon runs and follows a directory of manifests.
    pub fn in_cluster() -> Result<Self> {
        Self::start_with(Settings::default().cluster())
    }

    /// A node whose daemon runs.
    pub fn start_with(settings: Settings) -> Result<Self> {
        let node = Self::new(settings)?;
        node.start_daemon()?;
        Ok(node)
    }

    /// A node without a daemon as yet.
    pub fn new(settings: Settings) -> Result<Self> {
        let node = Self::make(settings, Neighbour::new()?, &LAN)?;
        node.neighbour.netns().ip(&format!("address add {FAR4}/32 dev lo"))?;
        node.neighbour.netns().ip(&format!("address add {FAR6}/128 dev lo nodad"))?;
        Ok(node)
    }

    /// Another node, whose daemon runs. Their neighbour routes between the two, and knows the way to the pools of both.
    pub fn beside(&self, settings: Settings) -> Result<Self> {
        let router = self.neighbour.netns();
        router.sysctl("net/ipv4/ip_forward", "1")?;
        router.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        let node = Self::make(settings, self.neighbour.clone(), &OTHER_LAN)?;
        for (pools, lan) in [(&self.settings.pools, &LAN), (&node.settings.pools, &OTHER_LAN)] {
            for pool in pools {
                let via = if pool.contains(':') { lan.node6.to_string() } else { lan.node4.to_string() };
                router.ip(&format!("route add {pool} via {via}"))?;
            }
        }
        node.start_daemon()?;
        Ok(node)
    }

    /// A node without a daemon on a router's bridge: the `host`th of the subnet of these addresses of the router's.
    pub(crate) fn on_bridge(
        settings: Settings,
        router: &Neighbour,
        bridge: &'static str,
        (router4, router6): (Ipv4Addr, Ipv6Addr),
        host: u8,
    ) -> Result<Self> {
        let ([a, b, c, _], mut six) = (router4.octets(), router6.segments());
        six[7] = host.into();
        let lan = Lan {
            link: format!("{bridge}-{host}").into(),
            bridge: Some(bridge),
            node4: [a, b, c, host].into(),
            node6: six.into(),
            neighbour4: router4,
            neighbour6: router6,
        };
        Self::make(settings, router.clone(), &lan)
    }

    fn make(settings: Settings, neighbour: Neighbour, lan: &Lan) -> Result<Self> {
        let binaries = Mutex::new(Binaries::find()?);
        let netns = Netns::new("node")?;
        let name = unique();
        let folder = tempfile::Builder::new().prefix(&format!("{name}-")).tempdir()?;
        let bpffs = Path::new(sweep::BPFFS).join(name);
        let node = Self { daemon: Mutex::new(None), settings, binaries, netns, neighbour, folder, bpffs };
        node.connect(lan)?;
        Ok(node)
    }

    fn connect(&self, lan: &Lan) -> Result<()> {
        let (node, neighbour) = (self.netns(), self.neighbour.netns());
        let there = neighbour.path().display();
        node.ip(&format!("link add uplink type veth peer name {} netns {there}", lan.link))?;
        let mut ends = vec![(node, "uplink", lan.node4, lan.node6)];
        match lan.bridge {
            Some(bridge) => {
                neighbour.ip(&format!("link set dev {} up master {bridge}", lan.link))?;
            }
            None => ends.push((neighbour, &lan.link, lan.neighbour4, lan.neighbour6)),
        }
        for (netns, link, v4, v6) in ends {
            for family in ["ipv4", "ipv6"] {
                netns.sysctl(&format!("net/{family}/neigh/{link}/unres_qlen"), UNRESOLVED)?;
            }
            netns.ip(&format!("address add {v4}/24 dev {link}"))?;
            netns.ip(&format!("address add {v6}/64 dev {link} nodad"))?;
            netns.ip(&format!("link set dev {link} up"))?;
        }
        node.ip(&format!("route add default via {}", lan.neighbour4))?;
        node.ip(&format!("-6 route add default via {}", lan.neighbour6))?;
        Ok(())
    }

    /// Starts the daemon and waits until it is ready.
    pub fn start_daemon(&self) -> Result<()> {
        self.start_daemon_with(&[])
    }

    /// Starts the daemon with more flags than those of the node, and waits until it is ready.
    pub fn start_daemon_with(&self, flags: &[&str]) -> Result<()> {
        let mut daemon = self.launch(flags)?;
        daemon.wait_until_ready(&self.socket())?;
        *self.daemon() = Some(daemon);
        Ok(())
    }

    /// Starts the daemon and does not wait until it is ready.
    pub fn launch_daemon(&self) -> Result<()> {
        *self.daemon() = Some(self.launch(&[])?);
        Ok(())
    }

    fn launch(&self, flags: &[&str]) -> Result<Daemon> {
        let mut command = self.netns.command(self.binaries().daemon())?;
        let config = self.folder.path().join("ipamd.toml");
        // There and empty: the machine's own must not be read.
        std::fs::write(&config, "")?;
        command.arg("--config").arg(config).arg("--socket").arg(self.socket());
        command.arg("--state-dir").arg(self.state_dir()).arg("--bpffs").arg(&self.bpffs);
        command
            .args(self.settings.pools.iter().map(|pool| format!("--pool={pool}")))
            .args(&self.settings.flags)
            .args(flags);
        if self.settings.cluster {
            std::fs::create_dir_all(self.cluster())?;
            command.arg(format!("--cluster=dir:{}", self.cluster().display()));
        }
        Daemon::start(command, self.folder.path().join("log"))
    }

    /// The daemon; `None` while none runs.
    pub fn daemon(&self) -> MutexGuard<'_, Option<Daemon>> {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills the daemon on the spot.
    pub fn kill_daemon(&self) {
        if let Some(daemon) = self.daemon().take() {
            daemon.kill9();
        }
    }

    /// Has the daemon stop in its own time.
    pub fn stop_daemon(&self) -> Result<()> {
        self.daemon().take().context("no daemon runs")?.stop()
    }

    /// What its daemons have logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// The name that its daemon goes by.
    pub fn name(&self) -> String {
        let named = self.settings.flags.iter().find_map(|flag| flag.strip_prefix("--node-name="));
        named.unwrap_or_default().to_owned()
    }

    /// The daemon's socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("run/ipamd.sock")
    }

    /// The daemon's records.
    pub fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// The folder of the node's files, for what a test adds.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where the programs are pinned.
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// The programs under test.
    pub fn binaries(&self) -> Binaries {
        self.binaries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has those of another version run from now on.
    pub fn use_binaries(&self, binaries: Binaries) {
        *self.binaries.lock().unwrap_or_else(PoisonError::into_inner) = binaries;
    }

    /// A network configuration of one plugin, `cambric`, as a runtime hands it over.
    pub fn config(&self) -> Value {
        serde_json::json!({
            "cniVersion": "1.1.0", "name": "net", "type": "cambric", "socket": self.socket(), "logLevel": "debug",
            "logFile": self.folder.path().join("plugin.log"),
        })
    }

    /// Asks `cambricctl`.
    pub fn ctl(&self, args: &[&str]) -> Result<Value> {
        let mut command = self.netns.command(self.binaries().ctl())?;
        let out = command.arg("--socket").arg(self.socket()).args(["-o", "json"]).args(args).output()?;
        ensure!(out.status.success(), "cambricctl {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        Ok(serde_json::from_slice(&out.stdout)?)
    }

    /// What `cambricctl status` says, whether the node is ready or not.
    pub fn status(&self) -> Result<Value> {
        Ok(serde_json::from_slice(&self.ctl_output(&["-o", "json", "status"])?.stdout)?)
    }

    /// Runs `cambricctl` for what it prints and how it ends.
    pub fn ctl_output(&self, args: &[&str]) -> Result<Output> {
        let mut command = self.netns.command(self.binaries().ctl())?;
        Ok(command.arg("--socket").arg(self.socket()).args(args).output()?)
    }

    /// How many packets were dropped for `reason`.
    pub fn drops(&self, reason: &str) -> Result<u64> {
        Ok(self.status()?["drops"][reason].as_u64().unwrap_or(0))
    }

    /// The links that belong to pods.
    pub fn pod_links(&self) -> Result<Vec<String>> {
        let mut links = self.netns.links()?;
        links.retain(|link| link.starts_with("cmb"));
        Ok(links)
    }

    /// Everything on the node that belongs to pods, in words: links, routes, neighbours, link pins, notes, addresses in
    /// use.
    pub fn leftovers(&self) -> Result<Vec<String>> {
        let mut left = self.pod_links()?;
        for show in ["-4 route show table all", "-6 route show table all", "neighbour show"] {
            let text = self.netns.ip(show)?;
            left.extend(text.lines().filter(|line| line.contains("cmb")).map(str::to_owned));
        }
        let released = self.socket().with_file_name("released");
        for folder in [self.bpffs.join("links"), released] {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            left.extend(
                entries.map(|entry| entry.path()).filter(|path| !path.ends_with("uplinks")).filter_map(
                    |path| {
                        let name = path.file_name()?.to_str()?;
                        (name.starts_with("cmb")).then(|| path.display().to_string())
                    },
                ),
            );
        }
        let listing = self.ctl(&["ipam", "list"])?;
        left.extend(listing["addresses"].as_array().into_iter().flatten().map(Value::to_string));
        Ok(left)
    }

    /// Fails if something of pods is left on the node. A DEL that the kernel keeps waiting for its interface returns, and the
    /// daemon removes the pins when the interface is gone: so this waits.
    pub fn is_left_clean(&self) -> Result<()> {
        let clean = eventually(std::time::Duration::from_secs(15), || {
            self.leftovers().is_ok_and(|left| left.is_empty())
        });
        ensure!(clean, "left over: {:#?}", self.leftovers()?);
        Ok(())
    }
}

impl Machine for Node {
    fn netns(&self) -> &Netns {
        &self.netns
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the node's log\n{}", self.log());
        }
        self.kill_daemon();
        let _ = std::fs::remove_dir_all(&self.bpffs);
    }
}
