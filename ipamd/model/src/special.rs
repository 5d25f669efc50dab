//! Special addresses that belong to no single machine: nothing can be reached there, and nothing answers from there.

use std::net::IpAddr;

/// Why an address can be neither an endpoint's nor a service's, as a phrase; `None`: it can. The API server refuses these of
/// endpoints and external IPs; what comes from elsewhere, or was written before it did, is held to the same, and to what
/// no unicast address can be.
pub fn fault(address: IpAddr) -> Option<&'static str> {
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    // 0.0.0.0/8 is "this network", RFC 1122.
    let is_this_network = matches!(address, IpAddr::V4(address) if address.octets()[0] == 0);
    if address.is_unspecified() || is_this_network {
        Some("is unspecified")
    } else if address.is_loopback() {
        Some("is a loopback address")
    } else if is_link_local {
        Some("is a link-local address")
    } else if address.is_multicast() {
        Some("is a multicast address")
    } else if matches!(address, IpAddr::V4(address) if address.is_broadcast()) {
        Some("is the broadcast address")
    } else if address.to_canonical() != address {
        Some("is an IPv4 address in the form of IPv6")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_special_address_has_its_name_and_no_other() {
        for (text, said) in [
            ("0.0.0.0", Some("is unspecified")),
            ("0.1.2.3", Some("is unspecified")),
            ("::", Some("is unspecified")),
            ("127.0.0.1", Some("is a loopback address")),
            ("127.255.0.9", Some("is a loopback address")),
            ("::1", Some("is a loopback address")),
            ("169.254.0.1", Some("is a link-local address")),
            ("169.254.169.254", Some("is a link-local address")),
            ("fe80::1", Some("is a link-local address")),
            ("febf::1", Some("is a link-local address")),
            ("224.0.0.1", Some("is a multicast address")),
            ("239.255.255.255", Some("is a multicast address")),
            ("ff02::1", Some("is a multicast address")),
            ("ff0e::1", Some("is a multicast address")),
            ("255.255.255.255", Some("is the broadcast address")),
            ("::ffff:10.0.0.1", Some("is an IPv4 address in the form of IPv6")),
            ("1.0.0.1", None),
            ("10.255.255.255", None),
            ("128.0.0.1", None),
            ("169.253.0.1", None),
            ("223.255.255.1", None),
            ("::2", None),
            ("fd00::1", None),
            ("fec0::1", None),
        ] {
            assert_eq!(fault(text.parse().unwrap()), said, "{text}");
        }
    }
}
