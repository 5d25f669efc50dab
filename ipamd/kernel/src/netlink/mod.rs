//! Netlink. Routes, links and addresses: what the kernel has in the namespace of the thread that opened the socket, and
//! changes to it. Sockets that are connected to a peer, and their end. Names in netfilter.
//!
//! A socket blocks its caller: reading tables takes well under a millisecond, but a change waits for the kernel's
//! one lock, which the removal of an interface holds for tens of milliseconds. So nothing here is called from the
//! thread that serves requests.

mod address;
mod concerned_flows;
mod events;
mod filter;
#[cfg(test)]
mod fuzz;
mod link;
mod neighbour;
pub mod netfilter;
mod netns;
mod qdisc;
mod route;
mod socket;
mod sockets;
mod tables;
mod vxlan;

pub use address::Address;
pub use events::Events;
pub use filter::{Filter, Hook};
pub use ipamd_netlink::NetlinkError;
pub use link::Link;
pub use neighbour::Neighbour;
pub use netns::netns_cookie;
pub use qdisc::Qdisc;
pub use route::{PROTOCOL, Route, RouteKind, Routes};
pub use socket::Socket;
pub use sockets::{Found, Listener, Outcome, Peer, Protocol, SocketDiag, SocketDiagError};
pub use tables::Table;
pub use vxlan::{Forwarding, Vxlan, VxlanPort};
