//! Deny sets: their prefixes are dropped at the uplinks, whatever happens to the daemon, and nobody else is.

use std::{
    fs,
    mem::MaybeUninit,
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bpf::{
    DenySkelBuilder,
    attach::{XdpMode, attach_xdp},
};
use integration::{
    needs_root,
    testbed::{
        FAR4, FAR6, Machine, Marked, NEIGHBOUR4, NEIGHBOUR6, NODE4, NODE6, Node, Settings, eventually,
    },
};
use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);
const MARK: &str = "from-a-denied-address";

/// A node that follows a directory of deny sets.
struct Scene {
    node: Node,
    lists: PathBuf,
    _folder: tempfile::TempDir,
}

impl Scene {
    fn new(flags: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let lists = folder.path().join("deny");
        fs::create_dir(&lists)?;
        let mut settings =
            Settings::default().cluster().flag(format!("--deny-directory={}", lists.display()));
        for flag in flags {
            settings = settings.flag(*flag);
        }
        Ok(Self { node: Node::new(settings)?, lists, _folder: folder })
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        // As a program that publishes a list.
        fs::write(self.lists.join(".new"), text)?;
        Ok(fs::rename(self.lists.join(".new"), self.lists.join(name))?)
    }

    /// Whether the neighbour reaches the node from this address of its own.
    fn reaches_from(&self, from: IpAddr) -> Result<bool> {
        let to: IpAddr = if from.is_ipv4() { NODE4.into() } else { NODE6.into() };
        let pings = self.node.neighbour.ping(to, &["-c2", "-i0.05", "-W1", "-I", &from.to_string()])?;
        Ok(pings.received > 0)
    }

    fn becomes(&self, from: IpAddr, reaches: bool) -> Result<()> {
        let is = || self.reaches_from(from).is_ok_and(|now| now == reaches);
        ensure!(
            eventually(PATIENCE, is),
            "{from}: reaches is not {reaches}: {} {}",
            self.deny()?,
            self.node.status()?["drops"]
        );
        Ok(())
    }

    fn deny(&self) -> Result<Value> {
        self.node.ctl(&["deny", "list"])
    }

    fn problems(&self) -> Result<String> {
        Ok(self.node.status()?["problems"].to_string())
    }
}

#[test]
fn what_a_list_names_is_dropped_and_nobody_else() -> Result<()> {
    needs_root!();
    let scene = Scene::new(&[])?;
    scene.node.start_daemon()?;
    scene.becomes(FAR4.into(), true)?;
    ensure!(scene.deny()?["uplinks"].as_object().context("an object")?.is_empty(), "no set, no program");
    scene.write("drop.txt", &format!("# far\n{FAR4}\n{FAR6}/128 ; SBL1\n"))?;
    for (denied, other) in [(IpAddr::from(FAR4), NEIGHBOUR4.into()), (FAR6.into(), IpAddr::from(NEIGHBOUR6))]
    {
        scene.becomes(denied, false)?;
        ensure!(scene.reaches_from(other)?, "{other} is not denied");
    }
    let deny = scene.deny()?;
    ensure!(deny["uplinks"]["uplink"] == "native", "{deny}");
    ensure!(deny["sets"][0]["name"] == "file drop.txt" && deny["sets"][0]["prefixes"] == 2, "{deny}");
    ensure!(deny["sets"][0]["packets"].as_u64() >= Some(2), "{deny}");

    // A list that is broken changes nothing, and is told.
    scene.write("drop.txt", "192.0.2.0/24\nnonsense\n")?;
    let told = || scene.problems().is_ok_and(|problems| problems.contains("drop.txt: line 2"));
    ensure!(eventually(PATIENCE, told), "{}", scene.problems()?);
    ensure!(!scene.reaches_from(FAR4.into())? && scene.reaches_from(NEIGHBOUR4.into())?);

    fs::remove_file(scene.lists.join("drop.txt"))?;
    scene.becomes(FAR4.into(), true)?;
    scene.becomes(FAR6.into(), true)?;
    let gone =
        || scene.deny().is_ok_and(|deny| deny["uplinks"].as_object().is_some_and(serde_json::Map::is_empty));
    ensure!(eventually(PATIENCE, gone), "{}", scene.deny()?);
    let link = scene.node.netns().ip("link show dev uplink")?;
    ensure!(!link.contains("xdp"), "{link}");
    Ok(())
}

#[test]
fn a_labelled_set_of_the_cluster_denies_and_nodes_and_exempt_prefixes_are_let_through() -> Result<()> {
    needs_root!();
    let scene = Scene::new(&["--deny-exempt=198.51.100.0/28"])?;
    scene.node.neighbour.netns().ip("address add 198.51.100.77/32 dev lo")?;
    scene.node.start_daemon()?;
    let set = |label: &str| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkSet\nmetadata: {{ name: bad, labels: {{ cambric.io/deny: '{label}' }} }}\n\
             spec: {{ nets: ['198.51.100.0/24', '192.0.2.0/24', '2001:db8::/32'] }}\n"
        )
    };
    let path = scene.node.cluster().join("set.yaml");
    fs::write(&path, set("true"))?;
    scene.becomes([198, 51, 100, 77].into(), false)?;
    scene.becomes(NEIGHBOUR4.into(), false)?;
    scene.becomes(FAR6.into(), false)?;
    ensure!(scene.reaches_from(FAR4.into())?, "it is in an exempt prefix");
    // The neighbour becomes a node of the cluster.
    let node = format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{ name: other }}\nspec: {{ podCIDRs: ['10.99.0.0/24'] }}\n\
         status: {{ addresses: [{{ type: InternalIP, address: {NEIGHBOUR4} }}] }}\n"
    );
    fs::write(scene.node.cluster().join("node.yaml"), node)?;
    scene.becomes(NEIGHBOUR4.into(), true)?;
    ensure!(!scene.reaches_from([198, 51, 100, 77].into())?);
    // Without the label it is a set as others.
    fs::write(&path, set("false"))?;
    scene.becomes([198, 51, 100, 77].into(), true)?;
    scene.becomes(FAR6.into(), true)
}

#[test]
fn nothing_passes_while_the_daemon_is_killed_and_a_list_is_replaced() -> Result<()> {
    needs_root!();
    let scene = Scene::new(&[])?;
    scene.write("drop.txt", &FAR4.to_string())?;
    scene.node.start_daemon()?;
    scene.becomes(FAR4.into(), false)?;
    let tap = scene.node.tap(MARK)?;
    let neighbour = scene.node.neighbour.netns();
    // What it sends comes from the denied address.
    neighbour.ip(&format!("route replace {NODE4} dev lan src {FAR4}"))?;
    let to = SocketAddr::new(NODE4.into(), 7777);
    let spray = scene.node.neighbour.spray(vec![to], MARK, Duration::from_micros(200))?;
    for round in 0..6 {
        match round % 3 {
            0 => scene.node.kill_daemon(),
            1 => scene.node.stop_daemon()?,
            // Other numbers for the sets, and other entries.
            _ => {
                scene.write("a.txt", "203.0.113.0/24")?;
                scene.write("drop.txt", &format!("{FAR4}\n203.0.113.7\n"))?;
                let sets = || scene.deny().is_ok_and(|deny| deny["sets"][0]["name"] == "file a.txt");
                ensure!(eventually(PATIENCE, sets), "{}", scene.deny()?);
                fs::remove_file(scene.lists.join("a.txt"))?;
                scene.node.kill_daemon();
            }
        }
        scene.node.start_daemon()?;
        let attached = || scene.deny().is_ok_and(|deny| deny["uplinks"]["uplink"] == "native");
        ensure!(eventually(PATIENCE, attached), "{}", scene.deny()?);
    }
    // A directory that is away says nothing.
    fs::rename(&scene.lists, scene.lists.with_extension("away"))?;
    scene.node.kill_daemon();
    scene.node.start_daemon()?;
    let told = || scene.problems().is_ok_and(|problems| problems.contains("the directory of deny sets"));
    ensure!(eventually(PATIENCE, told), "{}", scene.problems()?);
    ensure!(spray.sent() > 1_000, "{} were sent", spray.sent());
    drop(spray);
    ensure!(tap.count() == 0, "{} arrived", tap.count());
    Ok(())
}

#[test]
fn a_program_of_somebody_else_is_named_and_the_mode_may_be_chosen() -> Result<()> {
    needs_root!();
    let scene = Scene::new(&["--deny-mode=generic"])?;
    let mut object = MaybeUninit::uninit();
    let other = DenySkelBuilder::default().open(&mut object)?.load()?;
    let program = other.progs.deny_generic.as_fd();
    let link = scene.node.netns().inside(move || -> Result<_> {
        let ifindex = nix::net::if_::if_nametoindex("uplink")?;
        Ok(attach_xdp(program, ifindex, XdpMode::Generic)?)
    })?;
    scene.write("drop.txt", &FAR4.to_string())?;
    scene.node.start_daemon()?;
    let told =
        || scene.problems().is_ok_and(|it| it.contains("what deny sets name is not dropped at uplink"));
    ensure!(eventually(PATIENCE, told), "{}", scene.problems()?);
    scene.becomes(FAR4.into(), true)?;
    drop(link);
    scene.becomes(FAR4.into(), false)?;
    // What is let through must be to the programs behind as if there were no XDP.
    for other in [IpAddr::from(NEIGHBOUR4), NEIGHBOUR6.into(), FAR6.into()] {
        ensure!(scene.reaches_from(other)?, "{other} is not denied: {}", scene.node.status()?["drops"]);
    }
    ensure!(scene.deny()?["uplinks"]["uplink"] == "generic", "{}", scene.deny()?);
    let well = || scene.problems().is_ok_and(|problems| !problems.contains("deny sets"));
    ensure!(eventually(PATIENCE, well), "{}", scene.problems()?);
    Ok(())
}
