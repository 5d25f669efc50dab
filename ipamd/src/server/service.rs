//! What answers requests, as the server needs it.

use std::io;

use ipamd_api::Request;

use super::replies::Replies;

/// What answers requests.
pub trait Service: Send + Sync + 'static {
    /// What is kept from one request of a connection to the next, and dropped with the connection.
    type Session: Default + Send;

    /// Answers one request by one or more replies.
    ///
    /// # Errors
    /// Those of the connection.
    fn answer(
        &self,
        request: Request,
        session: &mut Self::Session,
        replies: &mut Replies<'_>,
    ) -> impl Future<Output = io::Result<()>> + Send;

    /// Whether the connection has something under way between two requests, so that it may be silent for longer.
    fn is_under_way(&self, _session: &Self::Session) -> bool {
        false
    }

    /// The client has closed the connection. What it has left half done is undone.
    fn gone(&self, _session: &mut Self::Session) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// Counts a request that could not be parsed.
    fn misunderstood(&self) {}
}
