//! Sockets that are connected to a peer: listing and ending them.
//!
//! A connection that was translated at connect time has the backend as its peer, in the kernel as on the wire. When the
//! backend is gone nothing tells the socket: UDP would send to nobody for good, and TCP would retransmit for a quarter
//! of an hour. So the sockets are listed by `NETLINK_SOCK_DIAG` and ended by `SOCK_DESTROY`: their next call returns
//! `ECONNABORTED`, and the client connects again.

mod diag;
mod error;
mod found;
mod peer;

pub use diag::{Outcome, SocketDiag};
pub use error::SocketDiagError;
pub use found::{Found, Listener};
pub use peer::{Peer, Protocol};

#[cfg(test)]
mod tests;
