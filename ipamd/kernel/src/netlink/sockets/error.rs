//! Why sockets could not be listed or ended.

use ipamd_netlink::NetlinkError;

use super::peer::Protocol;

/// Why sockets could not be listed or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketDiagError {
    /// The kernel has no list of this protocol.
    #[error("this kernel cannot list {0} sockets: it is built without CONFIG_INET_{0}_DIAG")]
    NoList(Protocol),
    /// The kernel ends no sockets.
    #[error("this kernel cannot end sockets: it is built without CONFIG_INET_DIAG_DESTROY")]
    NoDestroy,
    /// The kernel refused, or what it answered cannot be read.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}
