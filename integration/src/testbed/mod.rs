//! The namespace testbed: a node, a neighbour machine on its uplink, and pods, each in a network namespace of its own.
//!
//! Everything has a name with this process' number in it, so tests run side by side; all of it goes when its value is
//! dropped, and what a killed run left goes when the next one begins.

mod answering;
mod authority;
mod behind;
mod binaries;
mod cluster;
mod daemon;
mod dns_server;
mod flow;
mod frames;
mod grid;
mod hubble;
mod listeners;
mod machine;
mod monitor;
mod names;
mod neighbour;
mod netns;
mod node;
mod plugin;
mod pod;
mod probe;
mod readable;
mod service;
mod snapshot;
mod sweep;
mod tap;
mod tcp;
mod udp;
mod usable;

pub use answering::{Answer, Answering, Asking, Conversation, ask_from, ask_on};
pub use authority::{Authority, Identity};
pub use behind::First;
pub use binaries::Binaries;
pub use daemon::Daemon;
pub use dns_server::{DnsAnswer, DnsClient, DnsServer};
pub use flow::{Flow, FlowReport, Flowing};
pub use frames::{Frames, PartialChecksum};
pub use grid::Grid;
pub use hubble::{Following, HubbleClient, flow_of};
pub use ipamd_waiting::{eventually, eventually_every, pause_until, throughout, time_passes};
pub use listeners::Listeners;
pub use machine::{Machine, Pings};
pub use monitor::Monitor;
pub use neighbour::Neighbour;
pub use netns::Netns;
pub use node::{FAR4, FAR6, NEIGHBOUR4, NEIGHBOUR6, NODE4, NODE6, Node, OTHER4, OTHER6, Settings};
pub use plugin::{Invocation, Refusal};
pub use pod::{Pod, Sandbox};
pub use probe::{Addressed, Case, allowed, case, cases, denied, hold};
pub use service::{Protocol, Service, tcp, udp};
pub use snapshot::Snapshot;
pub use tap::{Marked, Spray, Tap};
pub use tcp::{TcpEcho, TcpStreamCheck, pattern};
pub use udp::UdpEcho;
pub use usable::usable;
