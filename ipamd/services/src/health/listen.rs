//! The listening sockets of health checks.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpSocket};

/// How many connections may wait to be accepted.
const BACKLOG: u32 = 128;

/// Listens at an address and port. `::` means every address of the node in both families, or in IPv4 where the kernel has
/// nothing else.
pub(super) fn listen(place: SocketAddr) -> io::Result<TcpListener> {
    let listener = bind(place);
    match listener {
        Err(error) if place.ip().is_unspecified() && lacks_ipv6(&error) => {
            bind((Ipv4Addr::UNSPECIFIED, place.port()).into())
        }
        listener => listener,
    }
}

/// An address and port for people.
pub(super) fn name(place: SocketAddr) -> String {
    if place.ip().is_unspecified() { format!("port {}", place.port()) } else { place.to_string() }
}

fn bind(place: SocketAddr) -> io::Result<TcpListener> {
    let socket = match place.ip() {
        IpAddr::V4(_) => TcpSocket::new_v4()?,
        IpAddr::V6(_) => {
            let socket = TcpSocket::new_v6()?;
            // This overrides net.ipv6.bindv6only.
            setsockopt(&socket, sockopt::Ipv6V6Only, &false)?;
            socket
        }
    };
    // Old connections in TIME_WAIT must not keep the port.
    socket.set_reuseaddr(true)?;
    socket.bind(place)?;
    socket.listen(BACKLOG)
}

fn lacks_ipv6(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(nix::libc::EAFNOSUPPORT | nix::libc::EADDRNOTAVAIL))
}
