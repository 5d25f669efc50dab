//! Names of the DNS in policies: a name, or all names below one.

use std::{fmt, str::FromStr, sync::Arc};

use serde::Serialize;

use crate::field::shown;

/// What a policy says of DNS names: one name, or with `*.` in front every name that has one label or more before it. In small letters,
/// without a dot at the end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct DomainPattern {
    /// The name, without `*.`.
    name: Arc<str>,
    /// Names below it are meant, and not itself.
    below: bool,
}

/// The number of a pattern in the programs' tables, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomainId(pub u16);

/// The longest name as text, without a dot at the end (RFC 1035, section 2.3.4: 255 bytes with the length bytes).
pub const LONGEST_DOMAIN: usize = 253;

/// The longest label (RFC 1035, section 2.3.4).
const LONGEST_LABEL: usize = 63;

impl DomainPattern {
    /// The name, without `*.`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether names below it are meant, and not itself.
    pub fn is_wildcard(&self) -> bool {
        self.below
    }

    /// Whether a name is meant. The name is in small letters, without a dot at the end.
    pub fn matches(&self, name: &str) -> bool {
        if !self.below {
            return name == &*self.name;
        }
        name.strip_suffix(&*self.name)
            .and_then(|rest| rest.strip_suffix('.'))
            .is_some_and(|rest| !rest.is_empty())
    }

    /// Whether every name that the other one means is meant by this one, too.
    pub fn includes(&self, other: &Self) -> bool {
        self == other || self.below && (self.matches(&other.name) || other.below && self.name == other.name)
    }

    /// The patterns that include this one, from the narrowest, without itself: `*.b.c` and `*.c` of `a.b.c`.
    pub fn wider(&self) -> impl Iterator<Item = Self> {
        let mut name = &*self.name;
        std::iter::from_fn(move || {
            let (_, below) = name.split_once('.')?;
            name = below;
            Some(Self { name: below.into(), below: true })
        })
    }

    /// The patterns that mean a name, from the narrowest: itself, then those with a star. The name is in small letters, without a dot at
    /// the end.
    pub fn of_name(name: &str) -> impl Iterator<Item = Self> {
        let exact = Self { name: name.into(), below: false };
        let wider: Vec<_> = exact.wider().collect();
        std::iter::once(exact).chain(wider)
    }

    /// The beginning of the reversed text of all names that are meant. A whole name is reversed and ends with a zero byte. So the longest
    /// pattern that means a name is the longest prefix in a trie.
    pub fn reversed(&self) -> Vec<u8> {
        reversed(&self.name, if self.below { b'.' } else { 0 })
    }
}

/// The reversed text of a name, with the last byte behind it.
fn reversed(name: &str, last: u8) -> Vec<u8> {
    name.bytes().rev().chain([last]).collect()
}

/// The reversed text of a whole name: the key that [`DomainPattern::reversed`] is a prefix of.
pub fn reversed_name(name: &str) -> Vec<u8> {
    reversed(name, 0)
}

impl FromStr for DomainPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let (name, below) = match lower.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (lower.as_str(), false),
        };
        let problem = if name.is_empty() {
            "it is empty"
        } else if name.len() > LONGEST_DOMAIN {
            "it is longer than 253 characters"
        } else if name.contains('*') {
            "a star stands only for the labels in front, as in \"*.example.com\""
        } else if name.split('.').any(|label| label.is_empty() || label.len() > LONGEST_LABEL) {
            "a label has 1 to 63 characters"
        } else if name.rsplit('.').next().is_some_and(|last| last.bytes().all(|it| it.is_ascii_digit())) {
            "it is an address or a part of one; write addresses as nets"
        } else if !name.bytes().all(|it| it.is_ascii_alphanumeric() || matches!(it, b'-' | b'_' | b'.')) {
            "a label has letters, digits, '-' and '_'; write other letters in their \"xn--\" form"
        } else {
            return Ok(Self { name: name.into(), below });
        };
        Err(format!("{} is not a DNS name that policies can have: {problem}", shown(text)))
    }
}

impl fmt::Display for DomainPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.below { "*." } else { "" }, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> DomainPattern {
        text.parse().unwrap()
    }

    #[test]
    fn a_star_stands_for_one_label_or_more() {
        let below = pattern("*.Example.com.");
        assert_eq!(below.to_string(), "*.example.com");
        for (name, meant) in [
            ("a.example.com", true),
            ("a.b.example.com", true),
            ("example.com", false),
            ("anexample.com", false),
        ] {
            assert_eq!(below.matches(name), meant, "{name}");
        }
        assert!(pattern("example.com").matches("example.com"));
        assert!(!pattern("example.com").matches("a.example.com"));
    }

    #[test]
    fn a_pattern_includes_the_narrower_ones() {
        assert!(pattern("*.com").includes(&pattern("*.example.com")));
        assert!(pattern("*.com").includes(&pattern("a.com")));
        assert!(!pattern("*.com").includes(&pattern("com")));
        assert!(!pattern("a.com").includes(&pattern("*.a.com")));
    }

    #[test]
    fn the_patterns_that_mean_a_name_follow_from_it() {
        let shown = |all: Vec<DomainPattern>| all.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(shown(DomainPattern::of_name("a.b.c").collect()), ["a.b.c", "*.b.c", "*.c"]);
        assert_eq!(shown(pattern("*.b.c").wider().collect()), ["*.c"]);
        assert_eq!(shown(pattern("c").wider().collect()), [""; 0]);
        for it in DomainPattern::of_name("a.b.c") {
            assert!(it.matches("a.b.c") && it.includes(&pattern("a.b.c")), "{it}");
        }
        assert!(pattern("*.b.c").wider().all(|it| it.includes(&pattern("*.b.c"))));
    }

    #[test]
    fn a_pattern_is_a_prefix_of_the_reversed_names_that_it_means() {
        let names = ["example.com", "a.example.com", "b.a.example.com", "xexample.com", "com"];
        for text in ["example.com", "*.example.com", "*.com", "a.example.com", "*.a.example.com"] {
            let pattern = pattern(text);
            for name in names {
                let prefix = reversed_name(name).starts_with(&pattern.reversed());
                assert_eq!(prefix, pattern.matches(name), "{text} {name}");
            }
        }
    }

    #[test]
    fn what_is_no_name_is_refused_with_the_reason() {
        for text in [
            "",
            ".",
            "*",
            "*.",
            "a..b",
            "update.*.com",
            "a b",
            "ä.de",
            "192.0.2.1",
            &"a".repeat(64),
            &"a.".repeat(128),
        ] {
            let refused = text.parse::<DomainPattern>().unwrap_err();
            assert!(refused.contains("DNS name"), "{refused}");
        }
    }
}
