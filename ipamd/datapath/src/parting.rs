//! The thread that ends the sockets of endpoints that are gone: who talks to them would wait for an answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::AsFd,
    path::PathBuf,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::JoinHandle,
};

use bpf::attach::Pins;

use crate::{DatapathError, Tied, TiedSockets};
use ipamd_kernel::netlink::{Outcome, Peer, Protocol, SocketDiag, SocketDiagError};
use ipamd_runtime::supervisor;
use ipamd_services::Gone;

/// How many changes may wait.
const QUEUE: usize = 256;

/// Why nobody ends sockets.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PartingError {
    /// The maps of sockets cannot be used.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// There is no thread.
    #[error("cannot start the thread that ends sockets: {0}")]
    Thread(#[from] io::Error),
}

/// The running thread. Dropping it lets it finish what waits, if that takes no more than a moment.
#[derive(Debug)]
pub struct Parting {
    sender: Option<SyncSender<Vec<Gone>>>,
    thread: Option<JoinHandle<()>>,
}

impl Parting {
    /// Starts it, and returns where endpoints that are gone are told to it.
    ///
    /// # Errors
    /// Why the maps cannot be used, or there is no thread.
    pub fn start(
        path_of: impl Fn(u64) -> Option<PathBuf> + Send + 'static,
        pins: &Pins,
    ) -> Result<(Self, SyncSender<Vec<Gone>>), PartingError> {
        let (sender, receiver) = sync_channel(QUEUE);
        let path_of = Box::new(path_of);
        let ending =
            Ending { path_of, sockets: TiedSockets::open(pins)?, own: ipamd_api::netns::cookie().ok() };
        let thread = supervisor::spawn("parting", move || ending.follow(&receiver))?;
        Ok((Self { sender: Some(sender.clone()), thread: Some(thread) }, sender))
    }
}

impl Drop for Parting {
    fn drop(&mut self) {
        drop(self.sender.take());
        if let Some(thread) = self.thread.take() {
            let _ = supervisor::join_within(thread, supervisor::FAREWELL);
        }
    }
}

struct Ending {
    /// Where the namespace of a cookie is, if it is an endpoint's and still there.
    path_of: Box<dyn Fn(u64) -> Option<PathBuf> + Send>,
    sockets: TiedSockets,
    /// Cookie of the node's namespace.
    own: Option<u64>,
}

impl Ending {
    fn follow(&self, gone: &Receiver<Vec<Gone>>) {
        while let Ok(mut gone_now) = supervisor::resting(|| gone.recv()) {
            // What came meanwhile is looked for at once.
            gone_now.extend(gone.try_iter().flatten());
            match self.end(&gone_now.into_iter().collect()) {
                Ok(0) => {}
                Ok(ended) => tracing::info!(sockets = ended, "ended the sockets of endpoints that are gone"),
                Err(error) => tracing::warn!(%error, "cannot look for sockets of endpoints that are gone"),
            }
        }
    }

    /// Ends the sockets that are led to an endpoint by a service that does not have it any more.
    fn end(&self, gone: &BTreeSet<Gone>) -> Result<usize, DatapathError> {
        let tied = self.sockets.of(&|service, backend| gone.contains(&Gone { service, backend }))?;
        let mut by_namespace: BTreeMap<u64, Vec<Tied>> = BTreeMap::new();
        for it in tied {
            by_namespace.entry(it.netns).or_default().push(it);
        }
        let mut ended = 0;
        for (netns, tied) in by_namespace {
            match self.end_in(netns, &tied) {
                Ok(count) => ended += count,
                Err(error) => tracing::warn!(%error, netns, "cannot end sockets of endpoints that are gone"),
            }
            for it in &tied {
                self.sockets.forget(it)?;
            }
        }
        Ok(ended)
    }

    fn end_in(&self, netns: u64, tied: &[Tied]) -> Result<usize, SocketDiagError> {
        let diag = if Some(netns) == self.own {
            SocketDiag::open(None)?
        } else {
            // It is gone with its sockets.
            let opened = (self.path_of)(netns).and_then(|path| ipamd_api::netns::open(&path).ok()?);
            let Some(file) = opened else {
                return Ok(0);
            };
            SocketDiag::open(Some(file.as_fd()))?
        };
        let peer = |it: &Tied| {
            let protocol = Protocol::from_number(it.protocol)?;
            Some(Peer { address: it.backend.address, port: it.backend.port, protocol })
        };
        let meant: BTreeSet<_> = tied.iter().filter_map(|it| Some((it.cookie, peer(it)?))).collect();
        let peers = meant.iter().map(|(_, peer)| *peer).collect();
        let mut ended = 0;
        for found in diag.connected_to(&peers)? {
            // Another socket may talk to the endpoint by its own address.
            if meant.contains(&(found.cookie, found.peer)) && diag.end(&found)? == Outcome::Ended {
                ended += 1;
            }
        }
        Ok(ended)
    }
}
