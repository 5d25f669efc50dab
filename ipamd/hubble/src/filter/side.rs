//! What a filter asks of one side of a flow.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::{conditions::Conditions, label_selector::LabelSelector, pattern::Pattern};
use crate::{
    cluster_name::CLUSTER,
    proto::flow::{Endpoint, Flow, Service, Workload, layer4::Protocol},
};

/// Where a pod is looked for whose namespace is not given.
const DEFAULT_NAMESPACE: &str = "default";

/// Which side.
#[derive(Clone, Copy, Debug)]
pub enum Side {
    /// Who opens the flow.
    Source,
    /// Whom it is opened to.
    Destination,
}

impl Side {
    fn of<T>(self, source: T, destination: T) -> T {
        match self {
            Self::Source => source,
            Self::Destination => destination,
        }
    }

    fn endpoint(self, flow: &Flow) -> Option<&Endpoint> {
        self.of(flow.source.as_ref(), flow.destination.as_ref())
    }

    fn service(self, flow: &Flow) -> Option<&Service> {
        self.of(flow.source_service.as_ref(), flow.destination_service.as_ref())
    }

    fn names(self, flow: &Flow) -> &[String] {
        self.of(&flow.source_names, &flow.destination_names)
    }

    fn address(self, flow: &Flow) -> Option<IpAddr> {
        let ip = flow.ip.as_ref()?;
        self.of(&ip.source, &ip.destination).parse().ok()
    }

    fn port(self, flow: &Flow) -> Option<u32> {
        match flow.l4.as_ref()?.protocol.as_ref()? {
            Protocol::Tcp(it) => Some(self.of(it.source_port, it.destination_port)),
            Protocol::Udp(it) => Some(self.of(it.source_port, it.destination_port)),
            Protocol::Sctp(it) => Some(self.of(it.source_port, it.destination_port)),
            Protocol::IcmPv4(_) | Protocol::IcmPv6(_) => None,
        }
    }
}

/// The fields of a filter about one side.
pub struct SideFilter<'a> {
    pub side: Side,
    pub ips: &'a [String],
    pub pods: &'a [String],
    pub fqdns: &'a [String],
    pub labels: &'a [String],
    pub services: &'a [String],
    pub workloads: &'a [Workload],
    pub ports: &'a [String],
    pub identities: &'a [u32],
    pub clusters: &'a [String],
}

impl SideFilter<'_> {
    pub fn add_to(self, conditions: &mut Conditions) -> Result<(), String> {
        let side = self.side;
        conditions.any(
            self.ips,
            |text| network(text),
            move |net, flow| side.address(flow).is_some_and(|it| net.contains(it)),
        )?;
        conditions.any(
            self.pods,
            |text| Ok(NamePrefix::new(text)),
            move |prefix, flow| {
                side.endpoint(flow).is_some_and(|it| prefix.matches(&it.namespace, &it.pod_name))
            },
        )?;
        conditions.any(
            self.services,
            |text| Ok(NamePrefix::new(text)),
            move |prefix, flow| side.service(flow).is_some_and(|it| prefix.matches(&it.namespace, &it.name)),
        )?;
        conditions.any(
            self.fqdns,
            |text| Pattern::new(text.trim_end_matches('.'), "fqdn"),
            move |pattern, flow| {
                side.names(flow).iter().any(|name| pattern.matches(name.trim_end_matches('.')))
            },
        )?;
        conditions.any(
            self.labels,
            |text| LabelSelector::read(text),
            move |selector, flow| side.endpoint(flow).is_some_and(|it| selector.matches(&it.labels)),
        )?;
        conditions.one_of(self.workloads, move |wanted, flow| {
            let has = side.endpoint(flow).map(|it| it.workloads.as_slice()).unwrap_or_default();
            has.iter().any(|it| {
                (wanted.name.is_empty() || wanted.name == it.name)
                    && (wanted.kind.is_empty() || wanted.kind.eq_ignore_ascii_case(&it.kind))
            })
        })?;
        conditions.any(
            self.ports,
            |text| text.parse::<u16>().map_err(|_| format!("port: {text:?} is no port (0 to 65535)")),
            move |port, flow| side.port(flow) == Some(u32::from(*port)),
        )?;
        conditions.one_of(self.identities, move |identity, flow| {
            side.endpoint(flow).is_some_and(|it| it.identity == *identity)
        })?;
        conditions.one_of(self.clusters, |cluster, _| cluster == CLUSTER)
    }
}

fn network(text: &str) -> Result<IpNetwork, String> {
    let read = text.parse::<IpNetwork>();
    read.map_err(|_| format!("ip: {text:?} is neither an address nor a prefix (10.0.0.0/8)"))
}

/// `NAMESPACE/PREFIX`. Without a slash, the namespace is `default`; with nothing before it, any.
struct NamePrefix {
    namespace: Option<String>,
    prefix: String,
}

impl NamePrefix {
    fn new(text: &str) -> Self {
        let (namespace, prefix) = text.split_once('/').unwrap_or((DEFAULT_NAMESPACE, text));
        let namespace = (!namespace.is_empty()).then(|| namespace.to_owned());
        Self { namespace, prefix: prefix.to_owned() }
    }

    fn matches(&self, namespace: &str, name: &str) -> bool {
        self.namespace.as_deref().is_none_or(|it| it == namespace) && name.starts_with(&self.prefix)
    }
}
