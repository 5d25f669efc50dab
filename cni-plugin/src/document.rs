//! JSON whose every field knows its path, so that each complaint names field and value.
//!
//! Runtimes are written in Go and marshal structs of their own, some without tags, and Go's plugins read that by
//! `encoding/json`. So this reads as that does, in one place for everything that a runtime writes:
//!
//! - a key is a field's whatever its case;
//! - members are decoded in the order of the text, each into the same variable. So of two for one number or string the last
//!   counts, two objects are one with the members of both, and of two lists the last counts, its entries joined with those
//!   of the first, for Go decodes them in place;
//! - `null` leaves numbers, strings and objects as they are, empties a list, and takes back what a pointer leads to;
//! - a number with a fraction or an exponent is none for an integer, and a string is none either.
//!
//! What no Go program writes is refused rather than mended: invalid UTF-8, halves of surrogate pairs.

use std::{borrow::Cow, ops::RangeInclusive};

use serde_json::{Map, Value};

use crate::json::{Json, is_key_of};
use crate::{error::CniError, text::cut, version::CniVersion};

/// The most of a value that an error quotes, in bytes.
const MAX_QUOTE: usize = 200;

/// A decoded configuration, or an object inside one.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Where it stands: empty for the whole.
    path: String,
    root: Json,
}

impl Document {
    /// Decodes a JSON object.
    pub fn decode(bytes: &[u8]) -> Result<Self, CniError> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(CniError::Undecodable("it is empty".to_owned()));
        }
        match serde_json::from_slice(bytes) {
            Ok(root @ Json::Object(_)) => Ok(Self { path: String::new(), root }),
            Ok(other) => {
                Err(CniError::Undecodable(format!("it must be a JSON object, not {}", quote(&other))))
            }
            Err(error) => Err(CniError::Undecodable(error.to_string())),
        }
    }

    /// The object that Go writes of a map, which stands at `path`.
    pub fn of_map(path: &str, map: Map<String, Value>) -> Self {
        Self { path: path.to_owned(), root: Value::Object(map).into() }
    }

    /// The whole as a field.
    pub fn root(&self) -> Field<'_> {
        Field { path: Cow::Borrowed(&self.path), values: vec![&self.root] }
    }

    /// The field of that name.
    pub fn field(&self, name: &str) -> Field<'_> {
        self.root().field(name)
    }

    /// `cniVersion`: the configuration's, if it is one of ours. A configuration without one is of version 0.1.0.
    pub fn version(&self) -> Result<CniVersion, CniError> {
        let field = self.field("cniVersion");
        let text = field.text().map_err(|_| {
            CniError::Undecodable(format!("cniVersion must be a string, not {}", field.quoted()))
        })?;
        let text = text.filter(|text| !text.is_empty()).unwrap_or("0.1.0");
        CniVersion::parse(text)
            .ok_or_else(|| CniError::IncompatibleVersion { found: shorten(text.to_owned()) })
    }
}

/// One field, present or not; null counts as absent.
#[derive(Clone, Debug)]
pub struct Field<'a> {
    path: Cow<'a, str>,
    /// Every value that is given for it, in the order of the text.
    values: Vec<&'a Json>,
}

impl<'a> Field<'a> {
    /// Whether nothing is given.
    pub fn is_absent(&self) -> bool {
        self.values.iter().all(|value| value.is_null())
    }

    /// Whether the key is there, even if it is with null: Go writes null for a list without entries.
    pub fn is_given(&self) -> bool {
        !self.values.is_empty()
    }

    /// Whether what is given says nothing.
    pub fn is_blank(&self) -> bool {
        self.values.iter().all(|value| value.is_blank())
    }

    /// The path to it.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The field of that name inside this one; absent if this is no object.
    pub fn field(&self, name: &str) -> Field<'a> {
        let members = self.values.iter().filter_map(|value| match value {
            Json::Object(members) => Some(members),
            _ => None,
        });
        let values = members.flatten().filter(|(key, _)| is_key_of(name, key)).map(|(_, value)| value);
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        Field { path: Cow::Owned(path), values: values.collect() }
    }

    /// The field as Go reads it by way of a pointer: null takes back what came before.
    pub fn pointer(&self) -> Field<'a> {
        let after = self.values.iter().rposition(|value| value.is_null()).map_or(0, |null| null + 1);
        Field { path: self.path.clone(), values: self.values[after..].to_vec() }
    }

    /// Every member inside this one, by its key.
    pub fn members(&self) -> impl Iterator<Item = (&'a str, Field<'a>)> {
        let members = self.values.iter().filter_map(|value| match value {
            Json::Object(members) => Some(members),
            _ => None,
        });
        members.flatten().map(|(key, value)| {
            (key.as_str(), Field { path: Cow::Owned(format!("{}.{key}", self.path)), values: vec![value] })
        })
    }

    /// Whether it is an object, which it must be if it is anything.
    pub fn object(&self) -> Result<bool, CniError> {
        let is_object = |value: &Json| matches!(value, Json::Object(_)).then_some(());
        Ok(self.last("must be an object", is_object)?.is_some())
    }

    /// As Go decodes it into a map: of members with the same key the last stays.
    pub fn map(&self) -> Result<Option<Map<String, Value>>, CniError> {
        let mut map = None;
        for value in &self.values {
            match value.to_value() {
                Value::Null => map = None,
                Value::Object(members) => map.get_or_insert_with(Map::new).extend(members),
                _ => return Err(self.with(value).must("must be an object")),
            }
        }
        Ok(map)
    }

    /// The string.
    pub fn text(&self) -> Result<Option<&'a str>, CniError> {
        self.last("must be a string", |value| match value {
            Json::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// The whole number, which must lie in `range`.
    pub fn number_in(&self, range: RangeInclusive<u32>) -> Result<Option<u32>, CniError> {
        let wanted = format!("must be a whole number from {} to {}", range.start(), range.end());
        let number = self.last(&wanted, |value| match value {
            Json::Number(number) => number.as_i64(),
            _ => None,
        })?;
        let Some(number) = number else { return Ok(None) };
        match u32::try_from(number).ok().filter(|number| range.contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.must(&wanted)),
        }
    }

    /// The entries of the list. Null is no list.
    pub fn list(&self) -> Result<Option<Vec<Field<'a>>>, CniError> {
        let mut entries: Option<Vec<Vec<&'a Json>>> = None;
        let mut length = 0;
        for value in &self.values {
            match value {
                Json::Null => entries = None,
                Json::List(list) => {
                    let entries = entries.get_or_insert_with(Vec::new);
                    if list.is_empty() {
                        entries.clear();
                    }
                    entries.resize(entries.len().max(list.len()), Vec::new());
                    for (values, value) in entries.iter_mut().zip(list) {
                        values.push(value);
                    }
                    length = list.len();
                }
                _ => return Err(self.with(value).must("must be a list")),
            }
        }
        Ok(entries.map(|entries| {
            let numbered = entries.into_iter().take(length).enumerate();
            let path = |index| Cow::Owned(format!("{}[{index}]", self.path));
            numbered.map(|(index, values)| Field { path: path(index), values }).collect()
        }))
    }

    /// The complaint that this field is not what it must be.
    pub fn must(&self, wanted: &str) -> CniError {
        let (field, wanted) = (self.path.clone().into_owned(), wanted.to_owned());
        if self.is_absent() {
            return CniError::MissingConfig { field, wanted };
        }
        CniError::InvalidConfig { field, wanted, value: self.quoted() }
    }

    /// The complaint that Cambric does not do what this field asks for.
    pub fn unsupported(&self, reason: &'static str) -> CniError {
        CniError::UnsupportedField { key: self.path.clone().into_owned(), value: self.quoted(), reason }
    }

    /// What `read` makes of the last value; it must make something of each.
    fn last<T>(&self, wanted: &str, read: impl Fn(&'a Json) -> Option<T>) -> Result<Option<T>, CniError> {
        let mut last = None;
        for value in self.values.iter().filter(|value| !value.is_null()) {
            last = Some(read(value).ok_or_else(|| self.with(value).must(wanted))?);
        }
        Ok(last)
    }

    /// The field with one of its values only.
    fn with(&self, value: &'a Json) -> Self {
        Field { path: self.path.clone(), values: vec![value] }
    }

    fn quoted(&self) -> String {
        let last = self.values.iter().rfind(|value| !value.is_null());
        last.map_or_else(|| "null".to_owned(), |value| quote(value))
    }
}

fn quote(value: &Json) -> String {
    // Strings and numbers always serialize.
    shorten(serde_json::to_string(value).unwrap_or_default())
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

    fn decode(text: &str) -> Document {
        Document::decode(text.as_bytes()).unwrap()
    }

    #[test]
    fn of_two_members_for_one_field_the_later_counts() {
        let text = |document: &str| decode(document).field("name").text().unwrap().map(str::to_owned);
        assert_eq!(text(r#"{"name": "a", "NAME": "b"}"#).as_deref(), Some("b"));
        assert_eq!(text(r#"{"NAME": "b", "name": "a"}"#).as_deref(), Some("a"));
        assert_eq!(text(r#"{"name": "a", "Name": null}"#).as_deref(), Some("a"));
        assert_eq!(text(r#"{"Name": null}"#), None);
        assert!(decode(r#"{"name": "a", "Name": 1}"#).field("name").text().is_err());
        assert!(decode(r#"{"name": 1, "Name": "a"}"#).field("name").text().is_err());
    }

    #[test]
    fn two_objects_are_one_and_the_later_list_lies_over_the_earlier() {
        let document = decode(
            r#"{"o": {"a": 1, "b": 2}, "O": {"B": 3}, "l": [{"a": 1, "b": 2}, {"a": 4}], "L": [{"a": 3}]}"#,
        );
        let number = |field: Field, name: &str| field.field(name).number_in(0..=9).unwrap();
        assert_eq!(number(document.field("o"), "a"), Some(1));
        assert_eq!(number(document.field("o"), "b"), Some(3));
        let list = document.field("l").list().unwrap().unwrap();
        assert_eq!(list.len(), 1);
        assert_eq!((number(list[0].clone(), "a"), number(list[0].clone(), "b")), (Some(3), Some(2)));
    }

    #[test]
    fn null_empties_a_list_and_is_still_given() {
        let document = decode(r#"{"l": [1], "L": null, "m": null, "e": [1], "E": []}"#);
        assert!(document.field("l").list().unwrap().is_none() && document.field("l").is_given());
        assert!(document.field("m").list().unwrap().is_none() && document.field("m").is_given());
        assert_eq!(document.field("e").list().unwrap().unwrap().len(), 0);
        assert!(!document.field("n").is_given());
    }

    #[test]
    fn an_integer_is_written_as_one() {
        for text in ["1.0", "1e3", "\"1\"", "true", "[]", "{}"] {
            let document = decode(&format!("{{\"mtu\": {text}}}"));
            let error = document.field("mtu").number_in(0..=2000).unwrap_err().to_string();
            assert!(error.contains("mtu must be a whole number from 0 to 2000, not "), "{error}");
        }
    }

    #[test]
    fn what_is_missing_is_said_to_be_missing() {
        for text in ["{}", r#"{"name": null}"#] {
            let error = decode(text).field("name").must("must be a name").to_string();
            assert!(error.ends_with("name is missing; it must be a name"), "{error}");
        }
    }
}
