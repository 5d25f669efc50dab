//! The parser of selectors. `||` binds less than `&&`, and that less than `!`. It accepts and refuses what Calico does;
//! control characters in strings are refused too, because no label has them.

use std::{str::FromStr, sync::Arc};

use super::expression::Selector;
use crate::field::shown;

/// The most bytes of a text, without the blanks in between: so a selector as it is shown, which has its own, is not
/// too long where the text was not.
pub(super) const LONGEST: usize = 64 << 10;
/// The most tokens of a text.
pub(super) const MOST_TOKENS: usize = 10_000;
/// How deeply parentheses may be nested.
pub(super) const DEEPEST: usize = 64;
/// Longest key of a label, in bytes; Calico's bound.
pub(super) const LONGEST_KEY: usize = 512;

/// Why a text is no selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {reason}")]
pub struct SelectorError {
    /// Where, in characters from 1; for the end, one more than there are.
    pub column: usize,
    /// What is wrong there: a clause.
    pub reason: String,
}

impl FromStr for Selector {
    type Err = SelectorError;

    /// An empty text selects everything.
    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let mut reader = Reader { text, at: 0, depth: 0, tokens: 0, bytes: 0 };
        reader.skip_blanks();
        if reader.rest().is_empty() {
            return Ok(Self::All);
        }
        let selector = reader.alternatives()?;
        if reader.rest().is_empty() { Ok(selector) } else { Err(reader.expected("'&&' or '||'")) }
    }
}

struct Reader<'a> {
    text: &'a str,
    /// Byte that is read next.
    at: usize,
    depth: usize,
    /// Tokens that were passed over.
    tokens: usize,
    /// Bytes of those.
    bytes: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip_blanks(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches([' ', '\t']).len();
    }

    /// Passes over the token of this length that is next, and the blanks behind it.
    fn pass(&mut self, length: usize) -> Result<(), SelectorError> {
        self.tokens += 1;
        self.bytes += length;
        if self.tokens > MOST_TOKENS {
            return Err(self.error(format!("there are more than {MOST_TOKENS} tokens")));
        }
        if self.bytes > LONGEST {
            return Err(self.error(format!("there are more than {LONGEST} bytes, even without blanks")));
        }
        self.at += length;
        self.skip_blanks();
        Ok(())
    }

    /// Passes over a token, if it is next.
    fn take(&mut self, token: &str) -> Result<bool, SelectorError> {
        let found = self.rest().starts_with(token);
        if found {
            self.pass(token.len())?;
        }
        Ok(found)
    }

    fn need(&mut self, token: &str) -> Result<(), SelectorError> {
        if self.take(token)? { Ok(()) } else { Err(self.expected(&format!("'{token}'"))) }
    }

    fn error(&self, reason: impl Into<String>) -> SelectorError {
        let before = self.text.get(..self.at).unwrap_or_default();
        SelectorError { column: before.chars().count() + 1, reason: reason.into() }
    }

    fn expected(&self, what: &str) -> SelectorError {
        let found = match self.rest().chars().next() {
            None => "the end".to_owned(),
            Some('\n' | '\r') => "a line break: a selector is one line".to_owned(),
            Some('\'' | '"') => "a string".to_owned(),
            Some(_) if !self.word().is_empty() => shown(self.word()),
            Some(other) => format!("{other:?}"),
        };
        self.error(format!("expected {what}, found {found}"))
    }

    fn alternatives(&mut self) -> Result<Selector, SelectorError> {
        let mut any = vec![self.conjunction()?];
        while self.take("||")? {
            any.push(self.conjunction()?);
        }
        Ok(if any.len() == 1 { any.remove(0) } else { Selector::Or(any) })
    }

    fn conjunction(&mut self) -> Result<Selector, SelectorError> {
        let mut all = vec![self.operation()?];
        while self.take("&&")? {
            all.push(self.operation()?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Selector::And(all) })
    }

    fn operation(&mut self) -> Result<Selector, SelectorError> {
        let mut negated = false;
        while self.take("!")? {
            negated = !negated;
        }
        let selector = if self.rest().starts_with('(') {
            if self.depth == DEEPEST {
                return Err(self.error(format!("parentheses are nested deeper than {DEEPEST}")));
            }
            self.depth += 1;
            self.need("(")?;
            let inner = self.alternatives()?;
            if !self.take(")")? {
                return Err(self.expected("'&&', '||' or ')'"));
            }
            self.depth -= 1;
            inner
        } else {
            self.test()?
        };
        Ok(match selector {
            selector if !negated => selector,
            // Shown, these would be two negations in a row, of which nothing is left when they are read.
            Selector::Not(inner) => *inner,
            selector => Selector::Not(Box::new(selector)),
        })
    }

    /// The word that is next: characters that a key can be made of.
    fn word(&self) -> &'a str {
        let rest = self.rest();
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-');
        rest.find(|c| !is_part(c)).map_or(rest, |end| rest.get(..end).unwrap_or_default())
    }

    fn key(&mut self) -> Result<Arc<str>, SelectorError> {
        let key = self.word();
        if key.is_empty() {
            return Err(self.expected("the key of a label"));
        }
        if key.len() > LONGEST_KEY {
            return Err(self.error(format!("the key of a label is longer than {LONGEST_KEY} bytes")));
        }
        self.pass(key.len())?;
        Ok(key.into())
    }

    fn test(&mut self) -> Result<Selector, SelectorError> {
        let word = self.word();
        if word.is_empty() {
            return Err(self.expected("a label, has(), all(), global() or an expression in parentheses"));
        }
        // Functions are written without a blank before the parenthesis; as labels, their names are like any other.
        if self.rest().get(word.len()..).is_some_and(|behind| behind.starts_with('(')) {
            return self.function(word);
        }
        let key = self.key()?;
        self.comparison(key)
    }

    fn function(&mut self, name: &str) -> Result<Selector, SelectorError> {
        if !matches!(name, "all" | "global" | "has") {
            return Err(self.error(format!("{} is not a function", shown(name))));
        }
        self.pass(name.len())?;
        self.need("(")?;
        let selector = match name {
            "all" => Selector::All,
            "global" => Selector::Global,
            _ => Selector::Has(self.key()?),
        };
        self.need(")")?;
        Ok(selector)
    }

    fn comparison(&mut self, key: Arc<str>) -> Result<Selector, SelectorError> {
        if self.take("==")? {
            return Ok(Selector::Equals(key, self.string()?));
        }
        if self.take("!=")? {
            return Ok(Selector::NotEquals(key, self.string()?));
        }
        match self.word() {
            "contains" => {
                self.need("contains")?;
                Ok(Selector::Contains(key, self.string()?))
            }
            "starts" | "startswith" => {
                self.need("starts")?;
                self.need("with")?;
                Ok(Selector::StartsWith(key, self.string()?))
            }
            "ends" | "endswith" => {
                self.need("ends")?;
                self.need("with")?;
                Ok(Selector::EndsWith(key, self.string()?))
            }
            "in" => {
                self.need("in")?;
                Ok(Selector::In(key, self.set()?))
            }
            "not" | "notin" => {
                self.need("not")?;
                self.need("in")?;
                Ok(Selector::NotIn(key, self.set()?))
            }
            "" if self.rest().starts_with('=') => Err(self.error("\"=\" is not an operator, \"==\" is")),
            "" if self.rest().starts_with('(') => {
                Err(self.error("the '(' of a function stands right behind its name"))
            }
            "" => Err(self.expected("an operator")),
            word => Err(self.error(format!("{} is not an operator", shown(word)))),
        }
    }

    fn string(&mut self) -> Result<Arc<str>, SelectorError> {
        let rest = self.rest();
        let quote = rest.chars().next().filter(|c| matches!(c, '\'' | '"'));
        let Some(quote) = quote else { return Err(self.expected("a string in quotes")) };
        let inside = rest.get(1..).unwrap_or_default();
        let Some(end) = inside.find(quote) else {
            return Err(self.error("the string does not end"));
        };
        let text = inside.get(..end).unwrap_or_default();
        if text.contains(char::is_control) {
            return Err(self.error("there is a control character in the string, and in no label"));
        }
        self.pass(end + 2)?;
        Ok(text.into())
    }

    /// A set of strings; a comma may stand behind the last.
    fn set(&mut self) -> Result<Arc<[Arc<str>]>, SelectorError> {
        self.need("{")?;
        let mut values = Vec::new();
        while !self.take("}")? {
            values.push(self.string()?);
            if !self.take(",")? && !self.rest().starts_with('}') {
                return Err(self.expected("',' or '}'"));
            }
        }
        values.sort_unstable();
        values.dedup();
        Ok(values.into())
    }
}
