//! What the maps about DNS names hold (`progs/intf_dns.h`).

use std::net::{IpAddr, Ipv6Addr};

use super::plain::plain;
use crate::skeleton::types::ip6 as Ip6;
pub use crate::skeleton::types::{
    dns_record as DnsRecord, dns_record_key as DnsRecordKey, dns_settings as DnsSettings, domain as Domain,
    domain_ids as DomainIds, domain_key as DomainKey, resolver_key as ResolverKey,
};

/// [`PolicyEntry::domains`](super::PolicyEntry::domains): the list of all DNS names that a policy map allows.
pub const DOMAINS_ALL: u16 = 0xffff;
/// [`Domain::flags`]: every endpoint with domain rules may ask about these names.
pub const DOMAIN_ASKED_BY_ALL: u16 = 1;
/// So many patterns may mean one name.
pub const DOMAINS_OF_NAME: u32 = 8;
/// An address has so many names for one endpoint.
pub const DNS_NAMES: u32 = 4;
/// So many different ports the resolvers have at most.
pub const DNS_PORTS: usize = 4;
/// Patterns that fit into `domains`.
pub const DOMAIN_ENTRIES: u32 = 65_536;
/// Resolvers that fit into `resolvers`.
pub const RESOLVER_ENTRIES: usize = 1024;

plain!(DnsRecord, DnsRecordKey, DnsSettings, Domain, DomainIds, DomainKey, ResolverKey);

/// An address as the maps about DNS names have it: IPv4 as `::ffff:a.b.c.d`.
pub fn mapped(address: IpAddr) -> Ip6 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// The opposite of [`mapped`].
pub fn unmapped(address: Ip6) -> IpAddr {
    Ipv6Addr::from(address).to_canonical()
}

impl DomainKey {
    /// A prefix of reversed names. The text has at most 255 bytes.
    pub fn prefix(text: &[u8]) -> Option<Self> {
        let mut key = Self { length: u32::try_from(text.len() * 8).ok()?, ..Self::default() };
        key.text.get_mut(..text.len())?.copy_from_slice(text);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTF: &str = include_str!("../../progs/intf_dns.h");
    const MAPS: &str = include_str!("../../progs/maps_dns.h");

    #[test]
    fn layouts_are_those_of_the_programs() {
        assert_eq!(size_of::<DomainKey>(), 4 + 256);
        assert_eq!(size_of::<DomainIds>(), 8 * 2);
        assert_eq!(size_of::<Domain>(), 2 + 2 + 8 * 2);
        assert_eq!(size_of::<ResolverKey>(), 16 + 2 + 1 + 1);
        assert_eq!(size_of::<DnsRecordKey>(), 4 + 4 + 16);
        assert_eq!(size_of::<DnsRecord>(), 8 + 4 + 4 + 8 * 2 + 260 + 4);
        assert_eq!(size_of::<DnsSettings>(), 4 * 2 + 4);
        assert!(INTF.contains(&format!("#define DOMAINS_OF_NAME {DOMAINS_OF_NAME}\n")));
        assert!(INTF.contains(&format!("#define DNS_NAMES {DNS_NAMES}\n")));
        assert!(INTF.contains(&format!("#define DNS_PORTS {DNS_PORTS}\n")));
        assert!(MAPS.contains(&format!("#define DOMAIN_ENTRIES {DOMAIN_ENTRIES}\n")));
        assert!(MAPS.contains(&format!("#define RESOLVER_ENTRIES {RESOLVER_ENTRIES}\n")));
    }

    #[test]
    fn addresses_keep_their_family() {
        for text in ["10.1.2.3", "fd00::1"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(unmapped(mapped(address)), address);
        }
    }
}
