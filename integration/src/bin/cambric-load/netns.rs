//! Network namespaces by their names.

use std::fs::File;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

/// A named network namespace, as `ip netns` makes them.
#[derive(Clone, Debug)]
pub struct Netns(pub String);

impl Netns {
    /// Where it is.
    pub fn path(&self) -> String {
        format!("/run/netns/{}", self.0)
    }

    /// Moves this thread into it.
    pub fn enter(&self) -> Result<()> {
        let path = self.path();
        let file = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("cannot enter {path}"))
    }
}
