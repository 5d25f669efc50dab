//! Deletes that the plugin could not deliver because the daemon was away. The plugin leaves a file for each beside the
//! socket; the daemon releases the attachment and removes the file.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use ipamd_api::{AttachmentKey, ErrorKind};

use crate::node::Node;

/// How often the directory is read.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Age from which a temporary file counts as abandoned: its plugin was killed.
const ABANDONED: Duration = Duration::from_mins(1);

/// The last error of each file, so that it is logged once and not at every try.
type Failing = BTreeMap<PathBuf, String>;

/// Reads the directory again and again, for ever.
pub async fn watch(dir: &Path, node: &Node) {
    let mut failing = Failing::new();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        catch_up_with(dir, node, &mut failing).await;
    }
}

/// Releases each attachment that a file in `dir` names, then removes the file.
pub async fn catch_up(dir: &Path, node: &Node) {
    catch_up_with(dir, node, &mut Failing::new()).await;
}

async fn catch_up_with(dir: &Path, node: &Node, failing: &mut Failing) {
    let names = match fs::read_dir(dir) {
        Ok(entries) => entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect::<Vec<_>>(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => {
            tracing::warn!(dir = %dir.display(), %error, "cannot read the directory of pending deletes");
            return;
        }
    };
    failing.retain(|path, _| names.contains(path));
    names.iter().filter(|path| is_abandoned(path)).for_each(|path| remove(path));
    // The plugin is still writing files with another ending.
    for path in names.into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "json")) {
        let key = match read(&path) {
            Ok(key) => key,
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "removed a pending delete that cannot be read");
                remove(&path);
                continue;
            }
        };
        match node.release(&key).await {
            Ok(()) => {
                tracing::info!(%key, "released an attachment that was deleted while the daemon was away");
                remove(&path);
            }
            // Such a key is refused by ADD too, so there is nothing to release, now or later.
            Err(error) if error.kind == ErrorKind::InvalidRequest => {
                tracing::warn!(file = %path.display(), %error, "removed a pending delete that is invalid");
                remove(&path);
            }
            Err(error) => {
                let error = error.to_string();
                if failing.get(&path) != Some(&error) {
                    tracing::warn!(%key, error, "cannot release an attachment that was deleted while the daemon was away; trying again");
                    failing.insert(path, error);
                }
            }
        }
    }
}

/// Whether the plugin that wrote this temporary file was killed. Writing takes a moment only.
fn is_abandoned(path: &Path) -> bool {
    let age = || fs::symlink_metadata(path).ok()?.modified().ok()?.elapsed().ok();
    path.extension().is_some_and(|ending| ending == "tmp") && age().is_some_and(|age| age > ABANDONED)
}

fn read(path: &Path) -> io::Result<AttachmentKey> {
    /// More than any key takes.
    const LONGEST: u64 = 4096;
    let metadata = fs::symlink_metadata(path)?;
    let unfit = |why| Err(io::Error::new(io::ErrorKind::InvalidData, why));
    // Reading a named pipe would block.
    if !metadata.is_file() {
        return unfit("it is no regular file");
    }
    if metadata.len() > LONGEST {
        return unfit("it is too long");
    }
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

fn remove(path: &Path) {
    let removed = match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => fs::remove_dir(path),
        removed => removed,
    };
    if let Err(error) = removed {
        tracing::warn!(file = %path.display(), %error, "cannot remove the file of a pending delete");
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_file_that_nobody_writes_any_more_is_abandoned() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, age| {
            let path = dir.path().join(name);
            let file = fs::File::create(&path).unwrap();
            file.set_modified(SystemTime::now() - age).unwrap();
            path
        };
        assert!(is_abandoned(&file("a.77.tmp", 2 * ABANDONED)));
        assert!(!is_abandoned(&file("b.77.tmp", Duration::ZERO)));
        assert!(!is_abandoned(&file("c.json", 2 * ABANDONED)));
        assert!(!is_abandoned(&dir.path().join("gone.tmp")));
    }
}
