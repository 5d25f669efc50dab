//! A disk that is full: the node says so, drops nothing that stands, and goes on by itself once there is room.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use integration::{
    needs_root,
    testbed::{Machine, Node, Settings, eventually},
};

/// Room for the store and little more.
const SIZE: &str = "size=6m";
/// ADDs until the store has used up what it has taken of the disk.
const ADDS: usize = 300;

/// A small disk.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path) -> Result<Self> {
        fs::create_dir_all(at)?;
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", SIZE, "tmpfs"]).arg(at).status()?;
        ensure!(mounted.success(), "mount: {mounted}");
        Ok(Self(at.to_owned()))
    }

    /// Takes all the room that is left; returns what takes it.
    fn fill(&self) -> Result<PathBuf> {
        let path = self.0.join("others");
        let mut file = File::create(&path)?;
        while file.write_all(&[0; 4096]).is_ok() {}
        Ok(path)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_node_whose_disk_was_full_goes_on_by_itself() -> Result<()> {
    needs_root!();
    let node = Node::new(Settings::default())?;
    let disk = Disk::mount(&node.state_dir())?;
    node.start_daemon()?;
    let (stays, goes) = (node.add_pod("stays")?, node.add_pod("goes")?);
    let others = disk.fill()?;
    let refused = (0..ADDS).find_map(|number| match node.add_pod(&format!("p{number}")) {
        Ok(pod) => pod.del().err(),
        Err(error) => Some(error),
    });
    let refused = format!("{:#}", refused.context("the store never needed room")?);
    ensure!(refused.contains("cannot write to the store in"), "{refused}");
    ensure!(refused.contains("goes on by itself"), "{refused}");
    let problems = node.status()?["problems"].to_string();
    ensure!(problems.contains("cannot write to the store in"), "{problems}");
    ensure!(node.reaches(stays.ipv4())?, "what stands is not touched");
    // What is deleted meanwhile is deleted for good, though nothing of it could be written.
    goes.del()?;
    let tried = || {
        let log = node.log();
        ["trying again", "released an attachment that was deleted"].iter().any(|words| log.contains(words))
    };
    ensure!(eventually(Duration::from_mins(1), tried), "{}", node.log());
    fs::remove_file(others)?;
    let mut after = None;
    let goes_on = eventually(Duration::from_secs(30), || {
        after = node.add_pod("after").ok();
        after.is_some()
    });
    ensure!(goes_on, "{}", node.log());
    let after = after.context("a pod")?;
    ensure!(after.ipv4() != stays.ipv4());
    ensure!(node.reaches(stays.ipv4())? && node.reaches(after.ipv4())?);
    ensure!(node.log().contains("is writable again"), "{}", node.log());
    let problems = node.status()?["problems"].to_string();
    ensure!(!problems.contains("cannot write"), "{problems}");
    let deleted = || node.ctl(&["endpoint", "list"]).is_ok_and(|list| !list.to_string().contains("\"goes\""));
    ensure!(eventually(Duration::from_mins(1), deleted), "a deletion is lost: {}", node.log());
    Ok(())
}
