//! Kubernetes' label selectors.

use std::sync::Arc;

use crate::field::{Field, shown};
use ipamd_model::{field::FieldError, selector::Selector};

/// Reads a label selector; an empty one selects everything.
pub(in crate::policies) fn selector(field: &Field<'_>) -> Result<Selector, FieldError> {
    field.only(&["matchLabels", "matchExpressions"])?;
    let mut all = Vec::new();
    if let Some(labels) = field.get("matchLabels")? {
        for (key, value) in labels.each_field()? {
            check_key(key, &value)?;
            all.push(Selector::Equals(key.into(), self::value(&value)?.into()));
        }
    }
    if let Some(expressions) = field.get("matchExpressions")? {
        for expression in expressions.items()? {
            all.push(requirement(&expression)?);
        }
    }
    Ok(match all.len() {
        0 => Selector::All,
        1 => all.remove(0),
        _ => Selector::And(all),
    })
}

fn requirement(field: &Field<'_>) -> Result<Selector, FieldError> {
    field.only(&["key", "operator", "values"])?;
    let key_place = field.need("key")?;
    let key = key_place.text()?;
    check_key(key, &key_place)?;
    let key: Arc<str> = key.into();
    let mut values: Vec<Arc<str>> = Vec::new();
    let list = field.get("values")?;
    if let Some(list) = &list {
        for item in list.items()? {
            values.push(value(&item)?.into());
        }
    }
    values.sort_unstable();
    values.dedup();
    let operator = field.need("operator")?;
    match (operator.text()?, values.is_empty()) {
        ("In", false) => Ok(Selector::In(key, values.into())),
        ("NotIn", false) => Ok(Selector::NotIn(key, values.into())),
        ("Exists", true) => Ok(Selector::Has(key)),
        ("DoesNotExist", true) => Ok(Selector::Not(Box::new(Selector::Has(key)))),
        (name @ ("In" | "NotIn"), true) => Err(FieldError {
            field: format!("{}.values", field.path()),
            reason: format!("the operator {name} needs at least one"),
        }),
        (name @ ("Exists" | "DoesNotExist"), false) => {
            Err(list.unwrap_or(*field).refuse(format!("the operator {name} has none")))
        }
        (other, _) => {
            Err(operator.refuse(format!("{} is not one of In, NotIn, Exists and DoesNotExist", shown(other))))
        }
    }
}

/// The value of a label: at most 63 characters.
fn value<'a>(field: &Field<'a>) -> Result<&'a str, FieldError> {
    let text = field.text()?;
    if text.is_empty() || is_name(text) {
        return Ok(text);
    }
    Err(field.refuse(format!("{} cannot be the value of a label", shown(text))))
}

/// The key of a label: a name, with or without a domain before it.
fn check_key(key: &str, field: &Field<'_>) -> Result<(), FieldError> {
    let (domain, name) = match key.split_once('/') {
        Some((domain, name)) => (Some(domain), name),
        None => (None, key),
    };
    let is_part = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    if is_name(name) && domain.is_none_or(|it| it.len() <= 253 && it.split('.').all(is_part)) {
        return Ok(());
    }
    Err(field.refuse(format!("{} cannot be the key of a label", shown(key))))
}

fn is_name(text: &str) -> bool {
    let edge = |c: Option<&u8>| c.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
}
