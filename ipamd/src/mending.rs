//! A store that could not be written, for its disk was full or read-only. What was to be written is not, and whoever asked was
//! told so; the records on the disk are whole. A daemon that starts takes them up once the disk can be written.

use std::{path::Path, time::Duration};

use crate::node::Node;
use ipamd_store as store;

/// How often is looked whether the disk can be written again.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Waits until the store could not be written, and what it lies in can be again.
pub async fn writable_again(node: &Node, state_dir: &Path) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if node.unready().is_none() {
            continue;
        }
        let dir = state_dir.to_owned();
        match tokio::task::spawn_blocking(move || store::try_to_write(&dir)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => tracing::debug!(%error, "the state directory still cannot be written"),
            Err(error) => tracing::debug!(%error, "nobody could look at the state directory"),
        }
    }
}
