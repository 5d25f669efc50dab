//! What is checked, and what came of it: the words that the plan, the agents and the report share.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// What a check is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    /// A pod of the test runs and has its addresses.
    Start,
    PodToPod,
    /// Much data over one connection.
    Stream,
    /// A datagram that fills the MTU, and must not be cut.
    MtuSized,
    /// One that is larger than the MTU and must not be cut: its sender has to be told.
    OversizedRefused,
    /// One that is larger than the MTU and may be cut.
    OversizedCut,
    PodToNode,
    NodeToPod,
    Outside,
    ClusterIp,
    NodePort,
    HostPort,
    /// A pod that is led to itself by a service.
    Hairpin,
    Dns,
    PolicyAllow,
    PolicyDeny,
}

impl Kind {
    /// All of them, in the order of the report.
    pub const ALL: [Self; 16] = [
        Self::Start,
        Self::PodToPod,
        Self::Stream,
        Self::MtuSized,
        Self::OversizedRefused,
        Self::OversizedCut,
        Self::PodToNode,
        Self::NodeToPod,
        Self::Outside,
        Self::ClusterIp,
        Self::NodePort,
        Self::HostPort,
        Self::Hairpin,
        Self::Dns,
        Self::PolicyAllow,
        Self::PolicyDeny,
    ];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::PodToPod => "pod-to-pod",
            Self::Stream => "stream",
            Self::MtuSized => "mtu-sized",
            Self::OversizedRefused => "oversized-refused",
            Self::OversizedCut => "oversized-cut",
            Self::PodToNode => "pod-to-node",
            Self::NodeToPod => "node-to-pod",
            Self::Outside => "outside",
            Self::ClusterIp => "cluster-ip",
            Self::NodePort => "node-port",
            Self::HostPort => "host-port",
            Self::Hairpin => "hairpin",
            Self::Dns => "dns",
            Self::PolicyAllow => "policy-allow",
            Self::PolicyDeny => "policy-deny",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("{text:?} is no check; there are {names}")
        })
    }
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Family {
    IPv4,
    IPv6,
}

impl Family {
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::IPv4 } else { Self::IPv6 }
    }
}

/// One thing that an agent does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Act {
    /// Asks an agent who it is, over TCP.
    Tcp(SocketAddr),
    /// The same over UDP.
    Udp(SocketAddr),
    /// Sends much to an agent over TCP and reads it back.
    Stream(SocketAddr),
    /// Sends a datagram that fills the MTU to an agent, with "don't fragment".
    MtuSized(SocketAddr),
    /// Sends one that is larger, with "don't fragment": the kernel must refuse it.
    OversizedRefused(SocketAddr),
    /// Sends one that is larger and may be cut to an agent.
    OversizedCut(SocketAddr),
    /// Opens a TCP connection to whoever listens.
    Connect(SocketAddr),
    /// An ICMP echo.
    Ping(IpAddr),
    /// Asks a DNS server; the resolvers of the container if none is named, which must know the name then.
    Resolve { server: Option<IpAddr>, name: String },
}

/// What must come of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Expect {
    /// It succeeds.
    Success,
    /// An agent answers.
    Answer {
        /// Which: its name, or the beginning of its name and a `*`.
        by: String,
        /// Whether it must see the client's own address.
        own_address: bool,
    },
    /// Nobody answers.
    Silence,
}

/// A probe as an agent gets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Probe {
    /// Its number among those of the agent.
    pub number: usize,
    pub act: Act,
    pub expect: Expect,
}

/// A check as the report tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Check {
    pub kind: Kind,
    /// The agent that probes.
    pub from: String,
    /// What it probes, for people.
    pub to: String,
    pub family: Option<Family>,
    pub act: Act,
    pub expect: Expect,
}

/// What came of a probe, as an agent prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Finding {
    pub number: usize,
    pub ok: bool,
    pub milliseconds: u64,
    /// What was seen: for a failure why it is one.
    pub detail: String,
}

/// A line that an agent prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Line {
    /// It serves.
    Hello(Hello),
    /// One of its probes is done.
    Finding(Finding),
    /// All of its probes are done.
    End,
    /// It cannot go on.
    Broken(String),
}

/// What an agent says of itself once it serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hello {
    pub name: String,
    /// The next hops of its default routes.
    pub gateways: Vec<IpAddr>,
}

impl Line {
    /// The lines in what an agent has printed; anything else in it is passed over.
    pub fn read(text: &str) -> impl Iterator<Item = Self> {
        text.lines().filter_map(|line| serde_json::from_str(line).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_written_as_they_are_named() {
        for kind in Kind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
            assert_eq!(kind.name().parse(), Ok(kind));
        }
        assert!("pod-to-moon".parse::<Kind>().unwrap_err().contains("pod-to-pod"));
    }

    #[test]
    fn lines_are_found_among_others() {
        let lines = [
            Line::Hello(Hello { name: "a".into(), gateways: vec![] }),
            Line::Finding(Finding { number: 3, ok: true, milliseconds: 1, detail: "x".into() }),
            Line::End,
        ];
        let mut text = "a warning\n".to_owned();
        for line in &lines {
            text += &serde_json::to_string(line).unwrap();
            text += "\nnoise {\n";
        }
        assert_eq!(Line::read(&text).collect::<Vec<_>>(), lines);
    }
}
