//! The daemon's socket: frames in, frames out. What is answered is the [`Service`]'s affair.

mod connection;
mod listen;

use std::{io, sync::Arc, time::Duration};

use ipamd_api::Request;
use tokio::{
    net::UnixListener,
    sync::{Semaphore, watch},
};

pub use connection::Replies;
pub use listen::{ListenError, SocketFile, listen};

/// How many clients are served at a time; more wait in the kernel's backlog. A node rarely has 20 ADDs under way.
const CONNECTIONS: u32 = 512;
/// How long the clients get to have their last request answered when the daemon stops.
const FAREWELL: Duration = Duration::from_secs(5);

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

    /// Takes note of a request that could not be understood.
    fn misunderstood(&self) {}
}

/// Who may talk to the daemon, and how slowly.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The only user whose requests are answered.
    pub user: u32,
    /// How long a client may be silent between two requests.
    pub idle: Duration,
    /// How long a client may take to send a request that it has begun, or to take in an answer.
    pub transfer: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { user: 0, idle: Duration::from_mins(1), transfer: Duration::from_secs(10) }
    }
}

/// Serves clients until `stop` becomes true, then lets those be answered that have asked.
pub async fn serve<S: Service>(
    listener: UnixListener,
    service: Arc<S>,
    limits: Limits,
    mut stop: watch::Receiver<bool>,
) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS as usize));
    loop {
        let accepted = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            accepted = accept(&listener, &slots) => accepted,
        };
        match accepted {
            Ok((stream, slot)) => {
                let service = Arc::clone(&service);
                let stop = stop.clone();
                tokio::spawn(async move {
                    connection::serve(stream, service.as_ref(), limits, stop).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                // Out of descriptors, most likely: the connections that end meanwhile give some back.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(FAREWELL, slots.acquire_many(CONNECTIONS)).await.is_err() {
        tracing::warn!("some clients were still being served when the daemon stopped");
    }
}

async fn accept(
    listener: &UnixListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(tokio::net::UnixStream, tokio::sync::OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, slot))
}

#[cfg(test)]
mod tests;
