//! Fields that hold DNS names.

use crate::field::Field;
use ipamd_model::{domain::DomainPattern, field::FieldError};

/// Reads a list of names, each of which may have `*.` in front.
pub(super) fn read<'a>(field: &'a Field<'a>, key: &'a str) -> Result<Vec<DomainPattern>, FieldError> {
    match field.get(key)? {
        Some(list) => list.items()?.map(|it| name(&it)).collect(),
        None => Ok(Vec::new()),
    }
}

/// Reads one.
pub(super) fn name(field: &Field<'_>) -> Result<DomainPattern, FieldError> {
    field.text()?.parse().map_err(|reason: String| field.refuse(reason))
}
