//! Which interfaces may be uplinks, as the configuration says.

use std::str::FromStr;

use serde::Deserialize;

/// The longest name of an interface.
const NAME_MAX: usize = 15;

/// What the configuration says of uplinks. With neither, each interface that leads out of the node is one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UplinkRule {
    /// The uplinks by name, if they are not to be found out.
    pub named: Vec<String>,
    /// The interfaces that are none, whatever they carry.
    pub excluded: Vec<IfnamePattern>,
}

/// The name of an interface, or how the names of several begin: `eth9`, `docker*`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct IfnamePattern {
    name: String,
    /// Whether more may follow.
    begins: bool,
}

impl IfnamePattern {
    /// Whether an interface of that name is meant.
    pub fn is_of(&self, name: &str) -> bool {
        if self.begins { name.starts_with(&self.name) } else { name == self.name }
    }
}

impl FromStr for IfnamePattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, begins) = match text.strip_suffix('*') {
            Some(name) => (name, true),
            None => (text, false),
        };
        let is_name = |name: &str| {
            name.len() <= NAME_MAX && !name.contains(|it: char| it == '/' || it == '*' || it.is_whitespace())
        };
        if name.is_empty() || !is_name(name) {
            return Err(format!(
                "{text:?} is neither the name of an interface nor the beginning of one with a * behind it, such as eth9 \
                 or docker*"
            ));
        }
        Ok(Self { name: name.to_owned(), begins })
    }
}

impl TryFrom<String> for IfnamePattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_a_name_or_the_beginning_of_names() {
        let is_of = |pattern: &str, name| pattern.parse::<IfnamePattern>().unwrap().is_of(name);
        assert!(is_of("eth9", "eth9") && !is_of("eth9", "eth90"));
        assert!(is_of("docker*", "docker0") && is_of("docker*", "docker") && !is_of("docker*", "br-docker"));
        for wrong in ["", "*", "e*th", "**", "a/b", "two words", "a-name-of-16-byt"] {
            assert!(wrong.parse::<IfnamePattern>().unwrap_err().contains(wrong), "{wrong:?}");
        }
    }
}
