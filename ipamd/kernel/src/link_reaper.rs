//! Removes interfaces on a thread of its own. The kernel blocks whoever removes an interface for some 20 ms and holds
//! its network lock, although the interface disappears after one. It does so once per message, so all that is queued
//! meanwhile is put into one link group and removed by one message.

use std::{
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    thread::JoinHandle,
};

use crate::netlink::{NetlinkError, Socket};
use ipamd_runtime::supervisor;

/// The link group of interfaces that are being removed. Every interface in it is removed.
const GROUP: u32 = 0xca3b_0d1e;
/// How many interfaces may wait. More are found again by the reconciliation.
const QUEUE: usize = 1024;

/// The queue of interfaces to remove. Dropping it waits until all of them are.
#[derive(Debug)]
pub struct Reaper {
    queue: Option<SyncSender<u32>>,
    thread: Option<JoinHandle<()>>,
}

impl Reaper {
    /// Starts the thread, in the network namespace of the caller.
    ///
    /// # Errors
    /// Why not.
    pub fn start() -> Result<Self, NetlinkError> {
        let socket = Socket::open()?;
        let (queue, waiting) = sync_channel(QUEUE);
        let thread = supervisor::spawn("reaper", move || reap(socket, &waiting))
            .map_err(|source| NetlinkError::new("start the thread that removes interfaces", source))?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    /// Queues the removal of an interface, by its index, because its name may be reused meanwhile.
    pub fn remove(&self, ifindex: u32) {
        let Some(queue) = &self.queue else { return };
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = queue.try_send(ifindex) {
            tracing::warn!(
                ifindex,
                "too many interfaces wait to be removed; the reconciliation will find this one"
            );
        }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        drop(self.queue.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that removes interfaces has failed");
        }
    }
}

fn reap(mut socket: Socket, waiting: &Receiver<u32>) {
    while let Ok(first) = supervisor::resting(|| waiting.recv()) {
        let mut batch = vec![first];
        batch.extend(waiting.try_iter());
        if batch.len() > 1 {
            match remove_together(&mut socket, &batch) {
                Ok(()) => continue,
                Err(error) => {
                    tracing::debug!(%error, "cannot remove interfaces as a group; removing them one by one");
                }
            }
        }
        for ifindex in batch {
            report(ifindex, socket.remove_link(ifindex));
        }
    }
}

fn remove_together(socket: &mut Socket, batch: &[u32]) -> Result<(), NetlinkError> {
    let mut grouped = false;
    for ifindex in batch {
        let moved = socket.set_link_group(*ifindex, GROUP);
        grouped |= moved.is_ok();
        report(*ifindex, moved);
    }
    if grouped { socket.remove_link_group(GROUP) } else { Ok(()) }
}

/// One that is gone already, with its container's namespace, is what was wanted.
fn report(ifindex: u32, result: Result<(), NetlinkError>) {
    if let Err(error) = result
        && !error.is_not_found()
    {
        tracing::warn!(ifindex, %error, "cannot remove an interface; the reconciliation tries again");
    }
}
