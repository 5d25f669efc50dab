//! The maps about services of one family.

use std::{collections::HashSet, marker::PhantomData, net::IpAddr};

use bpf::layout::{Frontend, MEMBER_CLUSTER, MEMBER_LOCAL, ServiceFamily};
use ipnetwork::IpNetwork;
use libbpf_rs::{MapCore, MapHandle};

use crate::{error::DatapathError, maps::TypedMap};
use ipamd_services::{
    maglev,
    tables::{Backend, FrontendKey, FrontendValue, Member, ServiceNumber, SetNumber},
};

/// The maps of one family.
#[derive(Debug)]
pub(super) struct OfFamily<F: ServiceFamily> {
    frontends: TypedMap<F::FrontendKey, Frontend>,
    members: TypedMap<F::Member, u32>,
    source_ranges: TypedMap<F::SourceRange, u8>,
    backends: TypedMap<u32, F::Backend>,
    family: PhantomData<F>,
}

/// Takes an address that is of a family as one of it.
pub(super) trait Narrow: Sized {
    fn narrow(address: IpAddr) -> Option<Self>;
}

impl Narrow for std::net::Ipv4Addr {
    fn narrow(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        }
    }
}

impl Narrow for std::net::Ipv6Addr {
    fn narrow(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(_) => None,
            IpAddr::V6(address) => Some(address),
        }
    }
}

impl<F: ServiceFamily> OfFamily<F>
where
    F::Address: Narrow,
{
    pub fn open(pinned: &dyn Fn(&str) -> Result<MapHandle, DatapathError>) -> Result<Self, DatapathError> {
        let name = |name: &str| format!("{name}{}", F::FAMILY);
        let [frontends, members, ranges, backends] =
            ["frontends", "members", "source_ranges", "backends"].map(name);
        Ok(Self {
            frontends: TypedMap::open(&frontends, pinned)?,
            members: TypedMap::open(&members, pinned)?,
            source_ranges: TypedMap::open(&ranges, pinned)?,
            backends: TypedMap::open(&backends, pinned)?,
            family: PhantomData,
        })
    }

    pub fn most_frontends(&self) -> u32 {
        self.frontends.handle().max_entries()
    }

    pub fn most_members(&self) -> u32 {
        self.members.handle().max_entries()
    }

    pub fn most_source_ranges(&self) -> u32 {
        self.source_ranges.handle().max_entries()
    }

    pub fn most_backends(&self) -> u32 {
        self.backends.handle().max_entries()
    }

    pub fn put_backends(&self, first: u32, backends: &[(Backend, u32)]) -> Result<(), DatapathError> {
        let entries = (first..).zip(backends).filter_map(|(at, (backend, hits))| {
            let address = F::Address::narrow(backend.address)?;
            Some((at, F::backend(address, backend.port, maglev::seed(backend), *hits)))
        });
        self.backends.put_all(entries)
    }

    pub fn backends(&self, first: u32, count: u32) -> Result<Vec<(Backend, u32)>, DatapathError> {
        let places = first..first.saturating_add(count).min(self.most_backends());
        let read = |at| {
            let (address, port, hits) = F::of_backend(&self.backends.get(&at)?.unwrap_or_default());
            Ok((Backend { address: address.into(), port }, hits))
        };
        places.map(read).collect()
    }

    pub fn put_frontends(&self, frontends: &[(FrontendKey, FrontendValue)]) -> Result<(), DatapathError> {
        let entries =
            frontends.iter().filter_map(|(key, value)| Some((frontend_key::<F>(key)?, encoded(value))));
        self.frontends.put_all(entries)
    }

    pub fn remove_frontends(&self, keys: &[FrontendKey]) -> Result<(), DatapathError> {
        keys.iter().filter_map(frontend_key::<F>).try_for_each(|key| self.frontends.remove(&key))
    }

    pub fn all_frontends(&self) -> Result<Vec<(FrontendKey, FrontendValue)>, DatapathError> {
        let mut all = Vec::new();
        self.frontends.each(|key, value| {
            let (address, port, protocol) = F::of_frontend(&key);
            all.push((FrontendKey { address: address.into(), port, protocol }, decoded(&value)));
            true
        })?;
        Ok(all)
    }

    pub fn put_members(&self, members: &[(ServiceNumber, Member)]) -> Result<(), DatapathError> {
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        let entries = members.iter().filter_map(|(service, member)| {
            let value = flag(member.in_cluster, MEMBER_CLUSTER) | flag(member.in_local, MEMBER_LOCAL);
            Some((member_key::<F>(*service, &member.backend)?, value))
        });
        self.members.put_all(entries)
    }

    pub fn remove_members(&self, members: &[(ServiceNumber, Backend)]) -> Result<(), DatapathError> {
        let keys = members.iter().filter_map(|(service, backend)| member_key::<F>(*service, backend));
        keys.into_iter().try_for_each(|key| self.members.remove(&key))
    }

    pub fn all_members(&self) -> Result<Vec<(ServiceNumber, Member)>, DatapathError> {
        let mut all = Vec::new();
        self.members.each(|key, value| {
            let (service, address, port) = F::of_member(&key);
            let member = Member {
                backend: Backend { address: address.into(), port },
                in_cluster: value & MEMBER_CLUSTER != 0,
                in_local: value & MEMBER_LOCAL != 0,
            };
            all.push((ServiceNumber(service), member));
            true
        })?;
        Ok(all)
    }

    pub fn put_source_ranges(
        &self,
        service: ServiceNumber,
        old: &[IpNetwork],
        new: &[IpNetwork],
    ) -> Result<(), DatapathError> {
        let key = |range: &IpNetwork| {
            Some(F::source_range(service.0, F::Address::narrow(range.network())?, range.prefix()))
        };
        for range in new {
            key(range).map_or(Ok(()), |key| self.source_ranges.put(&key, &1))?;
        }
        let kept: HashSet<_> = new.iter().collect();
        for range in old.iter().filter(|range| !kept.contains(range)) {
            key(range).map_or(Ok(()), |key| self.source_ranges.remove(&key))?;
        }
        Ok(())
    }

    pub fn all_source_ranges(&self) -> impl Iterator<Item = (ServiceNumber, IpNetwork)> {
        self.source_ranges.keys().into_iter().filter_map(|key| {
            let (service, address, length) = F::of_source_range(&key);
            Some((ServiceNumber(service), IpNetwork::new(address.into(), length).ok()?))
        })
    }
}

fn frontend_key<F: ServiceFamily>(key: &FrontendKey) -> Option<F::FrontendKey>
where
    F::Address: Narrow,
{
    Some(F::frontend(F::Address::narrow(key.address)?, key.port, key.protocol))
}

fn member_key<F: ServiceFamily>(service: ServiceNumber, backend: &Backend) -> Option<F::Member>
where
    F::Address: Narrow,
{
    Some(F::member(service.0, F::Address::narrow(backend.address)?, backend.port))
}

fn encoded(value: &FrontendValue) -> Frontend {
    Frontend {
        service: value.service.0,
        set: [value.inside.0, value.outside.0],
        flags: value.flags,
        affinity: bpf::layout::ticks(value.affinity),
    }
}

fn decoded(value: &Frontend) -> FrontendValue {
    FrontendValue {
        service: ServiceNumber(value.service),
        inside: SetNumber(value.set[0]),
        outside: SetNumber(value.set[1]),
        flags: value.flags,
        affinity: bpf::layout::seconds(value.affinity),
    }
}
