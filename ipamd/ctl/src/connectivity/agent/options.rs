//! Socket options about the path MTU.

use std::{
    io,
    net::{IpAddr, UdpSocket},
    os::fd::AsRawFd,
};

use nix::libc;

/// What becomes of a datagram that is larger than the path's MTU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Larger {
    /// It is cut.
    Cut,
    /// It is refused.
    Refused,
}

/// Sets what becomes of larger datagrams of a socket.
pub(super) fn set(socket: &UdpSocket, family: IpAddr, larger: Larger) -> io::Result<()> {
    let (level, name) = match family {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
    };
    let value = match larger {
        Larger::Cut => libc::IP_PMTUDISC_DONT,
        Larger::Refused => libc::IP_PMTUDISC_DO,
    };
    let length = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
    // SAFETY: the option's value is an int, which is there and of the length that is said.
    let done =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The MTU of the path to the peer of a connected socket, as far as the kernel knows it.
pub(super) fn path_mtu(socket: &UdpSocket, family: IpAddr) -> io::Result<usize> {
    let (level, name) = match family {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU),
    };
    let mut value: libc::c_int = 0;
    let mut length = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
    // SAFETY: the option's value is an int, for which there is room of the length that is said.
    let done = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut length)
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    usize::try_from(value).map_err(io::Error::other)
}
