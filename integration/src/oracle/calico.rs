//! `projectcalico.org/v3` NetworkPolicy and GlobalNetworkPolicy: rules in order, of which the first that matches and
//! does more than log decides.

use serde_json::Value;

use super::{
    decision::Decision,
    document::{calico_selector, field, list, namespace, port, protocol, text, texts},
    domain::any_is_meant,
    endpoint_slice::EndpointSlice,
    inventory::{Inventory, Item, ItemKind},
    net::Net,
    packet::{Direction, Packet, Side, protocol::has_ports},
    selector::Selector,
};

/// A NetworkPolicy or a GlobalNetworkPolicy of Calico.
#[derive(Clone, Debug)]
pub struct CalicoPolicy {
    /// `None`: it is global.
    namespace: Option<String>,
    selector: Option<Selector>,
    namespaces: Option<Selector>,
    accounts: Option<Selector>,
    ingress: Option<Vec<Rule>>,
    egress: Option<Vec<Rule>>,
}

#[derive(Clone, Debug)]
struct Rule {
    /// `None`: it is logged.
    decision: Option<Decision>,
    version: Option<u64>,
    protocol: Option<u8>,
    not_protocol: Option<u8>,
    icmp: Icmp,
    not_icmp: Icmp,
    source: Entity,
    destination: Entity,
}

#[derive(Clone, Copy, Debug)]
struct Icmp {
    kind: Option<u64>,
    code: Option<u64>,
}

#[derive(Clone, Debug)]
struct Entity {
    selector: Option<Selector>,
    not_selector: Option<Selector>,
    namespaces: Option<Selector>,
    account_names: Vec<String>,
    accounts: Option<Selector>,
    nets: Vec<Net>,
    not_nets: Vec<Net>,
    domains: Vec<String>,
    ports: Vec<Port>,
    not_ports: Vec<Port>,
    service: Option<Service>,
}

#[derive(Clone, Debug)]
struct Service {
    /// `None`: that of the policy.
    namespace: Option<String>,
    name: String,
}

#[derive(Clone, Debug)]
enum Port {
    Range(u16, u16),
    Named(String),
}

impl CalicoPolicy {
    /// Reads one.
    pub fn read(document: &Value) -> Self {
        let spec = &document["spec"];
        let (ingress, egress) = (list(spec, "ingress"), list(spec, "egress"));
        let types = texts(spec, "types");
        let (of_ingress, of_egress) = match types.as_slice() {
            [] => (!ingress.is_empty() || egress.is_empty(), !egress.is_empty()),
            types => (types.contains(&"Ingress"), types.contains(&"Egress")),
        };
        let rules = |rules: &[Value]| rules.iter().map(Rule::read).collect();
        Self {
            namespace: namespace(document).map(str::to_owned),
            selector: calico_selector(spec, "selector"),
            namespaces: calico_selector(spec, "namespaceSelector"),
            accounts: calico_selector(spec, "serviceAccountSelector"),
            ingress: of_ingress.then(|| rules(ingress)),
            egress: of_egress.then(|| rules(egress)),
        }
    }

    fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }

    /// Whether it is for a pod, and speaks of the direction.
    pub fn applies_to(&self, inventory: &Inventory, pod: &Item, direction: Direction) -> bool {
        let in_scope = if let Some(own) = &self.namespace {
            pod.namespace.as_ref() == Some(own)
        } else {
            self.namespaces.as_ref().is_none_or(|it| inventory.takes_in(it, pod.namespace.as_deref()))
        };
        in_scope
            && self.selector.as_ref().is_none_or(|it| inventory.calico_matches(it, pod))
            && self.accounts.as_ref().is_none_or(|it| inventory.account_matches(it, pod))
            && self.rules(direction).is_some()
    }

    /// What it says of a packet; `None`: nothing.
    pub fn decide(&self, packet: &Packet<'_>, direction: Direction) -> Option<Decision> {
        let rules = self.rules(direction).unwrap_or_default().iter();
        let mut deciding = rules.filter(|rule| rule.decision.is_some());
        deciding.find(|rule| rule.matches(packet, self.namespace.as_deref()))?.decision
    }
}

impl Rule {
    fn read(document: &Value) -> Self {
        Self {
            decision: match text(document, "action") {
                "Allow" => Some(Decision::Allow),
                "Deny" => Some(Decision::Deny),
                "Pass" => Some(Decision::Pass),
                "Log" => None,
                other => panic!("{other} is no action"),
            },
            version: document["ipVersion"].as_u64(),
            protocol: field(document, "protocol").map(protocol),
            not_protocol: field(document, "notProtocol").map(protocol),
            icmp: Icmp::read(&document["icmp"]),
            not_icmp: Icmp::read(&document["notICMP"]),
            source: Entity::read(&document["source"]),
            destination: Entity::read(&document["destination"]),
        }
    }

    fn matches(&self, packet: &Packet<'_>, own: Option<&str>) -> bool {
        let version = if packet.source.address.is_ipv4() { 4 } else { 6 };
        // A rule that names networks of one family, also those that something must not be in, is none for the other.
        let sides = [&self.source, &self.destination];
        let named = |of: fn(&Entity) -> &Vec<Net>| {
            sides.iter().all(|side| {
                of(side).is_empty() || of(side).iter().any(|net| net.is_of(packet.source.address))
            })
        };
        // Nothing is denied, and nothing left to others, by name.
        let allows = matches!(self.decision, Some(Decision::Allow));
        let told = if allows { packet.destination.names } else { &[] };
        named(|side| &side.nets)
            && named(|side| &side.not_nets)
            && self.version.is_none_or(|it| it == version)
            && self.protocol.is_none_or(|it| it == packet.protocol)
            && self.not_protocol.is_none_or(|it| it != packet.protocol)
            && (self.icmp.kind.is_none() || self.icmp.is_of(packet))
            && (self.not_icmp.kind.is_none() || !self.not_icmp.is_of(packet))
            && self.source.matches(packet, &packet.source, &[], own)
            && self.destination.matches(packet, &packet.destination, told, own)
            && self.source.service.as_ref().is_none_or(|it| it.has(packet, &packet.source, own))
            && self.destination.service.as_ref().is_none_or(|it| it.takes(packet, own))
    }
}

impl Icmp {
    fn read(document: &Value) -> Self {
        Self { kind: document["type"].as_u64(), code: document["code"].as_u64() }
    }

    /// Type and code are where others have the destination's port.
    fn is_of(self, packet: &Packet<'_>) -> bool {
        let [kind, code] = packet.destination.port.to_be_bytes().map(u64::from);
        self.kind == Some(kind) && self.code.is_none_or(|it| it == code)
    }
}

impl Entity {
    fn read(document: &Value) -> Self {
        let accounts = &document["serviceAccounts"];
        let nets = |name| texts(document, name).into_iter().filter_map(Net::read).collect();
        let ports = |name| list(document, name).iter().map(Port::read).collect();
        Self {
            selector: calico_selector(document, "selector"),
            not_selector: calico_selector(document, "notSelector"),
            namespaces: calico_selector(document, "namespaceSelector"),
            account_names: texts(accounts, "names").into_iter().map(str::to_owned).collect(),
            accounts: calico_selector(accounts, "selector"),
            nets: nets("nets"),
            not_nets: nets("notNets"),
            domains: texts(document, "domains").into_iter().map(str::to_owned).collect(),
            ports: ports("ports"),
            not_ports: ports("notPorts"),
            service: field(document, "services").map(|services| Service {
                namespace: field(services, "namespace").and_then(Value::as_str).map(str::to_owned),
                name: text(services, "name").to_owned(),
            }),
        }
    }

    /// `names` are those of the address, if it matters what they are.
    fn matches(&self, packet: &Packet<'_>, side: &Side<'_>, names: &[String], own: Option<&str>) -> bool {
        let is_port = |port: &Port| port.is_of(packet, side);
        let ports_match = self.ports.is_empty() && self.not_ports.is_empty()
            || has_ports(packet.protocol)
                && (self.ports.is_empty() || self.ports.iter().any(is_port))
                && !self.not_ports.iter().any(is_port);
        ports_match
            && (self.nets.is_empty() || self.nets.iter().any(|it| it.has(side.address)))
            && !self.not_nets.iter().any(|it| it.has(side.address))
            && (self.domains.is_empty() || any_is_meant(&self.domains, names))
            && (!self.selects(own)
                || side.items.iter().any(|it| self.is(packet.inventory, it, own))
                || self.is_set_with(packet.inventory, names, own))
            && !self
                .not_selector
                .as_ref()
                .is_some_and(|it| side.items.iter().any(|item| known(packet.inventory, item, it)))
    }

    /// Whether it is about what is known of the cluster. A policy of a namespace that says anything of that sort, be it
    /// by `notSelector`, is about its namespace, unless it names others.
    fn selects(&self, own: Option<&str>) -> bool {
        let by_account = !self.account_names.is_empty() || self.accounts.is_some();
        let said = self.selector.is_some() || by_account || self.namespaces.is_some();
        said || own.is_some() && self.not_selector.is_some()
    }

    /// Whether it selects a network set that has one of these names.
    fn is_set_with(&self, inventory: &Inventory, names: &[String], own: Option<&str>) -> bool {
        let mut sets = inventory.items.iter().filter(|item| any_is_meant(&item.domains, names));
        sets.any(|item| self.is(inventory, item, own))
    }

    fn is(&self, inventory: &Inventory, item: &Item, own: Option<&str>) -> bool {
        let in_scope = match (&self.namespaces, own) {
            (Some(namespaces), _) => inventory.takes_in(namespaces, item.namespace.as_deref()),
            (None, Some(own)) => item.namespace.as_deref() == Some(own),
            (None, None) => true,
        };
        let names = &self.account_names;
        let account_fits = names.is_empty() || item.account.as_ref().is_some_and(|it| names.contains(it));
        in_scope
            && account_fits
            && self.accounts.as_ref().is_none_or(|it| inventory.account_matches(it, item))
            && known(inventory, item, self.selector.as_ref().unwrap_or(&Selector::All))
    }
}

impl Service {
    fn slices<'a>(
        &'a self,
        packet: &'a Packet<'_>,
        own: Option<&'a str>,
    ) -> impl Iterator<Item = &'a EndpointSlice> {
        let namespace = self.namespace.as_deref().or(own).unwrap_or_default();
        packet.inventory.slices.iter().filter(move |it| it.is_of(namespace, &self.name))
    }

    /// Whether a side of a packet is one of its endpoints.
    fn has(&self, packet: &Packet<'_>, side: &Side<'_>, own: Option<&str>) -> bool {
        self.slices(packet, own).any(|slice| slice.has(side.address))
    }

    /// Whether a packet is for a port of one of its endpoints.
    fn takes(&self, packet: &Packet<'_>, own: Option<&str>) -> bool {
        let to = &packet.destination;
        self.slices(packet, own)
            .any(|slice| slice.has(to.address) && slice.has_port(packet.protocol, to.port))
    }
}

/// Whether an item is of the sort that Calico's selectors find, and found.
fn known(inventory: &Inventory, item: &Item, selector: &Selector) -> bool {
    item.kind != ItemKind::Node && inventory.calico_matches(selector, item)
}

impl Port {
    fn read(document: &Value) -> Self {
        let Some(text) = document.as_str() else {
            let number = port(document).expect("a port");
            return Self::Range(number, number);
        };
        match text.split_once(':').map(|(first, last)| (first.parse(), last.parse())) {
            Some((Ok(first), Ok(last))) => Self::Range(first, last),
            _ => Self::Named(text.to_owned()),
        }
    }

    fn is_of(&self, packet: &Packet<'_>, side: &Side<'_>) -> bool {
        match self {
            Self::Range(first, last) => (*first..=*last).contains(&side.port),
            Self::Named(name) => packet.is_named(side, name),
        }
    }
}
