//! The way back to a client.

use std::io;

use ipamd_api::{ApiError, ErrorKind, Reply, frame};
use tokio::{io::AsyncWriteExt, net::unix::WriteHalf, time::timeout};

use super::limits::Limits;

/// The way back to a client.
#[derive(Debug)]
pub struct Replies<'a> {
    stream: WriteHalf<'a>,
    limits: Limits,
}

impl<'a> Replies<'a> {
    /// The way back through that stream.
    pub(super) fn new(stream: WriteHalf<'a>, limits: Limits) -> Self {
        Self { stream, limits }
    }

    /// Sends one reply.
    ///
    /// # Errors
    /// Those of the connection; `TimedOut` for a client that does not read.
    pub async fn send(&mut self, reply: &Reply) -> io::Result<()> {
        let frame = match frame::encode(&serde_json::to_vec(reply)?) {
            Ok(frame) => frame,
            Err(error) => {
                let too_long = ApiError::new(ErrorKind::Internal, format!("the answer is too long: {error}"));
                frame::encode(&serde_json::to_vec(&Reply::Error(too_long))?)?
            }
        };
        timeout(self.limits.transfer, self.stream.write_all(&frame)).await?
    }
}
