//! Random policies of Calico.

use proptest::{
    collection::vec,
    prelude::*,
    sample::{select, subsequence},
};
use serde_json::{Value, json};

use super::pools::{
    ACCOUNTS, DOMAINS, NAMESPACES, NETS4, NETS6, PORT_NAMES, PORTS, RANGES, SERVICES, account_selector,
    at_times, item_selector, list, namespace_selector, object, policy_name,
};

/// A NetworkPolicy or a GlobalNetworkPolicy.
pub fn calico_policy() -> BoxedStrategy<Value> {
    let types = prop_oneof![
        3 => Just(None),
        3 => subsequence(vec!["Ingress", "Egress"], 0..=2).prop_map(|types| Some(json!(types))),
    ];
    let tier = prop_oneof![
        4 => Just(None),
        2 => Just(Some(json!("default"))),
        2 => Just(Some(json!("apple"))),
        2 => Just(Some(json!("zebra"))),
        1 => Just(Some(json!("kube-admin"))),
    ];
    let order = at_times(70, select(&[-5.0, 10.0, 10.5, 1000.0, 2000.0][..]).prop_map(Value::from));
    let place = (prop::option::of(select(&NAMESPACES[..2])), policy_name(), tier, order);
    let subject =
        (at_times(45, item_selector()), at_times(20, namespace_selector()), at_times(12, account_selector()));
    (place, subject, types, list(30, 3, rule("source")), list(35, 3, rule("destination")))
        .prop_map(|((namespace, name, tier, order), (pods, namespaces, accounts), types, ingress, egress)| {
            let global = namespace.is_none();
            json!({
                "apiVersion": "projectcalico.org/v3",
                "kind": if global { "GlobalNetworkPolicy" } else { "NetworkPolicy" },
                "metadata": object([("name", Some(json!(name))), ("namespace", namespace.map(Value::from))]),
                "spec": object([
                    ("tier", tier),
                    ("order", order),
                    ("selector", pods),
                    ("namespaceSelector", namespaces.filter(|_| global)),
                    ("serviceAccountSelector", accounts),
                    ("types", types),
                    ("ingress", ingress),
                    ("egress", egress),
                ]),
            })
        })
        .boxed()
}

/// What a rule may say of traffic, by its protocol.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Says {
    Ports { named: bool },
    Icmp,
    Nothing,
}

/// A family, of which a rule has all its networks.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Family {
    V4,
    V6,
}

/// A rule, whose other side than the endpoint's is in that field.
fn rule(peer: &'static str) -> BoxedStrategy<Value> {
    let by_name = Says::Ports { named: true };
    let protocols = vec![
        (5, Just((None, by_name))),
        (5, Just((Some(json!("TCP")), by_name))),
        (3, Just((Some(json!("UDP")), by_name))),
        (2, Just((Some(json!("SCTP")), by_name))),
        (1, Just((Some(json!("UDPLite")), Says::Ports { named: false }))),
        (1, Just((Some(json!(6)), by_name))),
        (1, Just((Some(json!(47)), Says::Nothing))),
        (2, Just((Some(json!("ICMP")), Says::Icmp))),
        (2, Just((Some(json!("ICMPv6")), Says::Icmp))),
    ];
    let family = select(&[Family::V4, Family::V6][..]);
    let protocol = proptest::strategy::Union::new_weighted(protocols);
    (select(&ACTIONS[..]), protocol, family)
        .prop_flat_map(move |(action, (protocol, says), family)| {
            let family = match protocol.as_ref().and_then(Value::as_str) {
                Some("ICMP") => Family::V4,
                Some("ICMPv6") => Family::V6,
                _ => family,
            };
            let version = if family == Family::V4 { 4 } else { 6 };
            let unlike = if family == Family::V4 { json!("ICMP") } else { json!("ICMPv6") };
            let not_protocol =
                at_times(12, select(vec![json!("TCP"), json!("UDP"), json!(47), json!(132), unlike]));
            let icmp = |percent| at_times(if says == Says::Icmp { percent } else { 0 }, icmp());
            let side = |key| {
                let services = if key == peer { 15 } else { 0 };
                let ports = key == "source" && matches!(says, Says::Ports { .. });
                let entity = entity(family, says);
                let any = at_times(65, entity);
                // DNS names are for what may be sent.
                let names = if action == "Allow" && key == peer && key == "destination" { 25 } else { 0 };
                (at_times(services, of_service(ports)), at_times(names, of_names(says)), any)
                    .prop_map(|(service, names, any)| service.or(names).or(any))
            };
            let (source, destination) = (side("source"), side("destination"));
            (at_times(15, Just(json!(version))), not_protocol, icmp(60), icmp(30), source, destination)
                .prop_map(move |(version, not_protocol, icmp, not_icmp, source, destination)| {
                    object([
                        ("action", Some(json!(action))),
                        ("protocol", protocol.clone()),
                        ("notProtocol", not_protocol),
                        ("ipVersion", version),
                        ("icmp", icmp),
                        ("notICMP", not_icmp),
                        ("source", source),
                        ("destination", destination),
                    ])
                })
        })
        .boxed()
}

const ACTIONS: [&str; 10] =
    ["Allow", "Allow", "Allow", "Allow", "Deny", "Deny", "Deny", "Pass", "Pass", "Log"];

fn icmp() -> BoxedStrategy<Value> {
    let kind = at_times(90, select(&[0, 3, 8, 128, 254][..]).prop_map(Value::from));
    let code = at_times(50, select(&[0, 1, 255][..]).prop_map(Value::from));
    (kind, code)
        .prop_map(|(kind, code)| {
            let code = code.filter(|_| kind.is_some());
            object([("type", kind), ("code", code)])
        })
        .boxed()
}

/// What has one of some DNS names.
fn of_names(says: Says) -> BoxedStrategy<Value> {
    let ports = match says {
        Says::Ports { named } => at_times(40, vec(port(named), 1..=2).prop_map(Value::from)),
        Says::Icmp | Says::Nothing => Just(None).boxed(),
    };
    (subsequence(DOMAINS.to_vec(), 1..=3), ports)
        .prop_map(|(domains, ports)| object([("domains", Some(json!(domains))), ("ports", ports)]))
        .boxed()
}

/// The endpoints of a Service.
fn of_service(ports: bool) -> BoxedStrategy<Value> {
    let ports = at_times(if ports { 30 } else { 0 }, vec(port(false), 1..=2).prop_map(Value::from));
    (select(&NAMESPACES[..2]), select(&SERVICES[..]), ports)
        .prop_map(|(namespace, name, ports)| {
            object([("services", Some(json!({"namespace": namespace, "name": name}))), ("ports", ports)])
        })
        .boxed()
}

fn entity(family: Family, says: Says) -> BoxedStrategy<Value> {
    let namespaces =
        prop_oneof![5 => namespace_selector(), 1 => Just(json!("global()")), 1 => Just(json!("all()"))];
    let accounts = (
        at_times(60, subsequence(ACCOUNTS.to_vec(), 0..=2).prop_map(|names| json!(names))),
        at_times(50, account_selector()),
    );
    let accounts = accounts.prop_map(|(names, selector)| object([("names", names), ("selector", selector)]));
    let nets = move || {
        let pool = if family == Family::V4 { NETS4.to_vec() } else { NETS6.to_vec() };
        subsequence(pool, 0..=2).prop_map(|nets| json!(nets))
    };
    let ports = |percent| match says {
        Says::Ports { named } => at_times(percent, vec(port(named), 0..=2).prop_map(Value::from)),
        Says::Icmp | Says::Nothing => Just(None).boxed(),
    };
    (
        at_times(35, item_selector()),
        at_times(12, item_selector()),
        at_times(18, namespaces),
        at_times(12, accounts),
        at_times(15, nets()),
        at_times(10, nets()),
        ports(30),
        ports(10),
    )
        .prop_map(|(selector, not_selector, namespaces, accounts, nets, not_nets, ports, not_ports)| {
            object([
                ("selector", selector),
                ("notSelector", not_selector),
                ("namespaceSelector", namespaces),
                ("serviceAccounts", accounts),
                ("nets", nets),
                ("notNets", not_nets),
                ("ports", ports),
                ("notPorts", not_ports),
            ])
        })
        .boxed()
}

fn port(named: bool) -> BoxedStrategy<Value> {
    let by_number = prop_oneof![
        3 => select(&PORTS[..]).prop_map(Value::from),
        2 => select(&RANGES[..]).prop_map(|(first, last)| json!(format!("{first}:{last}"))),
    ];
    if !named {
        return by_number.boxed();
    }
    prop_oneof![5 => by_number, 3 => select(&PORT_NAMES[..]).prop_map(Value::from)].boxed()
}
