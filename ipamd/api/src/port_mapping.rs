//! A port of the node that leads to a container: `hostPort` of Kubernetes, `portMappings` of CNI.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

/// The most mappings that one attachment can have: a list of endpoints has to fit a frame.
pub const MAX_PORT_MAPPINGS: usize = 256;

/// The protocols that can be mapped, with their IP protocol numbers.
const PROTOCOLS: [(&str, u8); 3] = [("tcp", 6), ("udp", 17), ("sctp", 132)];

/// One port of the node that leads to one of an attachment's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortMapping {
    /// The node's address that it is of. An unspecified address stands for all of its family, `None` for all of both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
    /// The node's port.
    pub host_port: u16,
    /// The container's port.
    pub container_port: u16,
    /// IP protocol number.
    pub protocol: u8,
}

impl PortMapping {
    /// The number of a protocol that can be mapped, by its name in any case.
    pub fn protocol_number(name: &str) -> Option<u8> {
        PROTOCOLS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, number)| *number)
    }

    /// What keeps it from being a mapping, as a phrase; `None` if nothing does.
    pub fn fault(&self) -> Option<&'static str> {
        if self.host_port == 0 || self.container_port == 0 {
            Some("has a port 0")
        } else if !PROTOCOLS.iter().any(|(_, number)| *number == self.protocol) {
            Some("is of no protocol that has ports to map")
        } else if self.host_ip.is_some_and(|ip| ip.is_multicast()) {
            Some("is of an address that no node can have")
        } else {
            None
        }
    }

    /// Whether there are packets that both would take.
    pub fn overlaps(&self, other: &Self) -> bool {
        let address = match (self.host_ip, other.host_ip) {
            (Some(one), Some(two)) => {
                let any = one.is_unspecified() || two.is_unspecified();
                one == two || any && one.is_ipv4() == two.is_ipv4()
            }
            _ => true,
        };
        address && self.host_port == other.host_port && self.protocol == other.protocol
    }

    /// Whether it takes all packets that the other would take, and leads them to the same port.
    pub fn covers(&self, other: &Self) -> bool {
        let has_all = match (self.host_ip, other.host_ip) {
            (None, _) => true,
            (Some(one), Some(two)) => one == two || one.is_unspecified() && one.is_ipv4() == two.is_ipv4(),
            (Some(_), None) => false,
        };
        has_all && self.overlaps(other) && self.container_port == other.container_port
    }

    /// The first two of `mappings` that overlap.
    pub fn overlap(mappings: &[Self]) -> Option<(Self, Self)> {
        let pairs = mappings.iter().enumerate();
        pairs
            .flat_map(|(at, one)| mappings[..at].iter().map(move |earlier| (*earlier, *one)))
            .find(|(earlier, one)| earlier.overlaps(one))
    }

    /// The node's side alone, such as `8080/tcp` or `10.0.0.1:8080/tcp`.
    pub fn host_side(&self) -> impl fmt::Display {
        HostSide(*self)
    }
}

/// The whole, such as `8080/tcp to 80`.
impl fmt::Display for PortMapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", HostSide(*self), self.container_port)
    }
}

struct HostSide(PortMapping);

impl fmt::Display for HostSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PortMapping { host_ip, host_port, protocol, .. } = self.0;
        match host_ip {
            None => write!(f, "{host_port}")?,
            Some(ip) => write!(f, "{}", std::net::SocketAddr::new(ip, host_port))?,
        }
        match PROTOCOLS.iter().find(|(_, number)| *number == protocol) {
            Some((name, _)) => write!(f, "/{name}"),
            None => write!(f, "/{protocol}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mapping(host_ip: &str, host_port: u16, protocol: &str) -> PortMapping {
        PortMapping {
            host_ip: (!host_ip.is_empty()).then(|| host_ip.parse().unwrap()),
            host_port,
            container_port: 80,
            protocol: PortMapping::protocol_number(protocol).unwrap(),
        }
    }

    #[test]
    fn protocols_are_known_in_any_case() {
        let number = PortMapping::protocol_number;
        assert_eq!((number("TCP"), number("Udp"), number("sctp")), (Some(6), Some(17), Some(132)));
        assert_eq!((number(""), number("icmp"), number("6")), (None, None, None));
    }

    #[test]
    fn mappings_are_told_as_people_write_them() {
        assert_eq!(mapping("", 8080, "tcp").to_string(), "8080/tcp to 80");
        assert_eq!(mapping("10.0.0.1", 53, "udp").to_string(), "10.0.0.1:53/udp to 80");
        assert_eq!(mapping("::", 53, "sctp").host_side().to_string(), "[::]:53/sctp");
        let odd = PortMapping { protocol: 1, ..mapping("", 1, "tcp") };
        assert_eq!(odd.to_string(), "1/1 to 80");
    }

    #[test]
    fn mappings_overlap_where_a_packet_could_be_for_both() {
        for (one, two, expected) in [
            ("", "", true),
            ("", "10.0.0.1", true),
            ("", "fd00::1", true),
            ("", "0.0.0.0", true),
            ("0.0.0.0", "10.0.0.1", true),
            ("0.0.0.0", "::", false),
            ("0.0.0.0", "fd00::1", false),
            ("::", "fd00::1", true),
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
        ] {
            let (a, b) = (mapping(one, 80, "tcp"), mapping(two, 80, "tcp"));
            assert_eq!((a.overlaps(&b), b.overlaps(&a)), (expected, expected), "{one:?} {two:?}");
            assert!(!a.overlaps(&mapping(two, 80, "udp")) && !a.overlaps(&mapping(two, 81, "tcp")));
            assert_eq!(PortMapping::overlap(&[mapping("", 1, "tcp"), a, b]), expected.then_some((a, b)));
        }
    }

    #[test]
    fn what_is_no_mapping_is_found() {
        let good = mapping("", 1, "tcp");
        assert_eq!(good.fault(), None);
        assert!(PortMapping { host_port: 0, ..good }.fault().is_some());
        assert!(PortMapping { container_port: 0, ..good }.fault().is_some());
        assert!(PortMapping { protocol: 58, ..good }.fault().is_some());
        assert!(mapping("224.0.0.1", 1, "tcp").fault().is_some());
    }

    proptest! {
        #[test]
        fn json_holds_it_whole(
            host_ip in any::<Option<IpAddr>>(),
            host_port in any::<u16>(),
            container_port in any::<u16>(),
            protocol in any::<u8>(),
        ) {
            let mapping = PortMapping { host_ip, host_port, container_port, protocol };
            let json = serde_json::to_string(&mapping).unwrap();
            prop_assert_eq!(serde_json::from_str::<PortMapping>(&json).unwrap(), mapping);
        }
    }
}
