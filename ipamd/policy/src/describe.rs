//! Policies in words, for people.

use ipamd_model::policy::{
    Action, Direction, Entity, Family, Icmp, ItemKinds, ItemSelector, Ports, Rule, Scope, Traffic, protocol,
};
use ipamd_model::{selector::Selector, service_name::ServiceName};

/// An action.
pub fn action(action: Action) -> &'static str {
    match action {
        Action::Allow => "allow",
        Action::Deny => "deny",
        Action::Pass => "pass",
        Action::Log => "log",
    }
}

/// What a rule matches.
pub fn rule(rule: &Rule, direction: Direction) -> String {
    let mut words = Vec::new();
    match rule.family {
        Some(Family::V4) => words.push("IPv4".to_owned()),
        Some(Family::V6) => words.push("IPv6".to_owned()),
        None => {}
    }
    words.push(alternatives(&rule.traffic, traffic, "any traffic"));
    let any = |side: &[Entity]| side == [Entity::ANY];
    if !any(&rule.sources) || direction == Direction::Ingress {
        words.push(format!("from {}", alternatives(&rule.sources, entity, "nobody")));
    }
    if !any(&rule.destinations) || direction == Direction::Egress {
        words.push(format!("to {}", alternatives(&rule.destinations, entity, "nobody")));
    }
    words.join(" ")
}

fn alternatives<T>(list: &[T], one: impl Fn(&T) -> String, none: &str) -> String {
    if list.is_empty() { none.to_owned() } else { list.iter().map(one).collect::<Vec<_>>().join(", or ") }
}

/// What a selector of pods, network sets, nodes or endpoints selects.
pub fn items(items: &ItemSelector) -> String {
    if let Some(service) = ServiceName::of(items) {
        return format!("endpoints of service {service}");
    }
    let kinds = match items.kinds {
        ItemKinds::Pods => "pods",
        ItemKinds::PodsAndHosts => "pods and host endpoints",
        ItemKinds::PodsAndNetworkSets => "pods and network sets",
        ItemKinds::Nodes => "nodes",
        ItemKinds::ServiceEndpoints => "endpoints of services",
    };
    let labels = match &items.labels {
        Selector::All => format!("all {kinds}"),
        labels => format!("{kinds} where {labels}"),
    };
    let mut words = vec![labels];
    match &items.scope {
        Scope::Any => {}
        Scope::Namespace(name) => words.push(format!("in namespace {name}")),
        Scope::Matching(Selector::Global) => words.push("of no namespace".to_owned()),
        Scope::Matching(Selector::All) => words.push("in any namespace".to_owned()),
        Scope::Matching(selector) => words.push(format!("in namespaces where {selector}")),
    }
    if let Some(names) = &items.service_account_names {
        words.push(format!("of service accounts {}", names.join(", ")));
    }
    if let Some(selector) = &items.service_accounts {
        words.push(format!("of service accounts where {selector}"));
    }
    words.join(" ")
}

fn entity(entity: &Entity) -> String {
    let mut words = Vec::new();
    let list =
        |nets: &[ipnetwork::IpNetwork]| nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    words.extend(entity.items.as_ref().map(items));
    words.extend(entity.not_items.as_ref().map(|it| format!("not {}", items(it))));
    words.extend(entity.nets.as_ref().map(|nets| if nets.is_empty() { "nobody".into() } else { list(nets) }));
    if !entity.not_nets.is_empty() {
        words.push(format!("outside {}", list(&entity.not_nets)));
    }
    if !entity.domains.is_empty() {
        let domains = entity.domains.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        words.push(format!("the DNS names {domains}"));
    }
    if words.is_empty() { "anybody".to_owned() } else { words.join(" and ") }
}

fn traffic(traffic: &Traffic) -> String {
    let mut words = Vec::new();
    words.extend(traffic.protocol.map(protocol::name));
    words.extend(traffic.not_protocol.map(|it| format!("not {}", protocol::name(it))));
    words.extend(traffic.icmp.map(icmp));
    words.extend(traffic.not_icmp.map(|it| format!("not {}", icmp(it))));
    let sides = [
        ("port", &traffic.destination_ports),
        ("not port", &traffic.not_destination_ports),
        ("source port", &traffic.source_ports),
        ("not source port", &traffic.not_source_ports),
    ];
    words.extend(sides.iter().filter_map(|(what, set)| Some(format!("{what} {}", ports(set.as_ref()?)))));
    if words.is_empty() { "any traffic".to_owned() } else { words.join(" ") }
}

fn icmp(icmp: Icmp) -> String {
    let code = icmp.code.map(|code| format!(" code {code}")).unwrap_or_default();
    format!("type {}{code}", icmp.kind)
}

fn ports(ports: &Ports) -> String {
    let ranges = ports.ranges.iter().map(|range| {
        if range.start() == range.end() {
            range.start().to_string()
        } else {
            format!("{}-{}", range.start(), range.end())
        }
    });
    let names = ports.names.iter().map(|name| {
        if ServiceName::is_port_name(name) { format!("of service {name}") } else { name.to_string() }
    });
    ranges.chain(names).collect::<Vec<_>>().join(", ")
}
