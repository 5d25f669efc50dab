//! The stream of events for `cambricctl monitor`.

use std::{io, sync::Arc, time::Duration};

use ipamd_api::{ApiError, ErrorKind, Reply};
use tokio::time::timeout;

use super::{node_service::NodeService, pages};
use crate::{
    monitor::{SubscribeError, Subscription},
    server::Replies,
};

/// How many events go together, while more are there than the client takes.
const TOGETHER: usize = 128;
/// How long nothing may be sent: by this it is found out that a client has left.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// The error for a failed subscription.
pub(super) fn refusal(error: &SubscribeError) -> ApiError {
    let kind = match error {
        SubscribeError::TooMany => ErrorKind::TryAgainLater,
        SubscribeError::Programs(_) => ErrorKind::Internal,
    };
    ApiError::new(kind, error.to_string())
}

impl NodeService {
    /// Sends events until the client leaves or the daemon stops.
    pub(super) async fn stream(
        &self,
        mut subscription: Subscription,
        replies: &mut Replies<'_>,
    ) -> io::Result<()> {
        let mut stopped = self.stopped.clone();
        replies.send(&Reply::Events(Vec::new())).await?;
        loop {
            let events = tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
                // Nothing is lost by giving up: events stay until they are taken.
                events = timeout(SIGN_OF_LIFE, subscription.next(TOGETHER)) => events.unwrap_or_default(),
            };
            let events = events.into_iter().map(Arc::unwrap_or_clone).collect();
            for page in pages::cut(events) {
                replies.send(&Reply::Events(page)).await?;
            }
        }
    }
}
