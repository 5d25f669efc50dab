//! Why sockets could not be listed or ended.

use std::{io, net::SocketAddr};

use super::peer::{Peer, Protocol};

/// Why sockets could not be listed or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketDiagError {
    /// No netlink socket.
    #[error("cannot open a netlink socket to list sockets by: {0}")]
    Open(#[source] io::Error),
    /// The kernel has no list of this protocol.
    #[error("this kernel cannot list {0} sockets: it is built without CONFIG_INET_{0}_DIAG")]
    NoList(Protocol),
    /// The list could not be read.
    #[error("cannot list the {protocol} sockets: {source}")]
    List {
        /// Of this protocol.
        protocol: Protocol,
        /// What the kernel or its answer had against it.
        source: io::Error,
    },
    /// The kernel ends no sockets.
    #[error("this kernel cannot end sockets: it is built without CONFIG_INET_DIAG_DESTROY")]
    NoDestroy,
    /// The kernel would not end this socket.
    #[error("cannot end the socket from {local} to {peer}: {source}")]
    End {
        /// What it is connected to.
        peer: Peer,
        /// Its own end.
        local: SocketAddr,
        /// What the kernel or its answer had against it.
        source: io::Error,
    },
}
