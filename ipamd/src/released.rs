//! Catching up with what was deleted while no daemon answered: the plugin leaves a file for each such attachment
//! beside the socket.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use ipamd_api::AttachmentKey;

use crate::node::Node;

/// How often is looked for files.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// The directory of the files, beside the socket.
pub fn directory(socket: &Path) -> PathBuf {
    socket.with_file_name("released")
}

/// Catches up from time to time, for ever.
pub async fn watch(dir: &Path, node: &Node) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        catch_up(dir, node).await;
    }
}

/// Releases each attachment that a file in `dir` names, then removes the file.
pub async fn catch_up(dir: &Path, node: &Node) {
    let names = match fs::read_dir(dir) {
        Ok(entries) => entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect::<Vec<_>>(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => {
            tracing::warn!(dir = %dir.display(), %error, "cannot look for what was deleted meanwhile");
            return;
        }
    };
    // A file of another ending is one that the plugin is still writing.
    for path in names.into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "json")) {
        let key = match read(&path) {
            Ok(key) => key,
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "removed a note of a deletion that makes no sense");
                remove(&path);
                continue;
            }
        };
        match node.release(&key).await {
            Ok(()) => {
                tracing::info!(%key, "released what was deleted while no daemon answered");
                remove(&path);
            }
            Err(error) => {
                tracing::warn!(%key, %error, "cannot release what was deleted while no daemon answered");
            }
        }
    }
}

fn read(path: &Path) -> io::Result<AttachmentKey> {
    /// More than any key takes.
    const LONGEST: u64 = 4096;
    if fs::symlink_metadata(path)?.len() > LONGEST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is too long"));
    }
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(file = %path.display(), %error, "cannot remove a note of a deletion");
    }
}
