//! What is asked of services.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

/// What a Service is to a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceRole {
    /// Connections to it are balanced.
    #[default]
    Balanced,
    /// Only names lead to its endpoints.
    Headless,
    /// A name for another name.
    ExternalName,
    /// Another proxy's.
    OtherProxy,
}

impl fmt::Display for ServiceRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Balanced => "balanced",
            Self::Headless => "headless",
            Self::ExternalName => "external-name",
            Self::OtherProxy => "other-proxy",
        })
    }
}

/// How many backends there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendCount {
    /// Those that are ready.
    pub ready: u64,
    /// All that are known.
    pub all: u64,
}

/// A service in short.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSummary {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What it is to this node.
    pub role: ServiceRole,
    /// Its addresses in the cluster.
    pub cluster_ips: Vec<IpAddr>,
    /// Its `externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// Its load balancer's addresses.
    pub load_balancer_ips: Vec<IpAddr>,
    /// Its endpoints, of all ports and families.
    pub backends: BackendCount,
    /// How many connections were balanced to it on this node.
    pub hits: u64,
    /// How much of it needs a person.
    // In JSON, `problems` is the list in [`ServiceDetail`], which holds these fields too.
    #[serde(rename = "problem_count")]
    pub problems: u64,
}

/// A port of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// Its name; empty where the service has one port only.
    pub name: String,
    /// IP protocol by name (`TCP`).
    pub protocol: String,
    /// Its number at the service's addresses.
    pub port: u16,
    /// Its number at the nodes' addresses.
    pub node_port: Option<u16>,
}

impl fmt::Display for ServicePort {
    /// `80/TCP`, or `80:30080/TCP` with a node port.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.node_port {
            Some(node_port) => write!(f, "{}:{node_port}/{}", self.port, self.protocol),
            None => write!(f, "{}/{}", self.port, self.protocol),
        }
    }
}

/// A service in the list of all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceLine {
    /// In short.
    #[serde(flatten)]
    pub summary: ServiceSummary,
    /// Its ports.
    pub ports: Vec<ServicePort>,
}

/// A part of the list of services.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePage {
    /// In order of namespace and name.
    pub services: Vec<ServiceLine>,
    /// No page follows.
    pub last: bool,
}

/// Which service is meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceQuery {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// All that is known of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceDetail {
    /// In short.
    #[serde(flatten)]
    pub summary: ServiceSummary,
    /// Its ports.
    pub ports: Vec<PortDetail>,
    /// Seconds that a client stays with its backend; `None` without session affinity.
    pub affinity: Option<u32>,
    /// Who may come to its load balancer's addresses; empty: everybody.
    pub source_ranges: Vec<String>,
    /// Its `healthCheckNodePort`.
    pub health_check_port: Option<u16>,
    /// What needs a person, a sentence each.
    pub problems: Vec<String>,
}

/// All that is known of a port of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortDetail {
    /// In short.
    #[serde(flatten)]
    pub port: ServicePort,
    /// Where it is reached.
    pub frontends: Vec<ServiceFrontend>,
    /// Where connections to it go.
    pub backends: Vec<ServiceBackend>,
}

/// By which of its addresses a service is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FrontendScope {
    /// Its own in the cluster.
    ClusterIp,
    /// The node's.
    NodePort,
    /// One of its `externalIPs`.
    ExternalIp,
    /// Its load balancer's.
    LoadBalancer,
    /// The node's, for one container.
    HostPort,
}

impl fmt::Display for FrontendScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClusterIp => "cluster-ip",
            Self::NodePort => "node-port",
            Self::ExternalIp => "external-ip",
            Self::LoadBalancer => "load-balancer",
            Self::HostPort => "host-port",
        })
    }
}

/// Which backends a connection may go to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrafficPolicy {
    /// All.
    Cluster,
    /// Those on this node.
    Local,
}

impl fmt::Display for TrafficPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cluster => "cluster",
            Self::Local => "local",
        })
    }
}

/// Where a port of a service is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceFrontend {
    /// The address; the unspecified one stands for all of the node's that serve node ports.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// What the address is to the service.
    pub scope: FrontendScope,
    /// Where connections from pods and nodes go.
    pub internal: TrafficPolicy,
    /// Where connections from outside go.
    pub external: TrafficPolicy,
}

/// How a backend does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendState {
    /// It takes connections.
    Ready,
    /// It ends, and still serves: it takes connections if nothing else does.
    TerminatingServing,
    /// It ends.
    Terminating,
    /// It takes none yet.
    NotReady,
}

impl fmt::Display for BackendState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready => "ready",
            Self::TerminatingServing => "terminating-serving",
            Self::Terminating => "terminating",
            Self::NotReady => "not-ready",
        })
    }
}

/// Which connections a backend gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendUse {
    /// Those that may go anywhere, and those that stay on this node.
    ClusterAndLocal,
    /// Those that may go anywhere.
    Cluster,
    /// Those that stay on this node.
    Local,
    /// None.
    Unused,
}

impl BackendUse {
    /// The use of a backend that takes those that may go anywhere (`cluster`), and those that stay on this node (`local`).
    pub fn new(cluster: bool, local: bool) -> Self {
        match (cluster, local) {
            (true, true) => Self::ClusterAndLocal,
            (true, false) => Self::Cluster,
            (false, true) => Self::Local,
            (false, false) => Self::Unused,
        }
    }
}

impl fmt::Display for BackendUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClusterAndLocal => "cluster,local",
            Self::Cluster => "cluster",
            Self::Local => "local",
            Self::Unused => "unused",
        })
    }
}

/// Where connections to a port of a service go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceBackend {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Its node, where that is known.
    pub node: Option<String>,
    /// Whether it is on this node.
    pub local: bool,
    /// The zones that it is meant for; empty where there are no hints.
    pub zone_hints: Vec<String>,
    /// The nodes that it is meant for; empty where there are no hints.
    #[serde(default)]
    pub node_hints: Vec<String>,
    /// How it does.
    pub state: BackendState,
    /// Which connections it gets.
    pub used: BackendUse,
    /// How many it got on this node.
    pub hits: u64,
}

/// Some of the backends of a service that is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendPage {
    /// Whose: the place of the port in [`ServiceDetail::ports`].
    pub port: usize,
    /// Those that come after those of the pages before.
    pub backends: Vec<ServiceBackend>,
}

#[cfg(test)]
mod tests;
