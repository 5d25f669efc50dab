//! Requests about conntrack.

use std::{io, sync::Arc};

use ipamd_api::{
    ApiError, ErrorKind, Reply,
    wire::{ConntrackFilter, ConntrackPage},
};
use tokio::sync::mpsc;

use super::node_service::{Answered, NodeService};
use crate::server::Replies;

/// How many pages of connections wait for a client that reads more slowly than the maps are walked.
const PAGES: usize = 2;

impl NodeService {
    /// Sends the matching connections page by page. The maps are walked on a thread of its own, for that may take
    /// long, and waits for the client.
    pub(super) async fn conntrack(
        &self,
        filter: ConntrackFilter,
        replies: &mut Replies<'_>,
    ) -> io::Result<Answered> {
        let (pages, mut walked) = mpsc::channel(PAGES);
        let node = Arc::clone(&self.node);
        let walk = tokio::task::spawn_blocking(move || {
            node.kernel().conntrack(&filter, &mut |connections| pages.blocking_send(connections).is_ok())
        });
        while let Some(connections) = walked.recv().await {
            replies.send(&Reply::Conntrack(ConntrackPage { connections, last: false })).await?;
        }
        let failed = |error: String| Ok(Err(ApiError::new(ErrorKind::Internal, error)));
        match walk.await {
            Ok(Ok(())) => {
                let last = ConntrackPage { connections: Vec::new(), last: true };
                Ok(Ok(Some(Reply::Conntrack(last))))
            }
            Ok(Err(error)) => failed(error.to_string()),
            Err(error) => failed(error.to_string()),
        }
    }
}
