//! The few things that random clusters are made of: few, so that they meet.

use proptest::{collection::vec, option, prelude::*, sample::select, strategy::Union};
use serde_json::{Map, Value, json};

use crate::oracle::selector::Selector;

/// Namespaces.
pub const NAMESPACES: [&str; 3] = ["x", "y", "z"];
/// Pods of each.
pub const PODS: [&str; 3] = ["a", "b", "c"];
/// Service accounts.
pub const ACCOUNTS: [&str; 2] = ["default", "robot"];
/// Services.
pub const SERVICES: [&str; 2] = ["db", "web"];
/// Names of ports.
pub const PORT_NAMES: [&str; 3] = ["http", "dns", "metrics"];
/// Names that addresses have.
pub const NAMES: [&str; 6] = ["a.test", "www.a.test", "x.www.a.test", "b.test", "test", "a.b.test"];
/// Names in policies, of two labels at least; some are written as people do.
pub const DOMAINS: [&str; 8] =
    ["a.test", "*.a.test", "WWW.a.test.", "*.www.a.test", "x.www.a.test", "b.test", "*.b.test", "c.test"];
/// Keys of labels.
pub const KEYS: [&str; 3] = ["a", "b", "c"];
/// Keys that selectors of Kubernetes ask pods for. What begins as an inherited label of Calico is none to them, and no pod has it.
pub const POD_KEYS: [&str; 4] = ["a", "b", "c", "pcns.a"];
/// Values of labels.
pub const VALUES: [&str; 3] = ["x", "y", "xy"];
/// Ports that policies name.
pub const PORTS: [u16; 6] = [1, 80, 81, 8080, 8085, 65535];
/// Ranges of ports.
pub const RANGES: [(u16, u16); 6] =
    [(80, 81), (8080, 8090), (8085, 9000), (1, 1023), (1024, 65535), (1, 65535)];
/// Networks of IPv4.
pub const NETS4: [&str; 11] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.0.0.0/24",
    "10.0.1.0/24",
    "10.0.0.0/30",
    "10.0.0.2/31",
    "10.0.1.2/32",
    "172.16.0.0/12",
    "192.0.2.0/24",
    "192.0.2.128/25",
    "192.0.2.7/32",
];
/// Networks of IPv6.
pub const NETS6: [&str; 9] = [
    "::/0",
    "fd00::/16",
    "fd00::/112",
    "fd00::1:0/112",
    "fd00::2/127",
    "fd00::1:2/128",
    "fd01::/64",
    "2001:db8::/32",
    "2001:db8::7/128",
];
/// Networks, and such as lie in them.
pub const BLOCKS: [(&str, &[&str]); 8] = [
    ("0.0.0.0/0", &["10.0.0.0/8", "192.0.2.0/24"]),
    ("10.0.0.0/8", &["10.0.0.0/24", "10.0.0.2/31", "10.0.1.2/32"]),
    ("10.0.0.0/24", &["10.0.0.1/32", "10.0.0.2/31"]),
    ("192.0.2.0/24", &["192.0.2.128/25", "192.0.2.7/32"]),
    ("::/0", &["fd00::/16", "2001:db8::/32"]),
    ("fd00::/16", &["fd00::/112", "fd00::1:2/128"]),
    ("fd00::/112", &["fd00::1/128", "fd00::2/127"]),
    ("2001:db8::/32", &["2001:db8::7/128"]),
];

/// An object of the fields that are there.
pub fn object<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    let there = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(there.collect::<Map<_, _>>())
}

/// A field that is there in so many of a hundred cases.
pub fn at_times(percent: u32, field: impl Strategy<Value = Value> + 'static) -> BoxedStrategy<Option<Value>> {
    if percent == 0 {
        return Just(None).boxed();
    }
    option::weighted(f64::from(percent) / 100.0, field).boxed()
}

/// A list that is missing, empty, or has up to so many items.
pub fn list(
    missing: u32,
    most: usize,
    item: impl Strategy<Value = Value> + 'static,
) -> BoxedStrategy<Option<Value>> {
    prop_oneof![
        missing => Just(None),
        1 => Just(Some(json!([]))),
        100 - missing => vec(item, 1..=most).prop_map(|items| Some(items.into())),
    ]
    .boxed()
}

/// Labels.
pub fn labels() -> BoxedStrategy<Value> {
    let pair = (select(&KEYS[..]), select(&VALUES[..]));
    vec(pair, 0..=3)
        .prop_map(|pairs| pairs.into_iter().map(|(key, value)| (key.to_owned(), json!(value))).collect())
        .prop_map(Value::Object)
        .boxed()
}

/// A label selector of Kubernetes, over labels of these keys; often the empty one.
pub fn label_selector(keys: &'static [&'static str]) -> BoxedStrategy<Value> {
    let values = || vec(select(&VALUES[..]), 1..=2);
    let expression = prop_oneof![
        (select(keys), values())
            .prop_map(|(key, values)| json!({"key": key, "operator": "In", "values": values})),
        (select(keys), values())
            .prop_map(|(key, values)| json!({"key": key, "operator": "NotIn", "values": values})),
        select(keys).prop_map(|key| json!({"key": key, "operator": "Exists"})),
        select(keys).prop_map(|key| json!({"key": key, "operator": "DoesNotExist"})),
    ];
    let equal = (select(keys), select(&VALUES[..])).prop_map(|(key, value)| json!({key: value}));
    let some = (at_times(60, equal), at_times(60, vec(expression, 1..=2).prop_map(Value::from)))
        .prop_map(|(equal, expressions)| object([("matchLabels", equal), ("matchExpressions", expressions)]));
    prop_oneof![2 => Just(json!({})), 3 => some].boxed()
}

/// Keys of the labels of namespaces that Kubernetes' selectors ask for.
pub const NAMESPACE_KEYS: [&str; 4] = ["a", "b", "c", "kubernetes.io/metadata.name"];

/// A selector of Calico.
fn selector(keys: &'static [(&'static str, &'static [&'static str])]) -> BoxedStrategy<Selector> {
    let leaf = select(keys).prop_flat_map(|(key, values)| {
        let key = key.to_owned();
        let value = || select(values).prop_map(str::to_owned);
        let part = || prop_oneof![2 => value(), 1 => select(&["", "x", "y"][..]).prop_map(str::to_owned)];
        let with = |make: fn(String, String) -> Selector, value: BoxedStrategy<String>| {
            let key = key.clone();
            value.prop_map(move |value| make(key.clone(), value)).boxed()
        };
        let of = |make: fn(String, Vec<String>) -> Selector| {
            let key = key.clone();
            vec(value(), 1..=2).prop_map(move |values| make(key.clone(), values)).boxed()
        };
        Union::new_weighted(vec![
            (3, with(Selector::Is, value().boxed())),
            (2, with(Selector::IsNot, value().boxed())),
            (2, Just(Selector::Has(key.clone())).boxed()),
            (2, of(Selector::In)),
            (1, of(Selector::NotIn)),
            (1, with(Selector::Contains, part().boxed())),
            (1, with(Selector::StartsWith, part().boxed())),
            (1, with(Selector::EndsWith, part().boxed())),
        ])
    });
    let leaf = prop_oneof![1 => Just(Selector::All), 6 => leaf];
    leaf.prop_recursive(3, 6, 2, |inner| {
        let two = (inner.clone(), inner.clone()).prop_map(|(a, b)| (Box::new(a), Box::new(b)));
        prop_oneof![
            inner.prop_map(|it| Selector::Not(Box::new(it))),
            two.clone().prop_map(|(a, b)| Selector::And(a, b)),
            two.prop_map(|(a, b)| Selector::Or(a, b)),
        ]
    })
    .boxed()
}

fn text(selector: BoxedStrategy<Selector>) -> BoxedStrategy<Value> {
    selector.prop_map(|it| json!(it.to_string())).boxed()
}

/// A selector of pods and network sets.
pub fn item_selector() -> BoxedStrategy<Value> {
    text(selector(&[
        ("a", &VALUES),
        ("b", &VALUES),
        ("c", &VALUES),
        ("projectcalico.org/namespace", &NAMESPACES),
        ("projectcalico.org/serviceaccount", &ACCOUNTS),
        ("projectcalico.org/orchestrator", &["k8s"]),
        ("pcns.a", &VALUES),
        ("pcns.projectcalico.org/name", &NAMESPACES),
        ("pcsa.a", &VALUES),
        ("pcsa.projectcalico.org/name", &ACCOUNTS),
    ]))
}

/// A selector of namespaces.
pub fn namespace_selector() -> BoxedStrategy<Value> {
    text(selector(&[
        ("a", &VALUES),
        ("b", &VALUES),
        ("c", &VALUES),
        ("projectcalico.org/name", &NAMESPACES),
        ("kubernetes.io/metadata.name", &NAMESPACES),
    ]))
}

/// A selector of service accounts.
pub fn account_selector() -> BoxedStrategy<Value> {
    text(selector(&[("a", &VALUES), ("b", &VALUES), ("projectcalico.org/name", &ACCOUNTS)]))
}

/// Few names, so that ties are decided by what comes after the name.
pub(super) fn policy_name() -> BoxedStrategy<String> {
    select(&["first", "second", "third", "fourth"][..]).prop_map(str::to_owned).boxed()
}
