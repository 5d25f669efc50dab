//! What the programs know about DNS names: the resolvers, the patterns that policies have, and what each endpoint was told.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    os::fd::AsFd,
};

use bpf::layout::{
    DNS_NAMES, DNS_PORTS, DnsRecord, DnsRecordKey, DnsSettings, Domain, DomainKey, RESOLVER_ENTRIES,
    ResolverKey, mapped, unmapped,
};
use ipamd_model::domain::{DomainId, DomainPattern};

use super::{conntrack, datapath::Datapath, domains, error::DatapathError, load::SWEEP_NAMES, run::words};

/// The loopback interface, which is number 1 in every namespace.
const LOOPBACK: u32 = 1;

/// A resolver that endpoints may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resolver {
    /// Where it is asked.
    pub at: SocketAddr,
    /// IP protocol number: UDP or TCP.
    pub protocol: u8,
}

/// What an endpoint was told: a name of an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DnsName {
    /// Index of the endpoint's host end.
    pub ifindex: u32,
    /// The name that it asked about, in small letters.
    pub name: String,
    /// The address that it was told.
    pub address: IpAddr,
    /// For so many seconds a new flow may be allowed by the name; below 0: it was so many seconds ago that this ended.
    pub left: i64,
    /// The numbers of the patterns that mean the name.
    pub domains: Vec<DomainId>,
}

/// How many entries remain after a sweep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DnsUse {
    /// Names of addresses, each for one endpoint.
    pub records: u32,
    /// Questions that have no answer yet.
    pub questions: u32,
}

impl Datapath {
    /// Sets the resolvers whose answers count. Returns those that have no room.
    pub fn set_resolvers(&self, wanted: &BTreeSet<Resolver>) -> Result<Vec<Resolver>, DatapathError> {
        let mut ports: Vec<u16> = Vec::new();
        let (mut keys, mut left_out) = (BTreeMap::new(), Vec::new());
        for resolver in wanted {
            let port = resolver.at.port();
            if !ports.contains(&port) {
                if ports.len() == DNS_PORTS {
                    left_out.push(*resolver);
                    continue;
                }
                ports.push(port);
            }
            if keys.len() == RESOLVER_ENTRIES {
                left_out.push(*resolver);
                continue;
            }
            let key = ResolverKey {
                address: mapped(resolver.at.ip()),
                port: port.to_be(),
                protocol: resolver.protocol,
                pad: 0,
            };
            keys.insert((resolver.at, resolver.protocol), key);
        }
        for known in self.resolvers.keys() {
            let at = SocketAddr::new(unmapped(known.address), u16::from_be(known.port));
            if !keys.contains_key(&(at, known.protocol)) {
                self.resolvers.remove(&known)?;
            }
        }
        for key in keys.values() {
            self.resolvers.put(key, &1)?;
        }
        self.change_dns(|settings| {
            settings.ports = [0; DNS_PORTS];
            for (place, port) in settings.ports.iter_mut().zip(ports) {
                *place = port.to_be();
            }
        })?;
        Ok(left_out)
    }

    /// Sets the patterns that policies have. Names that endpoints were told belong to these from now on.
    pub(super) fn put_domains(&self, wanted: &[(DomainPattern, DomainId)]) -> Result<(), DatapathError> {
        let wanted = domains::wanted(wanted, &self.asked_by_all);
        let known = self.known_domains();
        let mut changed = false;
        for (prefix, value) in &wanted {
            if known.get(prefix).is_some_and(|known| same(known, value)) {
                continue;
            }
            let Some(key) = DomainKey::prefix(prefix) else { continue };
            self.domains.put(&key, value)?;
            changed = true;
        }
        for prefix in known.keys().filter(|prefix| !wanted.contains_key(*prefix)) {
            let Some(key) = DomainKey::prefix(prefix) else { continue };
            self.domains.remove(&key)?;
            changed = true;
        }
        if changed {
            // A program that has looked a name up before sees that it must look again.
            self.change_dns(|settings| settings.generation = settings.generation.wrapping_add(1))?;
            self.sweep_names()?;
        }
        Ok(())
    }

    /// The patterns that are set, with their numbers.
    pub(super) fn domains(&self) -> Vec<(DomainPattern, DomainId)> {
        let known = self.known_domains().into_iter().filter(|(_, value)| value.own != 0);
        known.filter_map(|(prefix, value)| Some((domains::pattern(&prefix)?, DomainId(value.own)))).collect()
    }

    fn known_domains(&self) -> BTreeMap<Vec<u8>, Domain> {
        let keys = self.domains.keys().into_iter();
        let known = keys.filter_map(|key| {
            let prefix = key.text.get(..key.length as usize / 8)?.to_vec();
            Some((prefix, self.domains.get(&key).ok()??))
        });
        known.collect()
    }

    fn change_dns(&self, change: impl FnOnce(&mut DnsSettings)) -> Result<(), DatapathError> {
        let _alone = self.alone.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut settings = self.dns_settings.get(&0)?.unwrap_or_default();
        change(&mut settings);
        self.dns_settings.put(&0, &settings)
    }

    /// Forgets what endpoints were told that are gone, and finds the patterns of each name again.
    pub fn sweep_names(&self) -> Result<DnsUse, DatapathError> {
        let program = self.program(SWEEP_NAMES)?;
        let told = words(program.as_fd(), LOOPBACK).map_err(|source| DatapathError::SweepNames { source })?;
        let [records, questions, ..] = told;
        Ok(DnsUse { records, questions })
    }

    /// All names that endpoints were told.
    pub fn dns_names(&self) -> Result<Vec<DnsName>, DatapathError> {
        let (now, mut names) = (conntrack::now(), Vec::new());
        self.dns_records.each(|key, record| {
            names.extend(name_of(&record).map(|name| DnsName {
                ifindex: key.ifindex,
                name,
                address: unmapped(key.address),
                left: seconds(i64::from(record.expires.wrapping_sub(now).cast_signed())),
                domains: record.domains.id.into_iter().take_while(|id| *id != 0).map(DomainId).collect(),
            }));
            true
        })?;
        Ok(names)
    }

    /// The names that an endpoint was told for an address; those that have expired, too. The endpoint is given by an address of its own.
    pub fn dns_names_of(&self, endpoint: IpAddr, address: IpAddr) -> Result<Vec<String>, DatapathError> {
        let mut names = Vec::new();
        let Some(ifindex) = self.host_end_of(endpoint)? else { return Ok(names) };
        for place in 0..DNS_NAMES {
            let key = DnsRecordKey { ifindex, place, address: mapped(address) };
            names.extend(self.dns_records.get(&key)?.as_ref().and_then(name_of));
        }
        Ok(names)
    }
}

/// The name of a record.
fn name_of(record: &DnsRecord) -> Option<String> {
    let prefix = record.name.text.get(..record.name.length as usize / 8)?;
    Some(domains::pattern(prefix)?.name().to_owned())
}

/// A tick is 2^30 ns.
fn seconds(ticks: i64) -> i64 {
    ticks.saturating_mul(1 << 30) / 1_000_000_000
}

fn same(one: &Domain, other: &Domain) -> bool {
    one.own == other.own && one.flags == other.flags && one.ids.id == other.ids.id
}
