//! Reads Calico's language of selectors.

use super::selector::Selector;

/// Text that is no selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotASelector;

impl Selector {
    /// Reads Calico's language.
    pub fn read(text: &str) -> Result<Self, NotASelector> {
        let mut rest = Rest(text.trim_start());
        let selector = rest.either()?;
        if rest.0.is_empty() { Ok(selector) } else { Err(NotASelector) }
    }
}

/// What is still to be read, without space before it.
struct Rest<'a>(&'a str);

impl Rest<'_> {
    fn take(&mut self, token: &str) -> bool {
        match self.0.strip_prefix(token) {
            Some(rest) => {
                self.0 = rest.trim_start();
                true
            }
            None => false,
        }
    }

    fn need(&mut self, token: &str) -> Result<(), NotASelector> {
        if self.take(token) { Ok(()) } else { Err(NotASelector) }
    }

    fn either(&mut self) -> Result<Selector, NotASelector> {
        let mut left = self.both()?;
        while self.take("||") {
            left = Selector::Or(Box::new(left), Box::new(self.both()?));
        }
        Ok(left)
    }

    fn both(&mut self) -> Result<Selector, NotASelector> {
        let mut left = self.one()?;
        while self.take("&&") {
            left = Selector::And(Box::new(left), Box::new(self.one()?));
        }
        Ok(left)
    }

    fn one(&mut self) -> Result<Selector, NotASelector> {
        if self.take("!") {
            return Ok(Selector::Not(Box::new(self.one()?)));
        }
        if self.take("(") {
            let inner = self.either()?;
            self.need(")")?;
            return Ok(inner);
        }
        if self.take("all()") {
            return Ok(Selector::All);
        }
        if self.take("global()") {
            return Ok(Selector::Global);
        }
        if self.take("has(") {
            let key = self.key()?;
            self.need(")")?;
            return Ok(Selector::Has(key));
        }
        let key = self.key()?;
        if self.take("==") {
            return Ok(Selector::Is(key, self.value()?));
        }
        if self.take("!=") {
            return Ok(Selector::IsNot(key, self.value()?));
        }
        if self.take("not in") {
            return Ok(Selector::NotIn(key, self.values()?));
        }
        if self.take("in") {
            return Ok(Selector::In(key, self.values()?));
        }
        if self.take("contains") {
            return Ok(Selector::Contains(key, self.value()?));
        }
        if self.take("starts with") {
            return Ok(Selector::StartsWith(key, self.value()?));
        }
        if self.take("ends with") {
            return Ok(Selector::EndsWith(key, self.value()?));
        }
        Err(NotASelector)
    }

    fn key(&mut self) -> Result<String, NotASelector> {
        let ends = |c: char| !(c.is_ascii_alphanumeric() || "-_./".contains(c));
        let (key, rest) = self.0.split_at(self.0.find(ends).unwrap_or(self.0.len()));
        self.0 = rest.trim_start();
        if key.is_empty() { Err(NotASelector) } else { Ok(key.to_owned()) }
    }

    fn value(&mut self) -> Result<String, NotASelector> {
        let quote = self.0.chars().next().filter(|c| "'\"".contains(*c)).ok_or(NotASelector)?;
        let (value, rest) = self.0[1..].split_once(quote).ok_or(NotASelector)?;
        self.0 = rest.trim_start();
        Ok(value.to_owned())
    }

    fn values(&mut self) -> Result<Vec<String>, NotASelector> {
        self.need("{")?;
        let mut values = Vec::new();
        while !self.take("}") {
            values.push(self.value()?);
            self.take(",");
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_the_same() {
        for text in [
            "all()",
            "!global()",
            "has(projectcalico.org/name) && !a == 'x' || b in { 'x', 'y' }",
            "(a == 'x' || b != \"y\") && c not in {}",
            "!(a contains 'x' && b starts with '' || c ends with 'z')",
        ] {
            let selector = Selector::read(text).expect(text);
            assert_eq!(selector.to_string(), text);
            assert_eq!(Selector::read(&selector.to_string()), Ok(selector));
        }
    }

    #[test]
    fn what_is_none_is_not_read() {
        for text in ["", "a", "a ==", "a == x", "(a == 'x'", "a == 'x' &&", "a == 'x' b", "in {'a'}"] {
            assert_eq!(Selector::read(text), Err(NotASelector), "{text}");
        }
    }
}
