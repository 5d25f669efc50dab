//! The values that keys take, each checked when it is read.

use std::{fmt, ops::RangeInclusive, str::FromStr};

use ipamd_api::wire::AttachMode;
use serde::{Deserialize, Deserializer, de};

/// The lowest port that masquerading may take: those below belong to the node's services.
const FIRST_UNPRIVILEGED_PORT: u16 = 1024;

/// How connections from outside reach a service's backend on another node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExternalServiceMode {
    /// By this node both ways: the backend sees the node as its client.
    #[default]
    Snat,
    /// By this node to the backend, whose own node answers the client directly: the backend sees the client.
    Dsr,
}

impl FromStr for ExternalServiceMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "snat" => Ok(Self::Snat),
            "dsr" => Ok(Self::Dsr),
            _ => Err("external service modes are snat and dsr".to_owned()),
        }
    }
}

/// How the endpoints of other nodes are reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RoutingMode {
    /// By whatever routes there are.
    None,
    /// By routes to the nodes of the same subnet; the network itself leads to the others.
    Direct,
    /// Through an overlay of VXLAN.
    Vxlan,
    /// Directly within the subnet, by VXLAN beyond.
    #[default]
    Auto,
}

impl RoutingMode {
    /// Whether some nodes may be reached through an overlay.
    pub fn may_need_overlay(self) -> bool {
        matches!(self, Self::Vxlan | Self::Auto)
    }
}

impl FromStr for RoutingMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "direct" => Ok(Self::Direct),
            "vxlan" => Ok(Self::Vxlan),
            "auto" => Ok(Self::Auto),
            _ => Err("routing modes are none, direct, vxlan and auto".to_owned()),
        }
    }
}

/// Whether something is done: `on` or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Switch(pub bool);

impl FromStr for Switch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "on" | "true" => Ok(Self(true)),
            "off" | "false" => Ok(Self(false)),
            _ => Err("this is on or off".to_owned()),
        }
    }
}

/// From which level on is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// What failed.
    Error,
    /// What an operator should look at.
    Warn,
    /// What changed.
    #[default]
    Info,
    /// What was done.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace]
            .into_iter()
            .find(|level| level.name() == text)
            .ok_or_else(|| "log levels are error, warn, info, debug and trace".to_owned())
    }
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl FromStr for LogFormat {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("log formats are text and json"),
        }
    }
}

/// How programs are to be attached; `None` leaves it to the kernel's abilities.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attach(pub Option<AttachMode>);

impl FromStr for Attach {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self(None)),
            "tcx" => Ok(Self(Some(AttachMode::Tcx))),
            "clsact" => Ok(Self(Some(AttachMode::Clsact))),
            _ => Err("attach modes are auto, tcx and clsact"),
        }
    }
}

/// Who makes the containers' interfaces, and assigns their addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterfaceOwner {
    /// Cambric.
    Cambric,
    /// The plugins before it in the chain. Then there are no pools, nothing is masqueraded and no other node is routed to:
    /// policy and services are all there is.
    ChainedPlugin,
}

/// A node's name.
#[derive(Clone, Debug)]
pub(super) struct NodeName(pub String);

impl FromStr for NodeName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        if text.is_empty() || text.len() > 253 || !text.bytes().all(fits) {
            return Err("a node's name has 1 to 253 letters, digits, '-', '_' and '.'");
        }
        Ok(Self(text.to_owned()))
    }
}

/// A range of ports.
#[derive(Clone, Debug)]
pub(super) struct PortRange(pub RangeInclusive<u16>);

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ends =
            text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
        match ends {
            Some((first, last)) if FIRST_UNPRIVILEGED_PORT <= first && first <= last => {
                Ok(Self(first..=last))
            }
            _ => Err(format!(
                "a range of ports is FIRST-LAST, such as 10000-29999, from {FIRST_UNPRIVILEGED_PORT} on"
            )),
        }
    }
}

/// A number without a fraction, as TOML has it.
struct Whole(i64);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Whole;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number without quotes")
            }

            fn visit_i64<E>(self, number: i64) -> Result<Whole, E> {
                Ok(Whole(number))
            }
        }

        deserializer.deserialize_i64(Visitor)
    }
}

/// Defines a number that a key takes within bounds, from a flag's text or a TOML integer.
macro_rules! bounded {
    ($(#[$doc:meta])* $name:ident, $what:literal, $bounds:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Deserialize)]
        #[serde(try_from = "Whole")]
        pub(super) struct $name(pub u32);

        impl TryFrom<i64> for $name {
            type Error = OutOfBounds;

            fn try_from(number: i64) -> Result<Self, OutOfBounds> {
                u32::try_from(number).ok().filter(|number| $bounds.contains(number)).map(Self).ok_or(OutOfBounds {
                    what: $what,
                    number,
                    bounds: $bounds,
                })
            }
        }

        impl TryFrom<Whole> for $name {
            type Error = OutOfBounds;

            fn try_from(Whole(number): Whole) -> Result<Self, OutOfBounds> {
                number.try_into()
            }
        }

        impl FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                let number: i64 = text.parse().map_err(|_| format!("{text:?} is not a number"))?;
                number.try_into().map_err(|error: OutOfBounds| error.to_string())
            }
        }
    };
}

bounded!(
    /// Entries of a conntrack map: each takes about 170 bytes of kernel memory (IPv6: 220) at once.
    ConntrackSize,
    "conntrack-size",
    1024..=16_777_216
);
bounded!(
    /// Entries of a map of sockets: each takes about 150 bytes of kernel memory at once.
    SocketSize,
    "socket-size",
    1024..=16_777_216
);
bounded!(
    /// Entries of a map of affinities: each takes about 150 bytes of kernel memory at once.
    AffinitySize,
    "affinity-size",
    64..=16_777_216
);
bounded!(
    /// Entries of a map of datagrams in pieces: each takes about 100 bytes of kernel memory at once.
    FragmentSize,
    "fragment-size",
    64..=16_777_216
);
bounded!(
    /// Entries of a map of nodes' addresses, or of prefixes: 16 bytes of kernel memory each at once, the rest as they are used.
    PrefixSize,
    "prefix-size",
    1024..=16_777_216
);
bounded!(
    /// Number of a VXLAN network (RFC 7348, 24 bits; 0 is left out, for some networks filter it).
    VxlanId,
    "vxlan-id",
    1..=0xff_ffff
);
bounded!(
    /// Flows that Hubble's API keeps: some two and a half kilobytes of memory each.
    HubbleFlows,
    "hubble-flows",
    1..=65_536
);
bounded!(
    /// Entries of one policy map; they take memory as they are used.
    PolicyEntries,
    "policy-entries",
    64..=1_048_576
);
bounded!(
    /// Addresses among the peers: 16 bytes of kernel memory each at once, the rest as they are used.
    PolicyAddresses,
    "policy-addresses",
    1024..=16_777_216
);
bounded!(
    /// Prefixes among the peers; they take memory as they are used.
    PolicyPrefixes,
    "policy-prefixes",
    64..=16_777_216
);
bounded!(
    /// Counters of rules: 8 bytes of kernel memory each for every processor at once.
    PolicyRules,
    "policy-rules",
    64..=1_048_576
);
bounded!(
    /// Bytes: at least what IPv6 asks of every link.
    Mtu,
    "mtu",
    ipamd_api::MTU
);

/// A number beyond its bounds.
#[derive(Debug)]
pub(super) struct OutOfBounds {
    what: &'static str,
    number: i64,
    bounds: RangeInclusive<u32>,
}

impl fmt::Display for OutOfBounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, number, bounds } = self;
        write!(f, "{what} is {number}, but must be from {} to {}", bounds.start(), bounds.end())
    }
}
