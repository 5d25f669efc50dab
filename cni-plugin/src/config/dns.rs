//! A `dns` section, of a configuration.

use crate::document::Field;
use crate::{error::CniError, result::Dns};

/// Reads it.
pub fn parse(section: &Field) -> Result<Dns, CniError> {
    section.object()?;
    Ok(Dns {
        nameservers: texts(&section.field("nameservers"))?,
        domain: section.field("domain").text()?.unwrap_or_default().to_owned(),
        search: texts(&section.field("search"))?,
        options: texts(&section.field("options"))?,
    })
}

/// The strings of a list.
pub fn texts(list: &Field) -> Result<Vec<String>, CniError> {
    let entries = list.list()?.unwrap_or_default();
    entries
        .iter()
        .map(|entry| entry.text()?.map(str::to_owned).ok_or_else(|| entry.must("must be a string")))
        .collect()
}
