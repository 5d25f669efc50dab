//! The DNS names that endpoints were told.

use std::net::IpAddr;

use anyhow::{Context, Result};
use bpf::layout::{DNS_NAMES, DnsRecord, DnsRecordKey, Domain, DomainKey, Plain as _, mapped};
use ipamd_model::domain::reversed_name;
use libbpf_rs::{MapCore as _, MapFlags};

use super::{
    bench::{Bench, Local},
    maps::{forget, put},
};

/// Far from now, whatever the clock of the programs says.
const LATER: u32 = 1 << 30;

impl Bench {
    /// Has an endpoint know an address by these names, as if it had asked for them. They belong to the patterns that are in force.
    pub fn tell(&self, local: &Local, address: IpAddr, names: &[String]) -> Result<()> {
        for (place, name) in (0..).zip(names) {
            let key = DnsRecordKey { ifindex: local.ifindex, place, address: mapped(address) };
            let name = DomainKey::prefix(&reversed_name(name)).context("a long name")?;
            let found = self.skeleton.maps.domains.lookup(name.as_bytes(), MapFlags::ANY)?;
            let meant = found.and_then(|bytes| Domain::from_bytes(&bytes)).unwrap_or_default();
            let record = DnsRecord {
                hash: u64::from(place) + 1,
                expires: LATER,
                domains: meant.ids,
                name,
                ..DnsRecord::default()
            };
            put(&self.skeleton.maps.dns_records, &key, &record)?;
        }
        Ok(())
    }

    /// Has an endpoint forget the names of an address.
    pub fn forget_names(&self, local: &Local, address: IpAddr) -> Result<()> {
        for place in 0..DNS_NAMES {
            let key = DnsRecordKey { ifindex: local.ifindex, place, address: mapped(address) };
            forget(&self.skeleton.maps.dns_records, key.as_bytes())?;
        }
        Ok(())
    }
}
