//! The parts of a rule, which come in lists.

use crate::field::{Field, plain};
use ipamd_model::field::FieldError;

/// Most entries of each list.
const MOST: usize = 25;

/// A part of a rule.
pub(super) enum Part<T> {
    Known(T),
    /// It is of a kind that is not known: which field, and what it is.
    Unknown(FieldError),
}

/// The parts of a list if all of them are known; else the first that is not.
pub(super) fn known<T>(parts: Vec<Part<T>>) -> Result<Vec<T>, FieldError> {
    let each = parts.into_iter().map(|part| match part {
        Part::Known(part) => Ok(part),
        Part::Unknown(error) => Err(error),
    });
    each.collect()
}

/// A part that has none of the fields that are known: it is empty, for the API server drops what it does not know, or has
/// another one.
pub(super) fn unknown(field: &Field<'_>, what: &str, kinds: &[&str]) -> Option<FieldError> {
    let fields = field.value().as_object()?;
    if fields.keys().any(|key| kinds.contains(&key.as_str())) {
        return None;
    }
    let field =
        fields.keys().next().map_or_else(|| field.path(), |key| format!("{}.{}", field.path(), plain(key)));
    Some(FieldError { field, reason: format!("is {what} of a kind that this version does not know") })
}

/// The entries of a list, of which there must be at least one.
pub(super) fn some<T>(
    list: &Field<'_>,
    items: impl Iterator<Item = Result<T, FieldError>>,
) -> Result<Vec<T>, FieldError> {
    let items = at_most(list, items)?;
    if items.is_empty() { Err(list.refuse("there is none")) } else { Ok(items) }
}

/// The entries of a list.
pub(super) fn at_most<T>(
    list: &Field<'_>,
    items: impl Iterator<Item = Result<T, FieldError>>,
) -> Result<Vec<T>, FieldError> {
    let items: Vec<T> = items.take(MOST + 1).collect::<Result<_, _>>()?;
    if items.len() > MOST {
        return Err(list.refuse(format!("there are more than {MOST}")));
    }
    Ok(items)
}
