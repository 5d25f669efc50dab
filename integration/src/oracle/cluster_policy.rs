//! `policy.networking.k8s.io/v1alpha2` ClusterNetworkPolicy: rules in order, of which the first that matches decides.

use serde_json::Value;

use super::{
    decision::Decision,
    document::{field, label_selector, list, port, text, texts},
    domain::any_is_meant,
    inventory::{Inventory, Item, ItemKind},
    net::Net,
    packet::{Direction, Packet, protocol},
    selector::Selector,
};

/// A ClusterNetworkPolicy.
#[derive(Clone, Debug)]
pub struct ClusterNetworkPolicy {
    subject: Pods,
    ingress: Vec<Rule>,
    egress: Vec<Rule>,
}

/// Pods by their namespaces' labels and their own.
#[derive(Clone, Debug)]
struct Pods {
    namespaces: Selector,
    pods: Selector,
}

#[derive(Clone, Debug)]
struct Rule {
    decision: Decision,
    /// Any of them.
    peers: Vec<Peer>,
    /// Any of them; none: all traffic.
    traffic: Vec<Traffic>,
}

#[derive(Clone, Debug)]
enum Peer {
    Pods(Pods),
    Nodes(Selector),
    Networks(Vec<Net>),
    Domains(Vec<String>),
    /// Of a kind that nobody knows.
    Unknown,
}

#[derive(Clone, Debug)]
enum Traffic {
    Ports { protocol: u8, first: u16, last: u16 },
    Named(String),
}

impl ClusterNetworkPolicy {
    /// Reads one.
    ///
    /// # Panics
    /// If it has no subject.
    pub fn read(document: &Value) -> Self {
        let spec = &document["spec"];
        let admin = text(spec, "tier") == "Admin";
        let rules = |name, peers| {
            // Names may stand in what is sent and accepted before all NetworkPolicies.
            let names = admin && peers == "to";
            list(spec, name).iter().map(|rule| Rule::read(rule, peers, names)).collect()
        };
        Self {
            subject: Pods::read(&spec["subject"]).expect("a subject"),
            ingress: rules("ingress", "from"),
            egress: rules("egress", "to"),
        }
    }

    fn rules(&self, direction: Direction) -> &[Rule] {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    /// Whether it is for a pod, and speaks of the direction.
    pub fn applies_to(&self, inventory: &Inventory, pod: &Item, direction: Direction) -> bool {
        self.subject.are(inventory, pod) && !self.rules(direction).is_empty()
    }

    /// What it says of a packet; `None`: nothing.
    pub fn decide(&self, packet: &Packet<'_>, direction: Direction) -> Option<Decision> {
        let peer = match direction {
            Direction::Ingress => &packet.source,
            Direction::Egress => &packet.destination,
        };
        let matching = self.rules(direction).iter().find(|rule| {
            let is_peer = |it: &Peer| match it {
                Peer::Pods(pods) => peer.items.iter().any(|item| pods.are(packet.inventory, item)),
                Peer::Nodes(nodes) => {
                    let is_meant = |item: &&Item| item.kind == ItemKind::Node && nodes.matches(&item.labels);
                    peer.items.iter().any(is_meant)
                }
                Peer::Networks(nets) => nets.iter().any(|net| net.has(peer.address)),
                Peer::Domains(domains) => any_is_meant(domains, peer.names),
                Peer::Unknown => true,
            };
            rule.peers.iter().any(is_peer)
                && (rule.traffic.is_empty() || rule.traffic.iter().any(|it| it.is_of(packet)))
        });
        matching.map(|rule| rule.decision)
    }
}

impl Pods {
    fn read(document: &Value) -> Option<Self> {
        if let Some(namespaces) = field(document, "namespaces") {
            return Some(Self { namespaces: label_selector(namespaces), pods: Selector::All });
        }
        let pods = field(document, "pods")?;
        Some(Self {
            namespaces: label_selector(&pods["namespaceSelector"]),
            pods: label_selector(&pods["podSelector"]),
        })
    }

    fn are(&self, inventory: &Inventory, item: &Item) -> bool {
        inventory.pod_matches(&self.namespaces, &self.pods, item)
    }
}

impl Rule {
    fn read(document: &Value, peers: &str, names: bool) -> Self {
        let names = names && text(document, "action") == "Accept";
        Self {
            decision: match text(document, "action") {
                "Accept" => Decision::Allow,
                "Deny" => Decision::Deny,
                "Pass" => Decision::Pass,
                other => panic!("{other} is no action"),
            },
            peers: list(document, peers)
                .iter()
                .map(Peer::read)
                .map(|peer| if matches!(peer, Peer::Domains(_)) && !names { Peer::Unknown } else { peer })
                .collect(),
            traffic: list(document, "protocols").iter().map(Traffic::read).collect(),
        }
        .closed()
    }

    /// With a peer of a kind that nobody knows, a rule that accepts is as good as none, and any other denies all.
    fn closed(self) -> Self {
        if !self.peers.iter().any(|peer| matches!(peer, Peer::Unknown)) {
            return self;
        }
        match self.decision {
            Decision::Allow => Self { peers: Vec::new(), ..self },
            _ => Self { decision: Decision::Deny, peers: vec![Peer::Unknown], traffic: Vec::new() },
        }
    }
}

impl Peer {
    fn read(document: &Value) -> Self {
        if let Some(pods) = Pods::read(document) {
            return Self::Pods(pods);
        }
        match field(document, "nodes") {
            Some(nodes) => Self::Nodes(label_selector(nodes)),
            None if field(document, "networks").is_some() => {
                Self::Networks(texts(document, "networks").into_iter().filter_map(Net::read).collect())
            }
            None if field(document, "domainNames").is_some() => {
                Self::Domains(texts(document, "domainNames").into_iter().map(str::to_owned).collect())
            }
            None => Self::Unknown,
        }
    }
}

impl Traffic {
    fn read(document: &Value) -> Self {
        for (name, protocol) in [("tcp", protocol::TCP), ("udp", protocol::UDP), ("sctp", protocol::SCTP)] {
            let Some(of) = field(document, name) else { continue };
            let ports = &of["destinationPort"];
            let (first, last) = match field(ports, "range") {
                Some(range) => (&range["start"], &range["end"]),
                None => (&ports["number"], &ports["number"]),
            };
            let number = |it| port(it).expect("a port");
            return Self::Ports { protocol, first: number(first), last: number(last) };
        }
        Self::Named(text(document, "destinationNamedPort").to_owned())
    }

    fn is_of(&self, packet: &Packet<'_>) -> bool {
        match self {
            Self::Ports { protocol, first, last } => {
                packet.protocol == *protocol && (*first..=*last).contains(&packet.destination.port)
            }
            Self::Named(name) => packet.is_named(&packet.destination, name),
        }
    }
}
