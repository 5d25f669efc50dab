//! Reading a document field by field. Each value knows its path, so that an error can name it.

use std::fmt::Write as _;

use serde_json::{Map, Value};

pub use ipamd_model::field::{clipped, shown};

use ipamd_model::field::FieldError;

/// A value in a document.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    value: &'a Value,
    way: Way<'a>,
}

/// The path to a value.
#[derive(Clone, Copy, Debug)]
enum Way<'a> {
    Root,
    Key(&'a Field<'a>, &'a str),
    Item(&'a Field<'a>, usize),
}

impl<'a> Field<'a> {
    /// The document itself.
    pub fn root(value: &'a Value) -> Self {
        Self { value, way: Way::Root }
    }

    /// The value of a field; `None` where there is none, or it is null.
    pub fn get(&'a self, key: &'a str) -> Result<Option<Self>, FieldError> {
        let value = self.fields()?.get(key).filter(|it| !it.is_null());
        Ok(value.map(|value| Self { value, way: Way::Key(self, key) }))
    }

    /// The value of a field that must be there.
    pub fn need(&'a self, key: &'a str) -> Result<Self, FieldError> {
        self.get(key)?.ok_or_else(|| FieldError { field: self.path_to(key), reason: "is missing".into() })
    }

    /// All fields.
    pub fn each_field(&'a self) -> Result<impl Iterator<Item = (&'a str, Self)>, FieldError> {
        let fields = self.fields()?;
        Ok(fields.iter().map(|(key, value)| (key.as_str(), Self { value, way: Way::Key(self, key) })))
    }

    /// The items of a list.
    pub fn items(&'a self) -> Result<impl Iterator<Item = Self>, FieldError> {
        let Value::Array(items) = self.value else { return Err(self.is_not("a list")) };
        Ok(items.iter().enumerate().map(|(at, value)| Self { value, way: Way::Item(self, at) }))
    }

    /// A text.
    pub fn text(&self) -> Result<&'a str, FieldError> {
        match self.value {
            Value::String(text) => Ok(text),
            Value::Bool(_) | Value::Number(_) => {
                Err(self.refuse(format!("{} is not a string; quotes make it one", self.value)))
            }
            _ => Err(self.is_not("a string")),
        }
    }

    /// The text of a field that may be left out; an empty one is as good as none.
    pub fn optional_text(&'a self, key: &'a str) -> Result<Option<&'a str>, FieldError> {
        Ok(match self.get(key)? {
            Some(it) => Some(it.text()?).filter(|text| !text.is_empty()),
            None => None,
        })
    }

    /// A whole number.
    pub fn integer(&self) -> Result<i64, FieldError> {
        self.value.as_i64().ok_or_else(|| self.is_not("a whole number"))
    }

    /// A truth value.
    pub fn truth(&self) -> Result<bool, FieldError> {
        self.value.as_bool().ok_or_else(|| self.is_not("true or false"))
    }

    /// The value itself.
    pub fn value(&self) -> &'a Value {
        self.value
    }

    /// Refuses fields that are not known.
    pub fn only(&self, known: &[&str]) -> Result<(), FieldError> {
        match self.fields()?.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(FieldError { field: self.path_to(key), reason: "is not known".into() }),
            None => Ok(()),
        }
    }

    /// An error that says what is wrong with this value.
    pub fn refuse(&self, reason: impl Into<String>) -> FieldError {
        FieldError { field: self.path(), reason: reason.into() }
    }

    /// An error that says what was wanted instead of this value.
    pub fn is_not(&self, wanted: &str) -> FieldError {
        self.refuse(match self.value {
            Value::Array(_) => format!("is a list, not {wanted}"),
            Value::Object(_) => format!("is a mapping, not {wanted}"),
            Value::Null => format!("is null, not {wanted}"),
            Value::String(text) => format!("{} is not {wanted}", shown(text)),
            value => format!("{value} is not {wanted}"),
        })
    }

    /// The way to it, such as `spec.ingress[0].from`.
    pub fn path(&self) -> String {
        match self.way {
            Way::Root => String::new(),
            Way::Key(up, key) => up.path_to(key),
            Way::Item(up, at) => {
                let mut path = up.path();
                // Writing into a String does not fail.
                let _ = write!(path, "[{at}]");
                path
            }
        }
    }

    fn path_to(&self, key: &str) -> String {
        let mut path = self.path();
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(&plain(key));
        path
    }

    fn fields(&self) -> Result<&'a Map<String, Value>, FieldError> {
        self.value.as_object().ok_or_else(|| self.is_not("a mapping"))
    }
}

/// A key for a message, not long. It may be anybody's, and messages are shown on terminals.
pub fn plain(key: &str) -> String {
    let key = clipped(key);
    if key.contains(is_obeyed) { key.escape_debug().collect() } else { key }
}

/// Whether a sign ends a line, or is one that a terminal obeys.
fn is_obeyed(sign: char) -> bool {
    sign.is_control()
        || matches!(sign, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_error_names_the_field_and_what_is_there() {
        let document = json!({"a": {"b": [{"c": 1}, true, "x", null]}});
        let root = Field::root(&document);
        let a = root.need("a").unwrap();
        let b = a.need("b").unwrap();
        let items: Vec<_> = b.items().unwrap().collect();
        let said = |result: Result<&str, FieldError>| result.unwrap_err().to_string();
        assert_eq!(said(items[0].text()), "a.b[0]: is a mapping, not a string");
        assert_eq!(said(items[1].text()), "a.b[1]: true is not a string; quotes make it one");
        assert_eq!(items[2].integer().unwrap_err().to_string(), "a.b[2]: \"x\" is not a whole number");
        assert_eq!(items[0].only(&["d"]).unwrap_err().to_string(), "a.b[0].c: is not known");
        assert_eq!(a.need("d").unwrap_err().to_string(), "a.d: is missing");
        let document = json!({"a": {"b\u{1b}[31m\n": 1, "\u{e4}": 2}});
        let a = Field::root(&document);
        let a = a.need("a").unwrap();
        assert_eq!(a.only(&["\u{e4}"]).unwrap_err().to_string(), r"a.b\u{1b}[31m\n: is not known");
        assert_eq!(shown(&"\u{7}x".repeat(200)).len(), 40 * ("\\u{7}x".len()) + 5);
    }
}
