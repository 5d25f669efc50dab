//! Which sockets are led to which backend, as the programs wrote it down.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bpf::{
    attach::Pins,
    layout::{AS_BACKEND, Plain, SocketKey4, SocketKey6, SocketPeer4, SocketPeer6},
};
use libbpf_rs::MapHandle;

use crate::{
    datapath::{DatapathError, maps::TypedMap},
    services::tables::{Backend, ServiceNumber},
};

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
}

impl TiedSockets {
    /// The pinned maps.
    ///
    /// # Errors
    /// They cannot be used.
    pub fn open(pins: &Pins) -> Result<Self, DatapathError> {
        Ok(Self { v4: typed(pins, "sockets4")?, v6: typed(pins, "sockets6")? })
    }

    /// Those that `wanted` is true of. Some may have closed since.
    pub fn of(&self, wanted: &dyn Fn(ServiceNumber, Backend) -> bool) -> Result<Vec<Tied>, DatapathError> {
        let mut tied = Vec::new();
        let mut take = |it: Tied, tied_as: u8| {
            if tied_as == AS_BACKEND && wanted(it.service, it.backend) {
                tied.push(it);
            }
            true
        };
        self.v4.each(|key, value| {
            let address: IpAddr = Ipv4Addr::from(key.address).into();
            take(
                Tied {
                    netns: value.netns,
                    cookie: key.cookie,
                    protocol: key.protocol,
                    service: ServiceNumber(value.service),
                    backend: Backend { address, port: u16::from_be(key.port) },
                },
                key.r#as,
            )
        })?;
        self.v6.each(|key, value| {
            let address: IpAddr = Ipv6Addr::from(key.address).into();
            take(
                Tied {
                    netns: value.netns,
                    cookie: key.cookie,
                    protocol: key.protocol,
                    service: ServiceNumber(value.service),
                    backend: Backend { address, port: u16::from_be(key.port) },
                },
                key.r#as,
            )
        })?;
        Ok(tied)
    }

    /// Forgets that a socket is led.
    pub fn forget(&self, tied: &Tied) -> Result<(), DatapathError> {
        let Tied { cookie, protocol, backend: Backend { address, port }, .. } = *tied;
        let port = port.to_be();
        match address {
            IpAddr::V4(address) => {
                let key = SocketKey4 { cookie, address: address.into(), port, protocol, r#as: AS_BACKEND };
                self.v4.remove(&key)
            }
            IpAddr::V6(address) => {
                let key =
                    SocketKey6 { cookie, address: address.into(), port, protocol, r#as: AS_BACKEND, pad: 0 };
                self.v6.remove(&key)
            }
        }
    }
}

fn typed<K: Plain, V: Plain>(pins: &Pins, name: &str) -> Result<TypedMap<K, V>, DatapathError> {
    let map = MapHandle::from_pinned_path(pins.map(name)).map_err(DatapathError::map(name))?;
    TypedMap::take(&mut [(name.to_owned(), map)].into(), name)
}
