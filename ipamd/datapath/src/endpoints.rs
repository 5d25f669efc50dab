//! The endpoints that the programs know: an entry by address, and by host end the Ethernet address that the container sends from.

use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use bpf::layout::EthernetAddress;
use ipamd_model::endpoint::EndpointEntry;

use super::{
    datapath::Datapath,
    error::DatapathError,
    sync::remove_others,
    values::{endpoint_entry, endpoint_value},
};

impl Datapath {
    /// Makes an address forwardable, or changes what is known of it.
    pub fn put_endpoint(&self, address: IpAddr, entry: &EndpointEntry) -> Result<(), DatapathError> {
        self.put_host_end(entry)?;
        match address {
            IpAddr::V4(address) => self.endpoints4.put(&address.into(), &endpoint_value(entry)),
            IpAddr::V6(address) => self.endpoints6.put(&address.into(), &endpoint_value(entry)),
        }
    }

    /// Cuts an address off. Unknown addresses are fine.
    pub fn remove_endpoint(&self, address: IpAddr) -> Result<(), DatapathError> {
        self.remove_host_end(address)?;
        match address {
            IpAddr::V4(address) => self.endpoints4.remove(&address.into()),
            IpAddr::V6(address) => self.endpoints6.remove(&address.into()),
        }
    }

    /// All addresses that the programs know, read from the kernel.
    pub fn endpoints(&self) -> Result<BTreeMap<IpAddr, EndpointEntry>, DatapathError> {
        let mut endpoints = BTreeMap::new();
        self.endpoints4.each(|address, value| {
            endpoints.insert(Ipv4Addr::from(address).into(), endpoint_entry(value));
            true
        })?;
        self.endpoints6.each(|address, value| {
            endpoints.insert(Ipv6Addr::from(address).into(), endpoint_entry(value));
            true
        })?;
        Ok(endpoints)
    }

    /// Index of the host end of the endpoint that has an address.
    pub(super) fn host_end_of(&self, address: IpAddr) -> Result<Option<u32>, DatapathError> {
        let endpoint = match address {
            IpAddr::V4(address) => self.endpoints4.get(&address.into()),
            IpAddr::V6(address) => self.endpoints6.get(&address.into()),
        };
        Ok(endpoint?.map(|endpoint| endpoint.ifindex))
    }

    /// Whether the endpoint of an address is no longer the one that has this host end.
    pub(super) fn is_gone(&self, address: IpAddr, index: u32) -> bool {
        self.host_end_of(address).is_ok_and(|host_end| host_end != Some(index))
    }

    /// Tells the programs which Ethernet address the endpoint behind a host end sends from.
    fn put_host_end(&self, entry: &EndpointEntry) -> Result<(), DatapathError> {
        self.host_ends.put(&entry.ifindex, &EthernetAddress { mac: entry.container_mac.0, pad: 0 })
    }

    /// Forgets the Ethernet address of the endpoint that has this address, because the endpoint is cut off.
    fn remove_host_end(&self, address: IpAddr) -> Result<(), DatapathError> {
        let known = match address {
            IpAddr::V4(address) => self.endpoints4.get(&address.into()),
            IpAddr::V6(address) => self.endpoints6.get(&address.into()),
        }?;
        known.map_or(Ok(()), |endpoint| self.host_ends.remove(&endpoint.ifindex))
    }

    /// Makes the host ends those of the endpoints that an earlier daemon has left.
    pub(super) fn adopt_host_ends(&self) -> Result<(), DatapathError> {
        let endpoints = self.endpoints()?;
        for entry in endpoints.values() {
            self.put_host_end(entry)?;
        }
        let known: HashSet<_> = endpoints.values().map(|entry| entry.ifindex).collect();
        remove_others(&self.host_ends, |ifindex| known.contains(&ifindex))
    }
}
