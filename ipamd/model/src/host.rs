//! Interfaces of nodes that policies apply to: Calico's HostEndpoints.

use std::{fmt, net::IpAddr, str::FromStr, sync::Arc};

use ipnetwork::IpNetwork;
use serde::Deserialize;

pub use crate::host_layer::HostLayer;

use crate::{
    labels::Labels,
    named_port::NamedPort,
    policy::{Direction, protocol},
};

/// The profile with which a host endpoint allows what no policy speaks of.
pub const DEFAULT_ALLOW_PROFILE: &str = "projectcalico-default-allow";

/// `projectcalico.org/v3` HostEndpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostEndpoint {
    /// Its name.
    pub name: Arc<str>,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `spec.node`: the name of the node that has the interface.
    pub node: Arc<str>,
    /// Which interface.
    pub interface: HostInterface,
    /// `spec.expectedIPs`: rules of others that select the host endpoint mean these.
    pub addresses: Vec<IpAddr>,
    /// `spec.ports`, ordered.
    pub ports: Arc<[NamedPort]>,
    /// Whether `spec.profiles` has [`DEFAULT_ALLOW_PROFILE`].
    pub allows_by_default: bool,
}

/// Which interface of its node a host endpoint stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostInterface {
    /// `interfaceName: "*"`: all that no other host endpoint stands for.
    All,
    /// The one of that name.
    Named(Arc<str>),
    /// The one that has one of `expectedIPs`.
    ByAddress,
}

/// A port that no policy of a host endpoint can close: PROTOCOL:PORT or PROTOCOL:PREFIX:PORT, as Calico writes them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct FailsafePort {
    /// IP protocol number: TCP, UDP or SCTP.
    pub protocol: u8,
    /// The other side; `None`: anybody.
    pub net: Option<IpNetwork>,
    /// The port.
    pub port: u16,
}

impl FromStr for FailsafePort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || "not PROTOCOL:PORT or PROTOCOL:PREFIX:PORT, such as tcp:22 or udp:10.0.0.0/8:53".to_owned();
        let (protocol, rest) = text.split_once(':').ok_or_else(wrong)?;
        let protocol = match protocol.to_ascii_lowercase().as_str() {
            "tcp" => protocol::TCP,
            "udp" => protocol::UDP,
            "sctp" => protocol::SCTP,
            _ => return Err("not of the protocol tcp, udp or sctp".to_owned()),
        };
        let (net, port) = match rest.rsplit_once(':') {
            Some((net, port)) => {
                let net = net.trim_start_matches('[').trim_end_matches(']');
                (Some(net.parse::<IpNetwork>().map_err(|error| error.to_string())?), port)
            }
            None => (None, rest),
        };
        let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?;
        Ok(Self { protocol, net, port })
    }
}

impl TryFrom<String> for FailsafePort {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map_err(|reason| format!("{text:?} is {reason}"))
    }
}

impl fmt::Display for FailsafePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = protocol::name(self.protocol);
        match self.net {
            Some(net) => write!(f, "{protocol}:{net}:{}", self.port),
            None => write!(f, "{protocol}:{}", self.port),
        }
    }
}

/// The ports that no policy of a host endpoint can close.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failsafe {
    /// Of the node, for others.
    pub inbound: Vec<FailsafePort>,
    /// Of others, for the node.
    pub outbound: Vec<FailsafePort>,
}

impl Failsafe {
    /// Those of a direction.
    pub fn of(&self, direction: Direction) -> &[FailsafePort] {
        match direction {
            Direction::Ingress => &self.inbound,
            Direction::Egress => &self.outbound,
        }
    }
}

impl Default for Failsafe {
    /// As Calico has them: SSH, DHCP, BGP, etcd, Typha, the API server; DNS and DHCP outbound.
    fn default() -> Self {
        let port = |protocol, port| FailsafePort { protocol, net: None, port };
        let both = [179, 2379, 2380, 5473, 6443, 6666, 6667].map(|number| port(protocol::TCP, number));
        let inbound = [port(protocol::TCP, 22), port(protocol::UDP, 68)];
        let outbound = [port(protocol::UDP, 53), port(protocol::UDP, 67)];
        Self {
            inbound: inbound.into_iter().chain(both.clone()).collect(),
            outbound: outbound.into_iter().chain(both).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failsafe_ports_are_read_as_calico_writes_them() {
        let port = |text: &str| text.parse::<FailsafePort>();
        assert_eq!(port("tcp:22"), Ok(FailsafePort { protocol: 6, net: None, port: 22 }));
        let net = Some("10.0.0.0/8".parse().unwrap());
        assert_eq!(port("udp:10.0.0.0/8:53"), Ok(FailsafePort { protocol: 17, net, port: 53 }));
        let net = Some("fd00::/8".parse().unwrap());
        assert_eq!(port("TCP:[fd00::/8]:443"), Ok(FailsafePort { protocol: 6, net, port: 443 }));
        for wrong in ["22", "icmp:1", "tcp:0", "tcp:70000", "tcp:", "tcp:10.0.0.0/40:1", ""] {
            assert!(port(wrong).is_err(), "{wrong}");
        }
        for known in Failsafe::default().inbound {
            assert_eq!(port(&known.to_string()), Ok(known));
        }
    }
}
