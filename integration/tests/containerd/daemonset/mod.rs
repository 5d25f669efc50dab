//! A node gets Cambric by `kubectl apply`, then a newer one, boots, and loses it again: the manifests and the image are those
//! that are shipped, the runtime is containerd, and the pods are what a kubelet makes of them.

mod cluster;
mod config;
mod kubelet;

use std::{fs, os::unix::fs::chown, process::Command, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use integration::{
    needs_root,
    testbed::{
        Addressed, FAR4, FAR6, Flowing, Machine, Snapshot, allowed, denied, eventually, hold, tcp, throughout,
    },
};
use k8s_openapi::api::apps::v1::DaemonSet;

use self::cluster::{Cluster, IMAGE, PATIENCE, Workload, daemon_set, install};
use crate::runtime::{Containerd, node_files, run};

/// The image of an upgrade, whose plugin ends with this.
const NEXT: &str = "localhost/cambric:next";
const NEWER: &str = "a newer plugin";

/// Between two datagrams of a flow.
const PACE: Duration = Duration::from_millis(2);

/// Three pods, of whom one guards itself.
struct Pods {
    guarded: Workload,
    friend: Workload,
    stranger: Workload,
}

impl Pods {
    fn run(cluster: &Cluster, containerd: &Containerd) -> Result<Self> {
        cluster.guard()?;
        let [guarded, friend, stranger] =
            ["guarded", "friend", "stranger"].map(|app| cluster.run_pod(containerd, app));
        Ok(Self { guarded: guarded?, friend: friend?, stranger: stranger? })
    }

    fn are_guarded(&self) -> Result<()> {
        let friend = allowed(&self.friend, &self.guarded, tcp(80));
        hold(friend.into_iter().chain(denied(&self.stranger, &self.guarded, tcp(80))))
    }
}

#[test]
fn a_node_gets_its_network_by_the_manifest() -> Result<()> {
    needs_root!();
    let cluster = Cluster::new()?;
    let containerd = cluster.containerd()?;
    let kubelet = cluster.kubelet(&containerd);
    let daemon = install(&kubelet, IMAGE)?;
    let preflight = daemon.log("preflight");
    ensure!(preflight.contains("capabilities") && !preflight.contains("FAIL"), "{preflight}");
    ensure!(cluster.conflist().exists() && cluster.plugin().exists(), "{}", daemon.log("cambric"));
    cluster.network_is_available()?;
    let status = fs::read_to_string(cluster.daemon()?.join("status"))?;
    // DAC_OVERRIDE (1), NET_ADMIN (12), SYS_PTRACE (19), SYS_ADMIN (21); and a filter of system calls.
    ensure!(status.contains("CapBnd:\t0000000000281002\n") && status.contains("Seccomp:\t2\n"), "{status}");

    let pods = Pods::run(&cluster, &containerd)?;
    ensure!(pods.guarded.known_by().len() == 2, "{:?}", pods.guarded);
    let _listeners = pods.guarded.serve(&pods.guarded.known_by(), &[tcp(80)])?;
    pods.are_guarded()?;
    ensure!(cluster.daemon_sees(&pods.stranger)?, "a namespace made after the daemon's is not in its mounts");
    ensure!(cluster.node.reaches(pods.guarded.known_by()[0])?, "the node to its pod");
    ensure!(pods.stranger.reaches(FAR4)? && pods.stranger.reaches(FAR6)?, "a pod to the world");
    containerd.cri.remove_sandbox(&pods.stranger.sandbox)?;
    ensure!(cluster.node.pod_links()?.len() == 2, "{:?}", cluster.node.pod_links()?);
    daemon.stop()
}

#[test]
fn an_upgrade_by_the_manifest_loses_no_packet() -> Result<()> {
    needs_root!();
    let cluster = Cluster::new()?;
    let containerd = cluster.containerd()?;
    containerd.import(&cluster.image(NEXT, NEWER)?)?;
    let kubelet = cluster.kubelet(&containerd);
    let daemon = install(&kubelet, IMAGE)?;
    let pods = Pods::run(&cluster, &containerd)?;
    let echo = pods.guarded.serve_tcp((pods.guarded.known_by()[0], 80))?;
    let connection = pods.friend.connect(echo.address())?;
    connection.exchange(1 << 20)?;
    let [guarded4, guarded6] = pods.guarded.known_by()[..] else { bail!("{:?}", pods.guarded) };
    let flows = [
        ("pod to pod", pods.friend.udp_flow(&pods.guarded, (guarded4, 0), PACE)?),
        ("pod to pod, IPv6", pods.friend.udp_flow(&pods.guarded, (guarded6, 0), PACE)?),
        ("node to pod", cluster.node.udp_flow(&pods.guarded, (guarded4, 0), PACE)?),
        ("pod to the world", pods.stranger.udp_flow(&cluster.node.neighbour, (FAR4, 0), PACE)?),
    ];

    daemon.stop()?;
    connection.exchange(1 << 20)?;
    pods.are_guarded()?;
    let late = cluster.run_pod(&containerd, "late").expect_err("no daemon, no network").to_string();
    ensure!(late.contains("is cambric-ipamd running?"), "{late}");
    ensure!(cluster.conflist().exists(), "the kubelet takes the node for one without a network");
    let newer = || fs::read(cluster.plugin()).is_ok_and(|plugin| plugin.ends_with(NEWER.as_bytes()));
    ensure!(!newer(), "the plugin is the newer one already");
    let daemon = install(&kubelet, NEXT)?;
    ensure!(newer(), "the plugin is still the older one");
    connection.exchange(1 << 20)?;
    pods.are_guarded()?;
    cluster.run_pod(&containerd, "late")?;

    for (way, flow) in flows {
        flow.end().whole(way)?;
    }
    daemon.stop()
}

#[test]
fn a_node_that_boots_has_its_network_again() -> Result<()> {
    needs_root!();
    let cluster = Cluster::new()?;
    let before = {
        let containerd = cluster.containerd()?;
        let kubelet = cluster.kubelet(&containerd);
        let _daemon = install(&kubelet, IMAGE)?;
        cluster.run_pod(&containerd, "before")?
    };
    cluster.boot()?;

    let containerd = cluster.containerd()?;
    let kubelet = cluster.kubelet(&containerd);
    ensure!(cluster.conflist().exists());
    ensure!(cluster.run_pod(&containerd, "early").is_err(), "nobody can have given it a network");
    let daemon = install(&kubelet, IMAGE)?;
    let after = cluster.run_pod(&containerd, "after")?;
    ensure!(after.reaches(FAR4)? && cluster.node.reaches(after.known_by()[1])?);
    containerd.cri.remove_sandbox(&before.sandbox)?;
    let in_use =
        || cluster.node.ctl(&["ipam", "list"]).map(|list| list["addresses"].as_array().map_or(0, Vec::len));
    ensure!(eventually(PATIENCE, || in_use().is_ok_and(|count| count == 2)), "{:?} addresses", in_use()?);
    daemon.stop()
}

#[test]
fn uninstalling_by_the_manifest_leaves_the_node_as_it_was() -> Result<()> {
    needs_root!();
    let cluster = Cluster::new()?;
    let containerd = cluster.containerd()?;
    let kubelet = cluster.kubelet(&containerd);
    // As it is where the plugins of others were unpacked with the owner that they were packed by.
    chown(cluster.plugin().parent().context("its folder")?, Some(1001), Some(1001))?;
    let snapshot = || Snapshot::take(&cluster.node, &node_files(&cluster.node), containerd.process());
    let before = snapshot()?;
    let daemon = install(&kubelet, IMAGE)?;
    let pods = Pods::run(&cluster, &containerd)?;
    ensure!(pods.stranger.reaches(FAR4)?);
    let uninstall = daemon_set("uninstall.yaml", IMAGE)?;
    let refused = kubelet.run(&uninstall).expect_err("the daemon is there").to_string();
    ensure!(refused.contains("the daemon answers on"), "{refused}");
    ensure!(pods.stranger.reaches(FAR4)?, "it was refused, but something is gone");

    daemon.stop()?;
    let uninstalled = kubelet.run(&uninstall)?;
    uninstalled.wait_until_ready()?;
    ensure!(
        throughout(Duration::from_millis(200), || uninstalled.wait_until_ready().is_ok()),
        "it stays ready"
    );
    uninstalled.stop()?;
    ensure!(!pods.stranger.reaches(FAR4).unwrap_or(false), "somebody still carries its packets");
    before.equals(&snapshot()?)?;
    Ok(())
}

#[test]
fn uninstalling_finishes_where_it_may_not_enter_the_mounts_of_the_node() -> Result<()> {
    needs_root!();
    let cluster = Cluster::new()?;
    let containerd = cluster.containerd()?;
    let kubelet = cluster.kubelet(&containerd);
    // The node has a bpffs of its own, as under systemd.
    let mount = |args: &[&str]| {
        let namespace = format!("--mount=/proc/{}/ns/mnt", containerd.process());
        run(Command::new("nsenter").arg(namespace).args(args))
    };
    mount(&["mount", "-t", "bpf", "bpf", "/sys/fs/bpf"])?;
    let daemon = install(&kubelet, IMAGE)?;
    cluster.run_pod(&containerd, "pod")?;
    daemon.stop()?;

    let mut uninstall = daemon_set("uninstall.yaml", IMAGE)?;
    deny_entering(&mut uninstall)?;
    let uninstalled = kubelet.run(&uninstall)?;
    uninstalled.wait_until_ready()?;
    let log = uninstalled.log("uninstall");
    ensure!(log.contains("programs, maps and links below"), "nothing was there: {log}");
    uninstalled.stop()?;
    ensure!(!mount(&["ls", "/sys/fs/bpf"])?.contains("cambric"), "something is still pinned");
    ensure!(
        mount(&["stat", "-f", "-c", "%T", "/sys/fs/bpf"])?.contains("bpf"),
        "a bpffs that was not Cambric's is gone"
    );
    Ok(())
}

/// Takes away what a container needs to change over into other mounts, as a policy of the node may do.
fn deny_entering(set: &mut DaemonSet) -> Result<()> {
    let pod = set.spec.template.spec.as_mut().context("a pod")?;
    for container in pod.init_containers.iter_mut().flatten().chain(&mut pod.containers) {
        let context = container.security_context.as_mut().context("a security context")?;
        let added = context.capabilities.as_mut().and_then(|it| it.add.as_mut()).context("capabilities")?;
        let all = added.len();
        added.retain(|it| it != "SYS_CHROOT" && it != "SYS_PTRACE");
        ensure!(added.len() < all, "it could not enter before: {added:?}");
    }
    Ok(())
}
