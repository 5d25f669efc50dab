//! Frames as somebody with a packet socket sends them: any bytes, out of any interface.

use std::{
    io::{Error, IoSlice},
    mem::{size_of, zeroed},
    os::fd::{AsRawFd, OwnedFd},
};

use anyhow::{Context, Result, ensure};
use nix::{
    libc,
    net::if_::if_nametoindex,
    sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket},
};

use super::netns::Netns;

/// `PACKET_VNET_HDR`: each frame has a [`VnetHeader`] before it.
const PACKET_VNET_HDR: libc::c_int = 15;
/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const NEEDS_CHECKSUM: u8 = 1;

/// A packet socket on an interface of a namespace.
#[derive(Debug)]
pub struct Frames {
    socket: OwnedFd,
    ifindex: u32,
}

/// Where the kernel is to write a checksum: both as `struct virtio_net_hdr` has them.
#[derive(Clone, Copy, Debug)]
pub struct PartialChecksum {
    /// Offset in the frame of what the checksum covers.
    pub start: u16,
    /// Offset from there of where it goes.
    pub offset: u16,
}

impl Frames {
    /// Opens the socket, when the interface sends.
    pub fn open(netns: &Netns, ifname: &str) -> Result<Self> {
        netns.wait_until_sends(ifname)?;
        netns.inside(|| {
            let socket =
                socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None::<SockProtocol>)?;
            let on: libc::c_int = 1;
            // SAFETY: the option's value is an int that lives through the call.
            let set = unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_PACKET,
                    PACKET_VNET_HDR,
                    (&raw const on).cast(),
                    libc::socklen_t::try_from(size_of::<libc::c_int>())?,
                )
            };
            ensure!(set == 0, "PACKET_VNET_HDR: {}", Error::last_os_error());
            Ok(Self { socket, ifindex: if_nametoindex(ifname).with_context(|| format!("find {ifname}"))? })
        })
    }

    /// Sends a frame whose checksums are what they are.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        self.send_with(frame, [0; 10])
    }

    /// Sends a frame that the kernel is to complete.
    pub fn send_partial(&self, frame: &[u8], checksum: PartialChecksum) -> Result<()> {
        let mut header = [0; 10];
        header[0] = NEEDS_CHECKSUM;
        header[6..8].copy_from_slice(&checksum.start.to_le_bytes());
        header[8..10].copy_from_slice(&checksum.offset.to_le_bytes());
        self.send_with(frame, header)
    }

    fn send_with(&self, frame: &[u8], header: [u8; 10]) -> Result<()> {
        // SAFETY: all zeroes is a value of this plain struct.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET)?;
        address.sll_ifindex = i32::try_from(self.ifindex)?;
        let mut parts = [IoSlice::new(&header), IoSlice::new(frame)];
        // SAFETY: as above.
        let mut message: libc::msghdr = unsafe { zeroed() };
        message.msg_name = (&raw mut address).cast();
        message.msg_namelen = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>())?;
        message.msg_iov = parts.as_mut_ptr().cast();
        message.msg_iovlen = parts.len();
        // SAFETY: the message's parts live through the call; an IoSlice is laid out as an iovec.
        let sent = unsafe { libc::sendmsg(self.socket.as_raw_fd(), &raw const message, 0) };
        ensure!(sent >= 0, "send a frame: {}", Error::last_os_error());
        Ok(())
    }
}

impl Netns {
    /// The Ethernet address of an interface.
    pub fn mac_of(&self, ifname: &str) -> Result<[u8; 6]> {
        let links: serde_json::Value =
            serde_json::from_str(&self.ip(&format!("-json link show dev {ifname}"))?)?;
        parse_mac(links[0]["address"].as_str().context("an interface without an address")?)
    }

    /// The Ethernet address that a namespace has for a neighbour.
    pub fn mac_of_neighbour(&self, address: std::net::IpAddr) -> Result<[u8; 6]> {
        let known: serde_json::Value =
            serde_json::from_str(&self.ip(&format!("-json neighbour show to {address}"))?)?;
        parse_mac(known[0]["lladdr"].as_str().with_context(|| format!("no neighbour {address}"))?)
    }
}

fn parse_mac(text: &str) -> Result<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next().context("a short Ethernet address")?, 16)?;
    }
    Ok(mac)
}
