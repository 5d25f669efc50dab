//! Services and where they lead, as far as Cambric needs them of the Service API: <https://kubernetes.io/docs/concepts/services-networking/service/>.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use ipamd_api::{AttachmentKey, PortMapping, wire::Pod};
use ipnetwork::IpNetwork;

/// `v1` Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Whether connections to it are balanced here.
    pub role: Role,
    /// `spec.clusterIPs`, or `spec.clusterIP` where that is all there is; without `None` and what is empty.
    pub cluster_ips: Box<[IpAddr]>,
    /// `spec.externalIPs`.
    pub external_ips: Box<[IpAddr]>,
    /// `status.loadBalancer.ingress[].ip`, without those whose `ipMode` is `Proxy`; empty unless the type is LoadBalancer.
    pub load_balancer_ips: Box<[IpAddr]>,
    /// `spec.loadBalancerSourceRanges`; empty: all sources are welcome at the load balancer's addresses.
    pub source_ranges: Box<[IpNetwork]>,
    /// `spec.ports`.
    pub ports: Box<[ServicePort]>,
    /// Seconds that `sessionAffinity: ClientIP` holds after a client's last connection; `None` without it.
    pub affinity: Option<u32>,
    /// `spec.internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `spec.externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// `spec.healthCheckNodePort`, where the type is LoadBalancer and `external_local`.
    pub health_check_port: Option<u16>,
    /// What of it is left out, a sentence each: addresses that no service can have.
    pub refused: Box<[Arc<str>]>,
}

/// What a Service is to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Connections to it are balanced.
    Balanced,
    /// `clusterIP: None`, or labelled `service.kubernetes.io/headless`: only names lead to its endpoints.
    Headless,
    /// `type: ExternalName`.
    ExternalName,
    /// Labelled `service.kubernetes.io/service-proxy-name`: somebody else's.
    OtherProxy,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; empty where a Service has one port only.
    pub name: Arc<str>,
    /// IP protocol number: TCP, UDP or SCTP.
    pub protocol: u8,
    /// The port at the Service's own addresses.
    pub port: u16,
    /// The port at the nodes' addresses; `None` where the type is ClusterIP, or none is allocated.
    pub node_port: Option<u16>,
}

/// `discovery.k8s.io/v1` EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its Service's name: the label `kubernetes.io/service-name`.
    pub service: Option<Arc<str>>,
    /// Whether connections to that Service are balanced here: the slice has neither the label `service.kubernetes.io/headless` nor
    /// `service.kubernetes.io/service-proxy-name`. Policies mean the endpoints of every Service.
    pub balanced: bool,
    /// `ports`, those that have a number.
    pub ports: Box<[SlicePort]>,
    /// `endpoints`; empty where `addressType` is FQDN.
    pub endpoints: Box<[SliceEndpoint]>,
    /// What of it is left out, a sentence each: endpoints whose address none can have.
    pub refused: Box<[Arc<str>]>,
}

/// A port of an EndpointSlice: what the Service's port of that name is at these endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// The name of the Service's port.
    pub name: Arc<str>,
    /// IP protocol number: TCP, UDP or SCTP.
    pub protocol: u8,
    /// The port at the endpoints.
    pub port: u16,
}

/// An endpoint of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEndpoint {
    /// Its first address; the API says that the others mean the same.
    pub address: IpAddr,
    /// `conditions.ready`; what is not said is true.
    pub ready: bool,
    /// `conditions.serving`; what is not said is as `ready`.
    pub serving: bool,
    /// `conditions.terminating`; what is not said is false.
    pub terminating: bool,
    /// `nodeName`.
    pub node: Option<Arc<str>>,
    /// `hints`; `None` where there are none.
    pub hints: Option<Arc<Hints>>,
}

/// For whom an endpoint is meant, if its Service asks for closeness.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Hints {
    /// `forZones[].name`.
    pub zones: Box<[Arc<str>]>,
    /// `forNodes[].name`.
    pub nodes: Box<[Arc<str>]>,
}

/// Where a service leads a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceTarget {
    /// The service, as NAMESPACE/NAME, or whose host port it is.
    pub service: String,
    /// The backends that take a new connection.
    pub backends: Vec<SocketAddr>,
    /// Why none may, as a sentence, if it is not for want of backends.
    pub refusal: Option<&'static str>,
}

/// A port of the node that leads to a committed endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Whose it is.
    pub key: AttachmentKey,
    /// Its pod, where known.
    pub pod: Option<Pod>,
    /// Which port, and where it leads.
    pub mapping: PortMapping,
    /// The endpoint's addresses, at most one of each family, IPv4 first.
    pub backends: Vec<IpAddr>,
}
