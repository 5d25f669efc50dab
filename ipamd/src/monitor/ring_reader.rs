//! The thread that reads the programs' ring buffer.

use std::{
    io::{self, PipeReader, PipeWriter},
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bpf::attach::Pins;
use libbpf_rs::{MapHandle, RingBuffer, RingBufferBuilder};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::delivery::Monitor;
use ipamd_runtime::supervisor;

/// The map's name.
const RING: &str = "events";
/// How many records are read between two looks at whether to stop.
const RECORDS: usize = 1_024;
/// How often losses are reported to subscribers.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// Why the ring cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// It could not be opened.
    #[error("cannot read the programs' events: {0}")]
    Ring(#[from] libbpf_rs::Error),
    /// The thread could not be started.
    #[error("cannot start reading the programs' events: {0}")]
    Thread(#[from] io::Error),
}

/// The running thread. Dropping it waits until the events that were read are delivered.
#[derive(Debug)]
pub struct RingReader {
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl RingReader {
    /// Reads what the programs tell and gives it to `monitor`.
    ///
    /// # Errors
    /// Why not.
    pub fn start(monitor: Arc<Monitor>, pins: &Pins) -> Result<Self, RingError> {
        let map = MapHandle::from_pinned_path(pins.map(RING))?;
        let mut builder = RingBufferBuilder::new();
        let reader = Arc::clone(&monitor);
        builder.add(&map, move |record| {
            reader.read(record);
            0
        })?;
        let ring = builder.build()?;
        let (stopped, stop) = io::pipe()?;
        let thread = supervisor::spawn("events", move || {
            listen(&monitor, &ring, &stopped);
            // The ring is looked at by its map's descriptor.
            drop((ring, map));
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for RingReader {
    fn drop(&mut self) {
        // The other end of the pipe sees it close.
        drop(self.stop.take());
        // It may be at the name of somebody, which waits for a large change of policies.
        if let Some(thread) = self.thread.take() {
            let _ = supervisor::join_within(thread, supervisor::FAREWELL);
        }
    }
}

fn listen(monitor: &Monitor, ring: &RingBuffer<'_>, stopped: &PipeReader) {
    // SAFETY: the descriptor is the ring's, which outlives this function.
    let readable = unsafe { BorrowedFd::borrow_raw(ring.epoll_fd()) };
    let mut reported = Instant::now();
    loop {
        // With nobody to tell, nothing is to be done but what the ring says.
        let timeout = if monitor.is_heard() {
            PollTimeout::try_from(REPORT_EVERY).unwrap_or(PollTimeout::MAX)
        } else {
            PollTimeout::NONE
        };
        let mut watched =
            [PollFd::new(stopped.as_fd(), PollFlags::POLLIN), PollFd::new(readable, PollFlags::POLLIN)];
        // Interrupted by a signal: a look too many does no harm.
        let _ = supervisor::resting(|| poll(&mut watched, timeout));
        if watched[0].any().unwrap_or(false) {
            return;
        }
        ring.consume_raw_n(RECORDS);
        if reported.elapsed() >= REPORT_EVERY {
            if monitor.is_heard() {
                monitor.report_losses();
            }
            reported = Instant::now();
        }
    }
}
