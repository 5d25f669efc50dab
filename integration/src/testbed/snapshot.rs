//! Everything about a node that Cambric could change, in words.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};
use bpf::attach::{Direction, tcx_programs};

use super::{machine::Machine, node::Node};

/// What a container runtime has there, and what is the node's counting or its answer to the test's packets.
const OTHERS: [&str; 6] =
    ["run/containerd", "run/netns", "lib/cni", "work", "route/flush", "nf_conntrack_count"];

/// Lines by what they are about.
#[derive(Debug)]
pub struct Snapshot(BTreeMap<String, String>);

impl Snapshot {
    /// The node as it is now. Its own files are in a folder, and its mounts are those of a process.
    pub fn take(node: &Node, files: &Path, process: u32) -> Result<Self> {
        let mut found = BTreeMap::new();
        for show in [
            "-details link show",
            "-oneline address show",
            "-4 route show table all",
            "-6 route show table all",
            "-4 rule show",
            "-6 rule show",
        ] {
            let text = node.netns().ip(show)?;
            // An interface's own address comes when it likes.
            let lines = text.lines().filter(|line| !line.contains("fe80:"));
            found.extend(lines.map(|line| (format!("ip {show}: {line}"), String::new())));
        }
        found.insert("queueing".into(), node.netns().run("tc", &["qdisc", "show"])?);
        for direction in [Direction::Ingress, Direction::Egress] {
            let programs = node.netns().inside(|| -> Result<_> {
                Ok(tcx_programs(nix::net::if_::if_nametoindex("uplink")?, direction)?)
            })?;
            found.insert(format!("programs at the uplink, {direction:?}"), format!("{programs:?}"));
        }
        node.netns().inside(|| settings(Path::new("/proc/sys/net"), &mut found));
        tree(files, files, &mut found);
        let own = node.state_dir().parent().unwrap_or(files).display().to_string();
        let bpffs = PathBuf::from(format!("/proc/{process}/root/sys/fs/bpf"));
        tree(&bpffs, &bpffs, &mut found);
        for mount in fs::read_to_string(format!("/proc/{process}/mountinfo"))?.lines() {
            let point = mount.split(' ').nth(4).unwrap_or_default();
            // Those of other tests come and go meanwhile.
            let is_anothers = point.starts_with("/tmp/cambric-test-") && !point.starts_with(&own);
            if !is_anothers
                && !["/run/netns/", "/run/containerd/", "/containerd/"].iter().any(|it| point.contains(it))
            {
                found.insert(format!("mount {point}"), String::new());
            }
        }
        found.retain(|name, _| !OTHERS.iter().any(|other| name.contains(other)));
        Ok(Self(found))
    }

    /// Fails with all that is otherwise now.
    pub fn equals(&self, now: &Self) -> Result<()> {
        let names = self.0.keys().chain(now.0.keys());
        let mut differing: Vec<_> = names
            .filter(|name| self.0.get(*name) != now.0.get(*name))
            .map(|name| format!("{name}: {:?}, now {:?}", self.0.get(name), now.0.get(name)))
            .collect();
        differing.dedup();
        ensure!(differing.is_empty(), "the node is not as it was:\n{}", differing.join("\n"));
        Ok(())
    }
}

fn settings(folder: &Path, found: &mut BTreeMap<String, String>) {
    for path in entries(folder) {
        if path.is_dir() {
            settings(&path, found);
        } else if let Ok(value) = fs::read_to_string(&path) {
            found.insert(path.display().to_string(), value);
        }
    }
}

fn tree(root: &Path, folder: &Path, found: &mut BTreeMap<String, String>) {
    for path in entries(folder) {
        let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        let kind = fs::symlink_metadata(&path).map(|it| format!("{:?}", it.file_type())).unwrap_or_default();
        if path.is_dir() && !path.is_symlink() {
            tree(root, &path, found);
        }
        found.insert(name, kind);
    }
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}
