//! `networking.k8s.io/v1` NetworkPolicy: what it names passes, and a pod that one selects gets, or sends, nothing else.

use serde_json::Value;

use super::{
    document::{field, label_selector, list, metadata, port, protocol, text, texts},
    inventory::{Item, ItemKind},
    net::Net,
    packet::{Direction, Packet, Side},
    selector::Selector,
};

/// A NetworkPolicy.
#[derive(Clone, Debug)]
pub struct NetworkPolicy {
    namespace: String,
    pods: Selector,
    ingress: Option<Vec<Rule>>,
    egress: Option<Vec<Rule>>,
}

#[derive(Clone, Debug)]
struct Rule {
    /// Any of them; none: everybody.
    peers: Vec<Peer>,
    /// Any of them; none: all traffic.
    ports: Vec<Port>,
}

#[derive(Clone, Debug)]
enum Peer {
    Pods { namespaces: Option<Selector>, pods: Option<Selector> },
    Block { net: Net, except: Vec<Net> },
}

#[derive(Clone, Debug)]
struct Port {
    protocol: u8,
    ports: Ports,
}

#[derive(Clone, Debug)]
enum Ports {
    All,
    Range(u16, u16),
    Named(String),
}

impl NetworkPolicy {
    /// Reads one.
    pub fn read(document: &Value) -> Self {
        let spec = &document["spec"];
        let (ingress, egress) = (list(spec, "ingress"), list(spec, "egress"));
        let types = texts(spec, "policyTypes");
        let (of_ingress, of_egress) = match types.as_slice() {
            [] => (true, !egress.is_empty()),
            types => (types.contains(&"Ingress"), types.contains(&"Egress")),
        };
        let rules = |rules: &[Value], peers| rules.iter().map(|rule| Rule::read(rule, peers)).collect();
        Self {
            namespace: metadata(document, "namespace").to_owned(),
            pods: label_selector(&spec["podSelector"]),
            ingress: of_ingress.then(|| rules(ingress, "from")),
            egress: of_egress.then(|| rules(egress, "to")),
        }
    }

    fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }

    /// Whether it isolates a pod in a direction.
    pub fn applies_to(&self, pod: &Item, direction: Direction) -> bool {
        pod.namespace.as_ref() == Some(&self.namespace)
            && self.pods.matches(&pod.labels)
            && self.rules(direction).is_some()
    }

    /// Whether it lets a packet of a pod that it applies to pass.
    pub fn allows(&self, packet: &Packet<'_>, direction: Direction) -> bool {
        let peer = match direction {
            Direction::Ingress => &packet.source,
            Direction::Egress => &packet.destination,
        };
        self.rules(direction).unwrap_or_default().iter().any(|rule| {
            (rule.peers.is_empty() || rule.peers.iter().any(|it| it.is(packet, peer, &self.namespace)))
                && (rule.ports.is_empty() || rule.ports.iter().any(|it| it.is_port_of(packet)))
        })
    }
}

impl Rule {
    fn read(document: &Value, peers: &str) -> Self {
        Self {
            peers: list(document, peers).iter().map(Peer::read).collect(),
            ports: list(document, "ports").iter().map(Port::read).collect(),
        }
    }
}

impl Peer {
    fn read(document: &Value) -> Self {
        let Some(block) = field(document, "ipBlock") else {
            let selector = |name| field(document, name).map(label_selector);
            return Self::Pods { namespaces: selector("namespaceSelector"), pods: selector("podSelector") };
        };
        Self::Block {
            net: Net::read(text(block, "cidr")).expect("a CIDR"),
            except: texts(block, "except").into_iter().filter_map(Net::read).collect(),
        }
    }

    fn is(&self, packet: &Packet<'_>, side: &Side<'_>, own: &str) -> bool {
        match self {
            Self::Block { net, except } => {
                net.has(side.address) && !except.iter().any(|it| it.has(side.address))
            }
            Self::Pods { namespaces, pods } => side.items.iter().any(|item| {
                item.kind == ItemKind::Pod
                    && match namespaces {
                        Some(selector) => packet.inventory.takes_in(selector, item.namespace.as_deref()),
                        None => item.namespace.as_deref() == Some(own),
                    }
                    && pods.as_ref().is_none_or(|selector| selector.matches(&item.labels))
            }),
        }
    }
}

impl Port {
    fn read(document: &Value) -> Self {
        let ports = match field(document, "port") {
            None => Ports::All,
            Some(Value::String(name)) => Ports::Named(name.clone()),
            Some(number) => {
                let first = port(number).expect("a port");
                Ports::Range(first, field(document, "endPort").and_then(port).unwrap_or(first))
            }
        };
        Self { protocol: field(document, "protocol").map_or(6, protocol), ports }
    }

    fn is_port_of(&self, packet: &Packet<'_>) -> bool {
        self.protocol == packet.protocol
            && match &self.ports {
                Ports::All => true,
                Ports::Range(first, last) => (*first..=*last).contains(&packet.destination.port),
                Ports::Named(name) => packet.is_named(&packet.destination, name),
            }
    }
}
