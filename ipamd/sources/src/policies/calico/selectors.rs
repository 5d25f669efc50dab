//! The fields that hold selectors.

use crate::field::Field;
use ipamd_model::{field::FieldError, selector::Selector};

/// A selector of labels; `None` where there is none. An empty text is none.
pub(super) fn labels<'a>(field: &'a Field<'a>, key: &'a str) -> Result<Option<Selector>, FieldError> {
    let Some((field, selector)) = parsed(field, key)? else { return Ok(None) };
    if has_global(&selector) {
        return Err(field.refuse("global() is for the namespaceSelector of a source or a destination only"));
    }
    Ok(Some(selector))
}

/// The `namespaceSelector` of a source or a destination: there, `global()` may stand, but alone.
pub(super) fn namespaces<'a>(field: &'a Field<'a>) -> Result<Option<Selector>, FieldError> {
    let Some((field, selector)) = parsed(field, "namespaceSelector")? else { return Ok(None) };
    if selector != Selector::Global && has_global(&selector) {
        return Err(field.refuse("global() must stand alone"));
    }
    Ok(Some(selector))
}

fn parsed<'a>(field: &'a Field<'a>, key: &'a str) -> Result<Option<(Field<'a>, Selector)>, FieldError> {
    let Some(field) = field.get(key)? else { return Ok(None) };
    let text = field.text()?;
    if text.is_empty() {
        return Ok(None);
    }
    match text.parse::<Selector>() {
        Ok(selector) => Ok(Some((field, selector))),
        Err(error) => Err(field.refuse(error.to_string())),
    }
}

/// Whether `global()` is anywhere in it. The parser bounds how deep it is.
fn has_global(selector: &Selector) -> bool {
    match selector {
        Selector::Global => true,
        Selector::Not(inner) => has_global(inner),
        Selector::And(all) | Selector::Or(all) => all.iter().any(has_global),
        Selector::All
        | Selector::Has(_)
        | Selector::Equals(..)
        | Selector::NotEquals(..)
        | Selector::In(..)
        | Selector::NotIn(..)
        | Selector::Contains(..)
        | Selector::StartsWith(..)
        | Selector::EndsWith(..) => false,
    }
}
