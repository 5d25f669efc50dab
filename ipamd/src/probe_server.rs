//! The thread that answers probes, scrapes and health checks of load balancers. It shares no lock with long work, so a
//! node under a large change is not taken for dead.

use std::{io, net::SocketAddr, sync::Arc, thread::JoinHandle, time::Duration};

use tokio::{net::TcpListener, runtime::Handle, sync::oneshot};

use crate::metrics::{self, Served};
use ipamd_runtime::supervisor;

/// How long answers under way are waited for at the end.
const FAREWELL: Duration = Duration::from_millis(50);

/// The running thread. It ends when this is dropped.
#[derive(Debug)]
pub struct ProbeServer {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ProbeServer {
    /// Starts it.
    ///
    /// # Errors
    /// Why there is none.
    pub fn start() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = supervisor::spawn("probes", move || {
            runtime.block_on(async {
                tokio::spawn(supervisor::heart());
                // Nobody sends: it is dropped.
                let _ = stopped.await;
            });
            runtime.shutdown_timeout(FAREWELL);
        })?;
        Ok(Self { handle, stop: Some(stop), thread: Some(thread) })
    }

    /// Where what it serves is spawned.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Serves probes and metrics at an address.
    ///
    /// # Errors
    /// Why the address cannot be listened on.
    pub fn serve(&self, address: SocketAddr, served: Arc<Served>) -> io::Result<()> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let _guard = self.handle.enter();
        let listener = TcpListener::from_std(listener)?;
        self.handle.spawn(metrics::serve(listener, served));
        Ok(())
    }
}

impl Drop for ProbeServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // One that has failed has ended the daemon.
            let _ = thread.join();
        }
    }
}
