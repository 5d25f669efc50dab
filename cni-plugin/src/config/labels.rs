//! `args.cni.labels`: the labels that policies select by, in Kubernetes' syntax.

use std::collections::BTreeMap;

use crate::document::Document;
use crate::error::CniError;

/// Reads the list of key and value pairs.
pub fn parse(document: &Document) -> Result<BTreeMap<String, String>, CniError> {
    let args = document.field("args");
    args.object()?;
    let cni = args.field("cni");
    cni.object()?;
    let mut labels = BTreeMap::new();
    let list = cni.field("labels");
    for entry in list.list()?.unwrap_or_default() {
        entry.object()?;
        let (key, value) = (entry.field("key"), entry.field("value"));
        let key_text = key.text()?.filter(|text| is_key(text)).ok_or_else(|| {
            key.must("must be a label key: 1 to 63 letters, digits, '-', '_' and '.', after an optional DNS prefix and '/'")
        })?;
        let value_text = value.text()?.unwrap_or_default();
        if !is_value(value_text) {
            return Err(value.must("must be a label value: at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends"));
        }
        match labels.insert(key_text.to_owned(), value_text.to_owned()) {
            Some(earlier) if earlier != value_text => {
                return Err(key.must("must not stand twice in the list with different values"));
            }
            _ => {}
        }
    }
    Ok(labels)
}

fn is_key(key: &str) -> bool {
    let (prefix, name) = key.rsplit_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    !name.is_empty() && is_value(name) && prefix.is_none_or(is_dns_subdomain)
}

fn is_value(value: &str) -> bool {
    let bytes = value.as_bytes();
    let ends_well = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    bytes.len() <= 63
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        && ends_well(bytes.first())
        && ends_well(bytes.last())
}

fn is_dns_subdomain(name: &str) -> bool {
    let lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= 253
        && name.split('.').all(|label| {
            label.bytes().all(|byte| lower(byte) || byte == b'-')
                && label.bytes().next().is_some_and(lower)
                && label.bytes().last().is_some_and(lower)
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(labels: &serde_json::Value) -> Result<BTreeMap<String, String>, String> {
        let config = json!({"args": {"cni": {"labels": labels}}}).to_string();
        parse(&Document::decode(config.as_bytes()).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn pairs_become_labels() {
        let labels = read(&json!([
            {"key": "app.kubernetes.io/name", "value": "web"}, {"key": "x_Y.z", "value": ""}, {"key": "bare"},
            {"key": "x_Y.z", "value": ""},
        ]));
        assert_eq!(
            labels.unwrap().into_iter().collect::<Vec<_>>(),
            [
                ("app.kubernetes.io/name".to_owned(), "web".to_owned()),
                ("bare".to_owned(), String::new()),
                ("x_Y.z".to_owned(), String::new()),
            ]
        );
    }

    #[test]
    fn bad_keys_and_values_are_named() {
        let long = "x".repeat(64);
        for (key, value, field) in [
            ("", "v", "key"),
            ("-a", "v", "key"),
            ("a/", "v", "key"),
            ("/a", "v", "key"),
            ("a/b/c", "v", "key"),
            ("A.b/c", "v", "key"),
            ("a b", "v", "key"),
            (&long, "v", "key"),
            ("ä", "v", "key"),
            ("a..b/c", "v", "key"),
            ("k", "-v", "value"),
            ("k", "v.", "value"),
            ("k", "a b", "value"),
            ("k", &long, "value"),
        ] {
            let text = read(&json!([{"key": key, "value": value}])).unwrap_err();
            assert!(text.contains(&format!("args.cni.labels[0].{field} ")), "{key}={value}: {text}");
        }
        assert!(
            read(&json!([{"key": "a", "value": "1"}, {"key": "a", "value": "2"}]))
                .unwrap_err()
                .contains("labels[1].key")
        );
        assert!(read(&json!(["a"])).unwrap_err().contains("labels[0] must be an object"));
        assert!(
            read(&json!([{"key": "a", "value": 1}]))
                .unwrap_err()
                .contains("labels[0].value must be a string")
        );
    }
}
