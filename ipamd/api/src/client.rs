//! A blocking client of the daemon's socket.

use std::{
    io,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    frame,
    wire::{ApiError, Envelope, Reply, Request},
};

/// How long the daemon may take for one answer. The CNI runtime waits minutes; a daemon that needs longer than this
/// for one answer is as good as away.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Why an exchange with the daemon failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody listens.
    #[error("the Cambric daemon does not answer on {socket}: {source} (is cambric-ipamd running?)")]
    Connect {
        /// Where the client knocked.
        socket: PathBuf,
        /// Why in vain.
        source: io::Error,
    },
    /// The connection broke, or the daemon took too long.
    #[error("the Cambric daemon on {socket} broke off: {source}")]
    Exchange {
        /// The socket.
        socket: PathBuf,
        /// What happened to it.
        source: io::Error,
    },
    /// The daemon's answer makes no sense to this client.
    #[error("the Cambric daemon on {socket} gave an answer that this client does not understand: {detail}")]
    Confused {
        /// The socket.
        socket: PathBuf,
        /// What was wrong with the answer.
        detail: String,
    },
    /// The daemon refused.
    #[error(transparent)]
    Refused(#[from] ApiError),
}

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    socket: PathBuf,
}

impl Client {
    /// Connects to the daemon that listens on `socket`.
    ///
    /// # Errors
    /// [`ClientError::Connect`] if nobody listens there.
    pub fn connect(socket: &Path) -> Result<Self, ClientError> {
        let connected = UnixStream::connect(socket).and_then(|stream| {
            stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
            stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
            Ok(stream)
        });
        match connected {
            Ok(stream) => Ok(Self { stream, socket: socket.to_owned() }),
            Err(source) => Err(ClientError::Connect { socket: socket.to_owned(), source }),
        }
    }

    /// Sends one request and waits for its answer.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the daemon's reason, or why the exchange failed.
    pub fn call(&mut self, request: Request) -> Result<Reply, ClientError> {
        self.send(request)?;
        self.receive()
    }

    /// Sends one request whose answer has several parts; [`Self::receive`] gives them.
    ///
    /// # Errors
    /// Why the exchange failed.
    pub fn send(&mut self, request: Request) -> Result<(), ClientError> {
        let body = serde_json::to_vec(&Envelope::from(request)).map_err(|error| self.broken(error.into()))?;
        frame::write(&self.stream, &body).map_err(|source| self.broken(source))
    }

    /// Waits for one (more) part of an answer.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn receive(&mut self) -> Result<Reply, ClientError> {
        let body = frame::read(&self.stream).map_err(|source| self.broken(source))?;
        match serde_json::from_slice(&body) {
            Ok(Reply::Error(error)) => Err(error.into()),
            Ok(reply) => Ok(reply),
            Err(error) => Err(self.confused(error.to_string())),
        }
    }

    /// The error for an answer of the wrong sort.
    pub fn confused(&self, detail: String) -> ClientError {
        ClientError::Confused { socket: self.socket.clone(), detail }
    }

    fn broken(&self, source: io::Error) -> ClientError {
        ClientError::Exchange { socket: self.socket.clone(), source }
    }
}
