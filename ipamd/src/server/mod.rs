//! The daemon's socket: it reads and writes frames. [`Service`] answers the requests.

mod connection;
mod idle_connections;
mod listen;

use std::{io, sync::Arc, time::Duration};

use ipamd_api::Request;
use tokio::{
    net::UnixListener,
    sync::{Semaphore, watch},
};

use idle_connections::IdleConnections;

pub use connection::Replies;
pub use listen::{ListenError, SocketFile, listen};

/// How many clients are served at a time; when there are more, those are closed that ask for nothing, and where all ask, more
/// wait in the kernel's queue. A node rarely has 20 ADDs under way.
const CONNECTIONS: u32 = 512;
/// How often a client that waits for a place looks for one that has become idle.
const LOOK_FOR_PLACE: Duration = Duration::from_millis(20);
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

/// Who may talk to the daemon, and how slowly.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The only user whose requests are answered.
    pub user: u32,
    /// How long a client may be silent that has asked for nothing yet, or been answered.
    pub idle: Duration,
    /// How long one may be silent that has something under way.
    pub under_way: Duration,
    /// How long a client may take to send a request that it has begun, or to take in an answer.
    pub transfer: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            user: 0,
            idle: Duration::from_secs(5),
            under_way: Duration::from_mins(1),
            transfer: Duration::from_secs(10),
        }
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
    let idle = Arc::new(IdleConnections::default());
    loop {
        let accepted = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => break,
            accepted = accept(&listener, &slots, &idle) => accepted,
        };
        match accepted {
            Ok((stream, slot)) => {
                let (service, idle) = (Arc::clone(&service), Arc::clone(&idle));
                let stop = stop.clone();
                tokio::spawn(async move {
                    connection::serve(stream, service.as_ref(), limits, &idle, stop).await;
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
    idle: &IdleConnections,
) -> io::Result<(tokio::net::UnixStream, tokio::sync::OwnedSemaphorePermit)> {
    let (stream, _) = listener.accept().await?;
    if let Ok(slot) = Arc::clone(slots).try_acquire_owned() {
        return Ok((stream, slot));
    }
    loop {
        // One after the other: each gives its place back in a moment.
        idle.close_oldest();
        let slot = Arc::clone(slots).acquire_owned();
        if let Ok(slot) = tokio::time::timeout(LOOK_FOR_PLACE, slot).await {
            return Ok((stream, slot.map_err(io::Error::other)?));
        }
    }
}

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;
