//! What is lost while pods run: the store, what is pinned, the files beside the socket. A pod stays who it is while one of them
//! is left; where it cannot be known any more, nothing of it passes, and that is said.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use integration::{
    needs_root,
    testbed::{Machine, Node, Pod, eventually},
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

const PATIENCE: Duration = Duration::from_secs(20);

/// Of the pods `a`, `b` and `c` nobody reaches `b`.
const POLICY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: shop}
spec: {podSelector: {matchLabels: {app: b}}, policyTypes: [Ingress]}
";

struct Scene<'n> {
    node: &'n Node,
    pods: [Pod<'n>; 3],
}

impl<'n> Scene<'n> {
    fn new(node: &'n Node) -> Result<Self> {
        node.apply("closed.yaml", POLICY)?;
        let pod = |name: &str| node.add_pod_of(&format!("shop/{name}"), &[("app", name)]);
        let scene = Self { node, pods: [pod("a")?, pod("b")?, pod("c")?] };
        scene.stands("before anything")?;
        Ok(scene)
    }

    /// All is as it should be: who they are, what they reach, and nothing to complain of.
    fn stands(&self, when: &str) -> Result<()> {
        let [a, b, c] = &self.pods;
        let open = || {
            a.reaches(c.ipv4()).unwrap_or(false)
                && b.reaches(c.ipv6()).unwrap_or(false)
                && self.problems().is_ok_and(|problems| problems.is_empty())
                && self.pods.iter().all(|pod| pod.check().is_ok())
        };
        ensure!(eventually(PATIENCE, open), "{when}: {:?}\n{}", self.problems(), self.node.log());
        ensure!(!a.reaches(b.ipv4())? && !c.reaches(b.ipv6())?, "{when}: what was denied passes");
        let endpoints = self.node.ctl(&["endpoint", "list"])?;
        let endpoints = endpoints.as_array().context("no list")?;
        ensure!(endpoints.len() == 3, "{when}: {endpoints:?}");
        for endpoint in endpoints {
            ensure!(
                endpoint["state"] == "ready" && endpoint["pod"]["namespace"] == "shop",
                "{when}: {endpoint}"
            );
        }
        Ok(())
    }

    fn problems(&self) -> Result<Vec<String>> {
        Ok(serde_json::from_value(self.node.status()?["problems"].clone())?)
    }

    fn files(&self) -> PathBuf {
        self.node.socket().with_file_name("endpoints")
    }

    /// Kills the daemon, does harm, starts another one.
    fn suffers(&self, what: &str, harm: impl FnOnce() -> std::io::Result<()>) -> Result<()> {
        self.node.kill_daemon();
        harm().with_context(|| what.to_owned())?;
        self.node.start_daemon().with_context(|| what.to_owned())
    }
}

#[test]
fn a_pod_stays_who_it_is_whatever_is_lost_but_for_one() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let scene = Scene::new(&node)?;
    let (store, pins, files) = (node.state_dir(), node.bpffs().to_owned(), scene.files());
    let maps = pins.join("maps");
    let of = |name: &str| maps.join(name);
    let harms: Vec<(&str, Vec<PathBuf>)> = vec![
        ("one map", vec![of("endpoints4")]),
        ("a map of policy", vec![of("postures")]),
        ("all pins", vec![pins.clone()]),
        ("all pins and the files", vec![pins.clone(), files.clone()]),
        ("the store", vec![store.clone()]),
        ("the store and all pins", vec![store, pins]),
        ("the files", vec![files.clone()]),
    ];
    for (what, paths) in harms {
        scene.suffers(what, || {
            paths.iter().try_for_each(|path| {
                if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
            })?;
            let [a, b, c] = &scene.pods;
            let passes = |to| a.reaches(to).map_err(std::io::Error::other);
            match (passes(b.ipv4())?, passes(c.ipv4())?) {
                (false, true) => Ok(()),
                other => {
                    Err(std::io::Error::other(format!("without a daemon, b and c are reached: {other:?}")))
                }
            }
        })?;
        scene.stands(what)?;
        let back = || fs::read_dir(&files).is_ok_and(|files| files.count() == 3);
        ensure!(eventually(PATIENCE, back), "the files do not come back after {what}");
    }
    let [a, ..] = &scene.pods;
    a.del()?;
    ensure!(fs::read_dir(&files)?.count() == 2, "the file of a deleted pod stays");
    Ok(())
}

#[test]
fn nothing_passes_of_a_pod_that_nobody_knows_any_more() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let scene = Scene::new(&node)?;
    let [a, b, c] = &scene.pods;
    scene.suffers("the store and the files", || {
        fs::remove_dir_all(node.state_dir())?;
        fs::remove_dir_all(scene.files())
    })?;
    let told = || {
        let is_told = |pod: &Pod<'_>, problem: &String| {
            problem.contains(&pod.host_ifname()) && problem.contains("not known any more which pod it is")
        };
        let problems = scene.problems().unwrap_or_default();
        [a, b, c].into_iter().all(|pod| problems.iter().any(|problem| is_told(pod, problem)))
    };
    ensure!(eventually(PATIENCE, told), "{:?}", scene.problems());
    ensure!(!a.reaches(c.ipv4())? && !c.reaches(a.ipv6())? && !a.reaches(b.ipv4())?, "something passes");
    ensure!(!node.reaches(a.ipv4())?, "also from the node");
    for pod in [a, b, c] {
        pod.del()?;
    }
    let scene = Scene::new(&node)?;
    scene.stands("made anew")
}

#[test]
fn a_damaged_store_needs_no_person_and_gives_no_address_twice() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    let scene = Scene::new(&node)?;
    let watermark = node.state_dir().join("store/watermark");
    scene.suffers("a damaged store", || fs::write(&watermark, "cambric-store 1 cut"))?;
    scene.stands("a damaged store")?;
    let aside = || -> Result<usize> {
        let names = fs::read_dir(node.state_dir())?.flatten().map(|entry| entry.file_name());
        Ok(names.filter(|name| name.to_string_lossy().starts_with("store.damaged-")).count())
    };
    ensure!(aside()? == 1 && !node.state_dir().join("store.lost").exists());
    let said = "is damaged: the file watermark is cut off; it is moved aside as ";
    ensure!(node.log().contains(said), "{}", node.log());

    // With it all that tells who they are is lost: their interfaces stand, closed, and keep their addresses.
    scene.suffers("everything", || {
        fs::write(&watermark, "cut")?;
        fs::remove_dir_all(scene.files())?;
        fs::remove_dir_all(node.bpffs())
    })?;
    let [a, b, c] = &scene.pods;
    for pod in [a, b, c] {
        let is_told =
            |it: &String| it.contains(&pod.host_ifname()) && it.contains("not known any more which");
        let told = || scene.problems().is_ok_and(|problems| problems.iter().any(is_told));
        ensure!(eventually(PATIENCE, told), "{:?}\n{}", scene.problems()?, node.log());
        ensure!(!node.reaches(pod.ipv4())?, "the node reaches it");
    }
    ensure!(!a.reaches(c.ipv4())? && !c.reaches(a.ipv6())?, "something passes");
    let other = node.add_pod_of("shop/d", &[("app", "d")])?;
    for pod in [a, b, c] {
        ensure!(
            pod.addresses().iter().all(|it| !other.addresses().contains(it)),
            "an address is given twice"
        );
    }
    for pod in [a, b, c, &other] {
        pod.del()?;
    }
    ensure!(
        scene.problems()?.is_empty()
            || eventually(PATIENCE, || scene.problems().is_ok_and(|it| it.is_empty()))
    );
    ensure!(aside()? == 2);
    Ok(())
}

#[test]
fn a_bpffs_that_is_unmounted_under_the_daemon_is_made_good() -> Result<()> {
    needs_root!();
    let node = Node::in_cluster()?;
    node.stop_daemon()?;
    // One of this node's own, so that others' pins stay.
    fs::remove_dir_all(node.bpffs())?;
    fs::create_dir(node.bpffs())?;
    mount(Some("bpf"), node.bpffs(), Some("bpf"), MsFlags::empty(), None::<&str>)?;
    node.start_daemon()?;
    let scene = Scene::new(&node)?;
    umount2(node.bpffs(), MntFlags::MNT_DETACH)?;
    let pinned =
        || node.bpffs().join("programs/from_endpoint").exists() && node.bpffs().join("maps/node").exists();
    ensure!(eventually(PATIENCE, pinned), "{:?}\n{}", scene.problems(), node.log());
    scene.stands("after the unmount")?;
    let other = node.add_pod_of("shop/d", &[("app", "d")])?;
    ensure!(other.reaches(scene.pods[0].ipv4())?, "a pod that came later");
    other.del()
}
