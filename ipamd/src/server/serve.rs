//! Takes clients in, as many as there is room for.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    net::UnixListener,
    sync::{Semaphore, watch},
};

use super::{connection, idle_connections::IdleConnections, limits::Limits, service::Service};

/// How many clients are served at a time; when there are more, those are closed that ask for nothing, and where all ask, more
/// wait in the kernel's queue. A node rarely has 20 ADDs under way.
pub(super) const CONNECTIONS: u32 = 512;
/// How often a client that waits for a place looks for one that has become idle.
const LOOK_FOR_PLACE: Duration = Duration::from_millis(20);
/// How long the clients get to have their last request answered when the daemon stops.
const FAREWELL: Duration = Duration::from_secs(5);

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
