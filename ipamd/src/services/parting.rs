//! The thread that ends the sockets of endpoints that are gone: who talked to them would wait for an answer.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
};

use bpf::attach::Pins;

use super::balancer::Gone;
use crate::node::Node;

/// How many changes may wait.
const QUEUE: usize = 256;

/// The running thread. Dropping it lets it finish what waits.
#[derive(Debug)]
pub struct Parting {
    sender: Option<SyncSender<Vec<Gone>>>,
    thread: Option<JoinHandle<()>>,
}

impl Parting {
    /// Starts it.
    ///
    /// # Errors
    /// Why the maps cannot be used, or there is no thread.
    pub fn start(_node: Arc<Node>, _pins: &Pins) -> anyhow::Result<Self> {
        let (sender, receiver) = sync_channel(QUEUE);
        let thread = thread::Builder::new().name("parting".into()).spawn(move || follow(&receiver))?;
        Ok(Self { sender: Some(sender), thread: Some(thread) })
    }

    /// Where endpoints that are gone are told.
    pub fn sender(&self) -> SyncSender<Vec<Gone>> {
        self.sender.clone().unwrap_or_else(|| sync_channel(1).0)
    }
}

fn follow(gone: &Receiver<Vec<Gone>>) {
    while gone.recv().is_ok() {}
}

impl Drop for Parting {
    fn drop(&mut self) {
        drop(self.sender.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("ending sockets has failed");
        }
    }
}
