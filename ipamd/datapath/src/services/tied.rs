//! Which sockets are led to which backend, as the programs wrote it down.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bpf::{
    attach::Pins,
    layout::{AS_BACKEND, Connection4, Connection6, SocketKey4, SocketKey6, SocketPeer4, SocketPeer6},
};
use libbpf_rs::MapHandle;

use crate::{DatapathError, maps::TypedMap};
use ipamd_services::tables::{Backend, ServiceNumber};

/// A socket that was led to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tied {
    /// Cookie of its network namespace.
    pub netns: u64,
    /// Its cookie.
    pub cookie: u64,
    /// IP protocol number.
    pub protocol: u8,
    /// The service that it means.
    pub service: ServiceNumber,
    /// The backend.
    pub backend: Backend,
}

/// The maps that say so.
#[derive(Debug)]
pub struct TiedSockets {
    v4: TypedMap<SocketKey4, SocketPeer4>,
    v6: TypedMap<SocketKey6, SocketPeer6>,
    connected4: TypedMap<u64, Connection4>,
    connected6: TypedMap<u64, Connection6>,
}

impl TiedSockets {
    /// The pinned maps.
    ///
    /// # Errors
    /// They cannot be used.
    pub fn open(pins: &Pins) -> Result<Self, DatapathError> {
        let pinned =
            |name: &str| MapHandle::from_pinned_path(pins.map(name)).map_err(DatapathError::map(name));
        Ok(Self {
            v4: TypedMap::open("sockets4", pinned)?,
            v6: TypedMap::open("sockets6", pinned)?,
            connected4: TypedMap::open("connections4", pinned)?,
            connected6: TypedMap::open("connections6", pinned)?,
        })
    }

    /// Those that `wanted` is true of. Some may have closed since.
    pub fn of(&self, wanted: &dyn Fn(ServiceNumber, Backend) -> bool) -> Result<Vec<Tied>, DatapathError> {
        let mut tied = Vec::new();
        let mut take = |as_backend: bool, it: Tied| {
            if as_backend && wanted(it.service, it.backend) {
                tied.push(it);
            }
            true
        };
        self.v4.each(|SocketKey4 { cookie, address, port, protocol, r#as }, peer| {
            let backend = Backend { address: Ipv4Addr::from(address).into(), port: u16::from_be(port) };
            let (netns, service) = (peer.netns, ServiceNumber(peer.service));
            take(r#as == AS_BACKEND, Tied { netns, cookie, protocol, service, backend })
        })?;
        self.v6.each(|SocketKey6 { cookie, address, port, protocol, r#as, pad: _ }, peer| {
            let backend = Backend { address: Ipv6Addr::from(address).into(), port: u16::from_be(port) };
            let (netns, service) = (peer.netns, ServiceNumber(peer.service));
            take(r#as == AS_BACKEND, Tied { netns, cookie, protocol, service, backend })
        })?;
        self.connected4.each(|cookie, it| {
            let address = Ipv4Addr::from(it.backend).into();
            take(true, connected(cookie, it.netns, it.protocol, it.service, address, it.backend_port))
        })?;
        self.connected6.each(|cookie, it| {
            let address = Ipv6Addr::from(it.backend).into();
            take(true, connected(cookie, it.netns, it.protocol, it.service, address, it.backend_port))
        })?;
        Ok(tied)
    }

    /// Forgets that a socket is led.
    pub fn forget(&self, tied: &Tied) -> Result<(), DatapathError> {
        let Tied { cookie, protocol, backend: Backend { address, port }, .. } = *tied;
        let port = port.to_be();
        match address {
            IpAddr::V4(address) => {
                let connected = self.connected4.get(&cookie)?;
                if connected
                    .is_some_and(|it| Ipv4Addr::from(it.backend) == address && it.backend_port == port)
                {
                    self.connected4.remove(&cookie)?;
                }
                let key = SocketKey4 { cookie, address: address.into(), port, protocol, r#as: AS_BACKEND };
                self.v4.remove(&key)
            }
            IpAddr::V6(address) => {
                let connected = self.connected6.get(&cookie)?;
                if connected
                    .is_some_and(|it| Ipv6Addr::from(it.backend) == address && it.backend_port == port)
                {
                    self.connected6.remove(&cookie)?;
                }
                let key =
                    SocketKey6 { cookie, address: address.into(), port, protocol, r#as: AS_BACKEND, pad: 0 };
                self.v6.remove(&key)
            }
        }
    }
}

/// A connected socket. `port` is in network order.
fn connected(cookie: u64, netns: u64, protocol: u32, service: u32, address: IpAddr, port: u16) -> Tied {
    Tied {
        netns,
        cookie,
        protocol: u8::try_from(protocol).unwrap_or(0),
        service: ServiceNumber(service),
        backend: Backend { address, port: u16::from_be(port) },
    }
}
