//! In a cluster: the API server of the tests, two nodes in two subnets, and kubelets.

use std::{
    fs,
    net::IpAddr,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use integration::{
    fleet::{Fleet, Place, Subnet},
    needs_root,
    testbed::{Machine, Node, eventually},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;
use tempfile::TempDir;

use super::{kubelet::Kubelets, resolver::Resolver, told::Told};

const NEAR: Place = Place::new(Subnet::First, 11);
const FAR: Place = Place::new(Subnet::Second, 21);
const PATIENCE: Duration = Duration::from_mins(1);

/// A cluster of two nodes, with a DNS server.
struct Scene {
    // Dropped in this order: the nodes before what they stand on.
    near: Node,
    far: Node,
    _resolver: Resolver,
    fleet: Fleet,
    folder: TempDir,
}

impl Scene {
    fn new() -> Result<Self> {
        let fleet = Fleet::new()?;
        let (near, far) = (fleet.node("near", NEAR, &[])?, fleet.node("far", FAR, &[])?);
        fleet.put(&json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet",
            "metadata": {"name": "cambric", "namespace": "kube-system", "labels": {"app.kubernetes.io/name": "cambric"}},
            "spec": {"template": {"spec": {"containers": [{"name": "cambric", "image": "cambric:tests"}]}}},
        }))?;
        let router: IpAddr = Subnet::First.router().0.into();
        let resolver = Resolver::start(fleet.router.netns(), router)?;
        let folder = tempfile::tempdir()?;
        let search = "search x.svc.cluster.local svc.cluster.local cluster.local";
        fs::write(
            folder.path().join("resolv.conf"),
            format!("nameserver {router}\n{search}\noptions ndots:5\n"),
        )?;
        Ok(Self { near, far, _resolver: resolver, fleet, folder })
    }

    fn kubelets(&self) -> Result<Kubelets<'_>> {
        let server = self.fleet.server().context("an API server")?;
        Ok(Kubelets { server, nodes: vec![(&self.near, NEAR), (&self.far, FAR)], folder: self.folder.path() })
    }

    fn command(&self, which: &str, args: &[&str]) -> Result<Command> {
        let mut command = self.fleet.router.netns().command(self.near.binaries().ctl())?;
        command.args(["-o", "json", "connectivity", which, "--kubeconfig"]).arg(self.fleet.kubeconfig());
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(command)
    }

    fn namespaces(&self) -> Vec<String> {
        let all = self.fleet.server().map(|server| server.all("namespaces")).unwrap_or_default();
        let names = all.iter().filter_map(|it| it["metadata"]["name"].as_str().map(ToOwned::to_owned));
        names.filter(|name| name.starts_with("cambric-connectivity-")).collect()
    }

    /// What each node has dropped, for a failure.
    fn drops(&self) -> String {
        let of =
            |node: &Node| format!("{}: {:?}\n", node.name(), node.status().map(|it| it["drops"].clone()));
        [&self.near, &self.far].map(of).concat()
    }

    fn nothing_is_left(&self) -> Result<()> {
        ensure!(self.namespaces().is_empty(), "{:?}", self.namespaces());
        for node in [&self.near, &self.far] {
            node.is_left_clean()?;
        }
        Ok(())
    }
}

#[test]
fn a_healthy_cluster_has_nothing_to_be_found_and_nothing_is_left_in_it() -> Result<()> {
    needs_root!();
    let scene = Scene::new()?;
    scene.kubelets()?.beside(|| {
        let told = Told::read(&scene.command("test", &[])?.output()?);
        told.is_all_well().with_context(|| scene.drops())?;
        for (from, to) in [("client-0", "server-1"), ("client-1", "server-0"), ("client-0", "server-0")] {
            let met = told.rows("ok").into_iter().any(|row| {
                row["from"] == from
                    && row["check"] == "mtu-sized"
                    && row["to"].as_str().is_some_and(|it| it.starts_with(to))
            });
            ensure!(met, "{from} does not meet {to}");
        }
        scene.nothing_is_left()
    })
}

#[test]
fn a_node_that_is_cut_off_is_found() -> Result<()> {
    needs_root!();
    let scene = Scene::new()?;
    // Frames of the overlay do not pass from one subnet to the other.
    scene
        .fleet
        .router
        .netns()
        .run("iptables", &["-A", "FORWARD", "-p", "udp", "--dport", "4789", "-j", "DROP"])?;
    scene.kubelets()?.beside(|| {
        let told = Told::read(&scene.command("test", &["--patience=1"])?.output()?);
        ensure!(told.code == Some(1), "{told:?}");
        let between = |row: &serde_json::Value| {
            let (from, to) =
                (row["from"].as_str().unwrap_or_default(), row["to"].as_str().unwrap_or_default());
            from.chars().last() == to.split(' ').next().and_then(|it| it.chars().last())
        };
        let pods = |result: &str| {
            told.rows(result)
                .into_iter()
                .filter(|row| row["check"] == "pod-to-pod")
                .map(between)
                .collect::<Vec<_>>()
        };
        let (ok, failed) = (pods("ok"), pods("failed"));
        ensure!(!ok.is_empty() && ok.iter().all(|same_node| *same_node), "{}", told.failures());
        ensure!(!failed.is_empty() && failed.iter().all(|same_node| !same_node), "{}", told.failures());
        ensure!(told.hints("pod-to-pod").contains("4789"));
        scene.nothing_is_left()
    })
}

#[test]
fn an_interrupted_run_leaves_nothing_in_the_cluster_and_a_killed_one_is_cleaned() -> Result<()> {
    needs_root!();
    let scene = Scene::new()?;
    let server = scene.fleet.server().context("an API server")?;
    scene.kubelets()?.beside(|| {
        for (signal, pods) in [(Some(Signal::SIGINT), 1), (Some(Signal::SIGTERM), 6), (None, 6)] {
            // Nobody answers there, and it is waited for.
            let mut child = scene.command("test", &["--patience=60", "--outside=192.0.2.77"])?.spawn()?;
            ensure!(eventually(PATIENCE, || server.all("pods").len() >= pods), "{:?}", server.all("pods"));
            if let Some(signal) = signal {
                kill(Pid::from_raw(i32::try_from(child.id())?), signal)?;
                let told = Told::read(&child.wait_with_output()?);
                ensure!(told.code == Some(2), "{told:?}");
            } else {
                child.kill()?;
                child.wait()?;
                ensure!(scene.namespaces().len() == 1);
                let out = scene.command("clean", &[])?.output()?;
                ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            }
            scene.nothing_is_left()?;
        }
        Ok(())
    })
}

#[test]
fn a_cluster_that_refuses_is_not_said_to_be_broken() -> Result<()> {
    needs_root!();
    let scene = Scene::new()?;
    let server = scene.fleet.server().context("an API server")?;
    server.behave(|server| {
        server.refuses.insert("networkpolicies", 403);
    });
    let told = Told::read(&scene.command("test", &[])?.output()?);
    ensure!(told.code == Some(2), "{told:?}");
    ensure!(scene.namespaces().is_empty());
    Ok(())
}
