//! Documents as they are written: what is in them, by name.

use serde_json::Value;

use super::selector::{Labels, Selector};

/// A field that is there, though it may be empty.
pub fn field<'a>(of: &'a Value, name: &str) -> Option<&'a Value> {
    of.get(name).filter(|it| !it.is_null())
}

/// The text of a field; empty where there is none.
pub fn text<'a>(of: &'a Value, name: &str) -> &'a str {
    of.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// The items of a list; none where there is no list.
pub fn list<'a>(of: &'a Value, name: &str) -> &'a [Value] {
    of.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The texts of a list.
pub fn texts<'a>(of: &'a Value, name: &str) -> Vec<&'a str> {
    list(of, name).iter().filter_map(Value::as_str).collect()
}

/// A field of `metadata`.
pub fn metadata<'a>(of: &'a Value, name: &str) -> &'a str {
    text(&of["metadata"], name)
}

/// `metadata.namespace`, if it has one.
pub fn namespace(of: &Value) -> Option<&str> {
    Some(metadata(of, "namespace")).filter(|it| !it.is_empty())
}

/// The labels that a field holds.
pub fn labels(of: &Value, name: &str) -> Labels {
    let pairs = of.get(name).and_then(Value::as_object).into_iter().flatten();
    pairs.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())).collect()
}

/// A selector in Calico's language; an empty text is none.
///
/// # Panics
/// If it is not one: the documents of the tests are right.
pub fn calico_selector(of: &Value, name: &str) -> Option<Selector> {
    let text = Some(text(of, name)).filter(|it| !it.is_empty())?;
    Some(Selector::read(text).unwrap_or_else(|_| panic!("{text} is no selector")))
}

/// A Kubernetes label selector: all of `matchLabels` and `matchExpressions`.
///
/// # Panics
/// If an operator is none of the four.
pub fn label_selector(of: &Value) -> Selector {
    let equal = labels(of, "matchLabels").into_iter().map(|(key, value)| Selector::Is(key, value));
    let expressions = list(of, "matchExpressions").iter().map(|it| {
        let key = text(it, "key").to_owned();
        let values = || texts(it, "values").into_iter().map(str::to_owned).collect();
        match text(it, "operator") {
            "In" => Selector::In(key, values()),
            "NotIn" => Selector::NotIn(key, values()),
            "Exists" => Selector::Has(key),
            "DoesNotExist" => Selector::Not(Box::new(Selector::Has(key))),
            other => panic!("{other} is no operator"),
        }
    });
    let all = equal.chain(expressions).reduce(|all, next| Selector::And(Box::new(all), Box::new(next)));
    all.unwrap_or(Selector::All)
}

/// The number of a protocol that is named, or numbered.
///
/// # Panics
/// If there is none of that name.
pub fn protocol(of: &Value) -> u8 {
    match of.as_str() {
        Some("ICMP") => 1,
        Some("TCP") => 6,
        Some("UDP") => 17,
        Some("ICMPv6") => 58,
        Some("SCTP") => 132,
        Some("UDPLite") => 136,
        Some(other) => panic!("{other} is no protocol"),
        None => of.as_u64().and_then(|it| it.try_into().ok()).expect("the number of a protocol"),
    }
}

/// A port by its number.
pub fn port(of: &Value) -> Option<u16> {
    of.as_u64().and_then(|it| it.try_into().ok())
}
