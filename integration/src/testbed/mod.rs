//! The namespace testbed: a node, a neighbour machine on its uplink, and pods, each in a network namespace of its own.
//!
//! Everything has a name with this process' number in it, so tests run side by side; all of it goes when its value is
//! dropped, and what a killed run left goes when the next one begins.

mod answering;
mod behind;
mod binaries;
mod cluster;
mod daemon;
mod flow;
mod frames;
mod grid;
mod listeners;
mod machine;
mod monitor;
mod neighbour;
mod netns;
mod node;
mod plugin;
mod pod;
mod probe;
mod snapshot;
mod sweep;
mod tap;
mod tcp;
mod udp;

pub use answering::{Answer, Answering, Asking, Conversation, ask_from, ask_on};
pub use behind::First;
pub use binaries::Binaries;
pub use daemon::Daemon;
pub use flow::{Flow, FlowReport, Flowing};
pub use frames::{Frames, PartialChecksum};
pub use grid::Grid;
pub use listeners::Listeners;
pub use machine::{Machine, Pings};
pub use monitor::Monitor;
pub use neighbour::Neighbour;
pub use netns::Netns;
pub use node::{FAR4, FAR6, NEIGHBOUR4, NEIGHBOUR6, NODE4, NODE6, Node, OTHER4, OTHER6, Settings};
pub use plugin::{Invocation, Refusal};
pub use pod::{Pod, Sandbox};
pub use probe::{Addressed, Case, Protocol, Service, allowed, case, cases, denied, hold, tcp, udp};
pub use snapshot::Snapshot;
pub use tap::{Marked, Spray, Tap};
pub use tcp::{TcpEcho, TcpStreamCheck, pattern};
pub use udp::UdpEcho;

use std::{
    io::Write,
    process,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

/// Whether the testbed can be used. Where it cannot, says how to run the test.
pub fn usable() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        // Past the capture of libtest, so that it is seen that the test did not run.
        let _ =
            writeln!(std::io::stderr(), "skipped: needs root; run it by: sudo -E cargo test -p integration");
    }
    root
}

/// Returns from the test, saying how to run it, where the testbed cannot be used.
#[macro_export]
macro_rules! needs_root {
    () => {
        if !$crate::testbed::usable() {
            return Ok(());
        }
    };
}

/// The beginning of every name that the testbed gives.
const PREFIX: &str = "cambric-test-";

/// A name that nobody else uses.
fn unique() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{PREFIX}{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Waits until `holds` does, at most `within`; whether it did.
pub fn eventually(within: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + within;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
