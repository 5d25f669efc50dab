//! A store that could not be written, for its disk was full or read-only. What was to be written is not, and whoever asked was
//! told so; the records on the disk are whole. A daemon that starts takes them up once the disk can be written.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::node::Node;

/// How often is looked whether the disk can be written again.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Room that the store takes at a time, many times over.
const ROOM: usize = 1 << 20;

/// Waits until the store could not be written, and what it lies in can be again.
pub async fn writable_again(node: &Node, state_dir: &Path) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if node.unready().is_none() {
            continue;
        }
        let dir = state_dir.to_owned();
        match tokio::task::spawn_blocking(move || try_to_write(&dir)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => tracing::debug!(%error, "the state directory still cannot be written"),
            Err(error) => tracing::debug!(%error, "nobody could look at the state directory"),
        }
    }
}

/// Writes a file of some size there, and removes it.
fn try_to_write(dir: &Path) -> io::Result<()> {
    let path: PathBuf = dir.join("room");
    let write = |mut file: File| {
        file.write_all(&vec![0xa5; ROOM])?;
        file.sync_all()
    };
    let written = File::create(&path).and_then(write);
    let removed = fs::remove_file(&path);
    written.and(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_tried_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        try_to_write(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(try_to_write(&dir.path().join("missing")).is_err());
    }
}
