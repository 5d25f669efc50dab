//! The sockets that the programs have translated from a service to a backend, as the programs recorded them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bpf::{
    attach::Pins,
    layout::{AS_BACKEND, Connection4, Connection6, SocketKey4, SocketKey6, SocketPeer4, SocketPeer6},
};
use libbpf_rs::MapHandle;

use crate::{error::DatapathError, maps::TypedMap};
use ipamd_services::tables::{Backend, ServiceNumber};

/// A socket that was translated to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TranslatedSocket {
    /// Cookie of its network namespace.
    pub netns: u64,
    /// Its cookie.
    pub cookie: u64,
    /// IP protocol number.
    pub protocol: u8,
    /// The service that it was connected to.
    pub service: ServiceNumber,
    /// The backend.
    pub backend: Backend,
}

/// The maps of translated sockets.
#[derive(Debug)]
pub struct TranslatedSockets {
    v4: TypedMap<SocketKey4, SocketPeer4>,
    v6: TypedMap<SocketKey6, SocketPeer6>,
    connected4: TypedMap<u64, Connection4>,
    connected6: TypedMap<u64, Connection6>,
}

impl TranslatedSockets {
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

    /// The sockets for which `wanted` is true. Some may have closed since.
    pub fn of(
        &self,
        wanted: &dyn Fn(ServiceNumber, Backend) -> bool,
    ) -> Result<Vec<TranslatedSocket>, DatapathError> {
        let mut tied = Vec::new();
        let mut take = |as_backend: bool, it: TranslatedSocket| {
            if as_backend && wanted(it.service, it.backend) {
                tied.push(it);
            }
            true
        };
        self.v4.each(|SocketKey4 { cookie, address, port, protocol, r#as }, peer| {
            let backend = Backend { address: Ipv4Addr::from(address).into(), port: u16::from_be(port) };
            let (netns, service) = (peer.netns, ServiceNumber(peer.service));
            take(r#as == AS_BACKEND, TranslatedSocket { netns, cookie, protocol, service, backend })
        })?;
        self.v6.each(|SocketKey6 { cookie, address, port, protocol, r#as, pad: _ }, peer| {
            let backend = Backend { address: Ipv6Addr::from(address).into(), port: u16::from_be(port) };
            let (netns, service) = (peer.netns, ServiceNumber(peer.service));
            take(r#as == AS_BACKEND, TranslatedSocket { netns, cookie, protocol, service, backend })
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

    /// Removes the record of a socket.
    pub fn forget(&self, tied: &TranslatedSocket) -> Result<(), DatapathError> {
        let TranslatedSocket { cookie, protocol, backend: Backend { address, port }, .. } = *tied;
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
fn connected(
    cookie: u64,
    netns: u64,
    protocol: u32,
    service: u32,
    address: IpAddr,
    port: u16,
) -> TranslatedSocket {
    TranslatedSocket {
        netns,
        cookie,
        protocol: u8::try_from(protocol).unwrap_or(0),
        service: ServiceNumber(service),
        backend: Backend { address, port: u16::from_be(port) },
    }
}
