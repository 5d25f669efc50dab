//! The daemon, over its socket.

use std::path::PathBuf;

use ipamd_api::{Client, DEFAULT_SOCKET, Reply, Request};

/// The daemon, over its socket.
pub(crate) struct Daemon {
    pub client: Client,
}

impl Daemon {
    pub fn connect(socket: Option<PathBuf>) -> anyhow::Result<Self> {
        let socket = socket.unwrap_or_else(|| DEFAULT_SOCKET.into());
        Ok(Self { client: Client::connect(&socket)? })
    }

    /// Asks, and picks what is expected out of the answer.
    pub fn ask<T>(&mut self, request: Request, pick: impl FnOnce(Reply) -> Option<T>) -> anyhow::Result<T> {
        let reply = self.client.call(request)?;
        pick(reply).ok_or_else(|| self.client.confused("the answer is of another sort".into()).into())
    }
}
