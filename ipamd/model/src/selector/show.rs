//! A selector as text; parsing the text gives the same selector.

use std::fmt;

use super::expression::Selector;

/// How tightly an expression binds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Binding {
    Or,
    And,
    Not,
}

/// A string in quotes; the language knows no escapes.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quote = if self.0.contains('\'') { '"' } else { '\'' };
        write!(f, "{quote}{}{quote}", self.0)
    }
}

/// An expression within one that binds as tightly as this.
struct Within<'a>(&'a Selector, Binding);

impl fmt::Display for Within<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(selector, outer) = self;
        let inner = match selector {
            Selector::Or(_) => Binding::Or,
            Selector::And(_) => Binding::And,
            _ => return write!(f, "{selector}"),
        };
        if inner > *outer { write!(f, "{selector}") } else { write!(f, "({selector})") }
    }
}

fn list<T: fmt::Display>(
    f: &mut fmt::Formatter<'_>,
    items: impl IntoIterator<Item = T>,
    between: &str,
) -> fmt::Result {
    for (at, item) in items.into_iter().enumerate() {
        write!(f, "{}{item}", if at == 0 { "" } else { between })?;
    }
    Ok(())
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all()"),
            Self::Global => f.write_str("global()"),
            Self::Has(key) => write!(f, "has({key})"),
            Self::Equals(key, value) => write!(f, "{key} == {}", Quoted(value)),
            Self::NotEquals(key, value) => write!(f, "{key} != {}", Quoted(value)),
            Self::In(key, values) => {
                write!(f, "{key} in {{")?;
                list(f, values.iter().map(|it| Quoted(it)), ", ")?;
                f.write_str("}")
            }
            Self::NotIn(key, values) => {
                write!(f, "{key} not in {{")?;
                list(f, values.iter().map(|it| Quoted(it)), ", ")?;
                f.write_str("}")
            }
            Self::Contains(key, text) => write!(f, "{key} contains {}", Quoted(text)),
            Self::StartsWith(key, text) => write!(f, "{key} starts with {}", Quoted(text)),
            Self::EndsWith(key, text) => write!(f, "{key} ends with {}", Quoted(text)),
            Self::Not(inner) => write!(f, "!{}", Within(inner, Binding::Not)),
            Self::And(all) => list(f, all.iter().map(|it| Within(it, Binding::And)), " && "),
            Self::Or(any) => list(f, any.iter().map(|it| Within(it, Binding::Or)), " || "),
        }
    }
}
