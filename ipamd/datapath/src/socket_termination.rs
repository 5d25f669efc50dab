//! The thread that ends sockets connected to backends that a service no longer has. Without it their owners would wait
//! for an answer that never comes.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::AsFd,
    path::PathBuf,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bpf::attach::Pins;

use super::{
    error::DatapathError,
    services::translated_sockets::{TranslatedSocket, TranslatedSockets},
};
use ipamd_kernel::netlink::{Outcome, Peer, Protocol, SocketDiag, SocketDiagError};
use ipamd_runtime::supervisor;
use ipamd_services::RemovedBackend;

/// The length of the queue of removed backends.
const QUEUE: usize = 256;
/// Reading the maps takes as long as they are large, however few backends are gone. In a cluster where backends go all the time it may
/// take one part in this many of the time; what goes meanwhile is looked for together.
const SHARE: u32 = 200;
/// So long a socket waits for that at most.
const LONGEST_REST: Duration = Duration::from_secs(2);

/// Why the thread cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketTerminationError {
    /// The maps of sockets cannot be used.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// There is no thread.
    #[error("cannot start the thread that ends sockets: {0}")]
    Thread(#[from] io::Error),
}

/// The running thread. Dropping it lets it finish what waits, if that takes no more than a moment.
#[derive(Debug)]
pub struct SocketTerminator {
    sender: Option<SyncSender<Vec<RemovedBackend>>>,
    thread: Option<JoinHandle<()>>,
}

impl SocketTerminator {
    /// Starts the thread. Returns the sender for removed backends.
    ///
    /// # Errors
    /// Why the maps cannot be used, or there is no thread.
    pub fn start(
        path_of: impl Fn(u64) -> Option<PathBuf> + Send + 'static,
        pins: &Pins,
    ) -> Result<(Self, SyncSender<Vec<RemovedBackend>>), SocketTerminationError> {
        let (sender, receiver) = sync_channel(QUEUE);
        let path_of = Box::new(path_of);
        let worker = Worker {
            path_of,
            sockets: TranslatedSockets::open(pins)?,
            node_netns: ipamd_api::netns::cookie().ok(),
        };
        let thread = supervisor::spawn("socket-termination", move || worker.run(&receiver))?;
        Ok((Self { sender: Some(sender.clone()), thread: Some(thread) }, sender))
    }
}

impl Drop for SocketTerminator {
    fn drop(&mut self) {
        drop(self.sender.take());
        if let Some(thread) = self.thread.take() {
            let _ = supervisor::join_within(thread, supervisor::FAREWELL);
        }
    }
}

struct Worker {
    /// The path of the namespace with this cookie, if it is an endpoint's and still exists.
    path_of: Box<dyn Fn(u64) -> Option<PathBuf> + Send>,
    sockets: TranslatedSockets,
    /// Cookie of the node's namespace.
    node_netns: Option<u64>,
}

/// How long the maps are not read again after that took so long.
fn rest_after(took: Duration) -> Duration {
    (took * SHARE).min(LONGEST_REST)
}

/// Takes what is queued, until then or until nobody is left who queues more. The maps are then read once for all of it.
fn rest(until: Option<Instant>, removed: &Receiver<Vec<RemovedBackend>>, now: &mut Vec<RemovedBackend>) {
    loop {
        let left = until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
        let more = supervisor::resting(|| removed.recv_timeout(left));
        match more {
            Ok(more) => now.extend(more),
            Err(_) => return,
        }
    }
}

impl Worker {
    fn run(&self, removed: &Receiver<Vec<RemovedBackend>>) {
        let mut rest_until = None;
        while let Ok(mut removed_now) = supervisor::resting(|| removed.recv()) {
            rest(rest_until, removed, &mut removed_now);
            let began = Instant::now();
            let ended = self.end(&removed_now.into_iter().collect());
            rest_until = Some(Instant::now() + rest_after(began.elapsed()));
            match ended {
                Ok(0) => {}
                Ok(ended) => {
                    tracing::info!(sockets = ended, "ended sockets that were connected to removed backends");
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot find sockets that are connected to removed backends");
                }
            }
        }
    }

    /// Ends the sockets that a service has connected to a backend that it no longer has.
    fn end(&self, removed: &BTreeSet<RemovedBackend>) -> Result<usize, DatapathError> {
        let sockets =
            self.sockets.of(&|service, backend| removed.contains(&RemovedBackend { service, backend }))?;
        let mut by_namespace: BTreeMap<u64, Vec<TranslatedSocket>> = BTreeMap::new();
        for it in sockets {
            by_namespace.entry(it.netns).or_default().push(it);
        }
        let mut ended = 0;
        for (netns, sockets) in by_namespace {
            match self.end_in(netns, &sockets) {
                Ok(count) => ended += count,
                Err(error) => {
                    tracing::warn!(%error, netns, "cannot end sockets that are connected to removed backends");
                }
            }
            for it in &sockets {
                self.sockets.forget(it)?;
            }
        }
        Ok(ended)
    }

    fn end_in(&self, netns: u64, sockets: &[TranslatedSocket]) -> Result<usize, SocketDiagError> {
        let mut diag = if Some(netns) == self.node_netns {
            SocketDiag::open(None)?
        } else {
            // If the namespace is gone, its sockets are too.
            let opened = (self.path_of)(netns).and_then(|path| ipamd_api::netns::open(&path).ok()?);
            let Some(file) = opened else {
                return Ok(0);
            };
            SocketDiag::open(Some(file.as_fd()))?
        };
        let peer = |it: &TranslatedSocket| {
            let protocol = Protocol::from_number(it.protocol)?;
            Some(Peer { address: it.backend.address, port: it.backend.port, protocol })
        };
        let meant: BTreeSet<_> = sockets.iter().filter_map(|it| Some((it.cookie, peer(it)?))).collect();
        let peers = meant.iter().map(|(_, peer)| *peer).collect();
        let mut ended = 0;
        for found in diag.connected_to(&peers)? {
            // Another socket may be connected to the endpoint directly, not by the service.
            if meant.contains(&(found.cookie, found.peer)) && diag.end(&found)? == Outcome::Ended {
                ended += 1;
            }
        }
        Ok(ended)
    }
}

#[cfg(test)]
mod tests {
    use ipamd_services::tables::{Backend, ServiceNumber};
    use ipamd_waiting::time_passes;

    use super::*;

    fn removed(port: u16) -> Vec<RemovedBackend> {
        let backend = Backend { address: [10, 88, 0, 5].into(), port };
        vec![RemovedBackend { service: ServiceNumber(1), backend }]
    }

    #[test]
    fn what_goes_during_a_rest_is_looked_for_together_and_the_first_at_once() {
        let (sender, receiver) = sync_channel(QUEUE);
        sender.send(removed(2)).unwrap();
        let mut now = removed(1);
        let began = Instant::now();
        rest(None, &receiver, &mut now);
        assert_eq!(now, [removed(1), removed(2)].concat(), "what is queued is taken without a rest");
        let until = began + Duration::from_millis(100);
        let later = std::thread::spawn(move || {
            time_passes(Duration::from_millis(20), "it comes while the others rest");
            sender.send(removed(4)).unwrap();
            sender
        });
        let mut now = removed(3);
        rest(Some(until), &receiver, &mut now);
        assert_eq!(now, [removed(3), removed(4)].concat());
        assert!(Instant::now() >= until);
        // The end of the daemon is not kept waiting.
        drop(later.join());
        rest(Some(Instant::now() + Duration::from_mins(1)), &receiver, &mut now);
        assert!(began.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_rest_is_as_long_as_reading_takes_and_has_an_end() {
        assert_eq!(rest_after(Duration::from_micros(100)), Duration::from_millis(20));
        assert_eq!(rest_after(Duration::from_secs(1)), LONGEST_REST);
    }
}
