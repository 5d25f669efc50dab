//! JSON whose every field knows its path, so that each complaint names field and value.

use std::{borrow::Cow, ops::RangeInclusive};

use serde_json::{Map, Value};

use crate::{error::CniError, text::cut, version::CniVersion};

/// The most of a value that an error quotes, in bytes.
const MAX_QUOTE: usize = 200;

/// A decoded configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Document(Value);

impl Document {
    /// Decodes a JSON object.
    pub fn decode(bytes: &[u8]) -> Result<Self, CniError> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(CniError::Undecodable("it is empty".to_owned()));
        }
        match serde_json::from_slice(bytes) {
            Ok(object @ Value::Object(_)) => Ok(Self(object)),
            Ok(other) => {
                Err(CniError::Undecodable(format!("it must be a JSON object, not {}", quote(&other))))
            }
            Err(error) => Err(CniError::Undecodable(error.to_string())),
        }
    }

    /// The field of that name.
    pub fn field<'a>(&'a self, name: &'a str) -> Field<'a> {
        Field { path: Cow::Borrowed(name), value: self.0.get(name).filter(|value| !value.is_null()) }
    }

    /// `cniVersion`: the configuration's, if it is one of ours. A configuration without one is of version 0.1.0.
    pub fn version(&self) -> Result<CniVersion, CniError> {
        let text = match self.field("cniVersion").value {
            None => "0.1.0",
            Some(Value::String(text)) => text,
            Some(other) => {
                return Err(CniError::Undecodable(format!(
                    "cniVersion must be a string, not {}",
                    quote(other)
                )));
            }
        };
        CniVersion::parse(text)
            .ok_or_else(|| CniError::IncompatibleVersion { found: shorten(text.to_owned()) })
    }
}

/// One field, present or not; null counts as absent.
#[derive(Clone, Debug)]
pub struct Field<'a> {
    path: Cow<'a, str>,
    value: Option<&'a Value>,
}

impl<'a> Field<'a> {
    /// What is given, as it is.
    pub fn value(&self) -> Option<&'a Value> {
        self.value
    }

    /// Whether nothing is given.
    pub fn is_absent(&self) -> bool {
        self.value.is_none()
    }

    /// Whether what is given says nothing.
    pub fn is_blank(&self) -> bool {
        self.value.is_none_or(super::is_blank)
    }

    /// The field of that name inside this one; absent if this is no object.
    pub fn field(&self, name: &str) -> Field<'a> {
        let value = self.value.and_then(|value| value.get(name)).filter(|value| !value.is_null());
        Field { path: Cow::Owned(format!("{}.{name}", self.path)), value }
    }

    /// The fields, which must be an object's.
    pub fn object(&self) -> Result<Option<&'a Map<String, Value>>, CniError> {
        match self.value {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(fields)),
            Some(_) => Err(self.must("must be an object")),
        }
    }

    /// The string.
    pub fn text(&self) -> Result<Option<&'a str>, CniError> {
        match self.value {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.must("must be a string")),
        }
    }

    /// The whole number, which must lie in `range`.
    pub fn number_in(&self, range: RangeInclusive<u32>) -> Result<Option<u32>, CniError> {
        let Some(value) = self.value else { return Ok(None) };
        match value
            .as_u64()
            .and_then(|number| u32::try_from(number).ok())
            .filter(|number| range.contains(number))
        {
            Some(number) => Ok(Some(number)),
            None => {
                Err(self.must(&format!("must be a whole number from {} to {}", range.start(), range.end())))
            }
        }
    }

    /// The entries of the list.
    pub fn array(&self) -> Result<Option<impl Iterator<Item = Field<'a>> + use<'_, 'a>>, CniError> {
        match self.value {
            None => Ok(None),
            Some(Value::Array(values)) => Ok(Some(values.iter().enumerate().map(|(index, value)| Field {
                path: Cow::Owned(format!("{}[{index}]", self.path)),
                value: Some(value).filter(|value| !value.is_null()),
            }))),
            Some(_) => Err(self.must("must be a list")),
        }
    }

    /// The complaint that this field is not what it must be.
    pub fn must(&self, wanted: &str) -> CniError {
        CniError::InvalidConfig {
            field: self.path.clone().into_owned(),
            wanted: wanted.to_owned(),
            value: self.quoted(),
        }
    }

    /// The complaint that Cambric does not do what this field asks for.
    pub fn unsupported(&self, reason: &'static str) -> CniError {
        CniError::UnsupportedField { key: self.path.clone().into_owned(), value: self.quoted(), reason }
    }

    fn quoted(&self) -> String {
        self.value.map_or_else(|| "nothing".to_owned(), quote)
    }
}

fn quote(value: &Value) -> String {
    shorten(value.to_string())
}

fn shorten(mut text: String) -> String {
    if text.len() > MAX_QUOTE {
        cut(&mut text, MAX_QUOTE);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(bytes: &[u8]) -> String {
        let error = Document::decode(bytes).unwrap_err();
        assert_eq!(error.code(), 6);
        error.to_string()
    }

    #[test]
    fn only_an_object_is_a_configuration() {
        assert!(why(b"").ends_with("it is empty"));
        assert!(why(b" \n").ends_with("it is empty"));
        assert!(why(b"[1]").ends_with("it must be a JSON object, not [1]"));
        assert!(why(b"null").ends_with("not null"));
        assert!(why(b"{\"a\":").contains("EOF"));
        assert!(why(b"{} {}").contains("trailing"));
        assert!(why(b"{\"a\": \"\xff\"}").contains("line 1"));
        assert!(why("[".repeat(100_000).as_bytes()).contains("recursion limit"));
    }

    #[test]
    fn long_values_are_quoted_in_part() {
        let document =
            Document::decode(format!("{{\"name\": [\"{}\"]}}", "ä".repeat(500)).as_bytes()).unwrap();
        let text = document.field("name").text().unwrap_err().to_string();
        assert!(text.len() < 300 && text.ends_with('…'), "{text}");
    }
}
