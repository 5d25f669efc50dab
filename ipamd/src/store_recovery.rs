//! Restarts the daemon when a store that could not be written is writable again. A disk that is full or read-only
//! refuses a batch: the caller gets an error, and the records on the disk stay consistent. The next daemon opens them.

use std::{path::Path, time::Duration};

use crate::node::Node;
use ipamd_store as store;

/// How often the directory is tried.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Returns when the store has failed and its directory is writable again.
pub async fn writable_again(node: &Node, state_dir: &Path) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if node.store_failure().is_none() {
            continue;
        }
        let dir = state_dir.to_owned();
        match tokio::task::spawn_blocking(move || store::try_to_write(&dir)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => tracing::debug!(%error, "the state directory is still not writable"),
            Err(error) => tracing::debug!(%error, "cannot check the state directory"),
        }
    }
}
