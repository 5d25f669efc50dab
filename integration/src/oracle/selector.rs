//! Selectors: an expression over labels, which can be judged, and said in Calico's language.

use std::{collections::BTreeMap, fmt};

/// Labels of something.
pub type Labels = BTreeMap<String, String>;

/// An expression that either matches a thing by its labels or does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// `all()`.
    All,
    /// `global()`.
    Global,
    /// `has(key)`.
    Has(String),
    /// `key == 'value'`.
    Is(String, String),
    /// `key != 'value'`.
    IsNot(String, String),
    /// `key in {'value', ...}`.
    In(String, Vec<String>),
    /// `key not in {'value', ...}`.
    NotIn(String, Vec<String>),
    /// `key contains 'part'`.
    Contains(String, String),
    /// `key starts with 'part'`.
    StartsWith(String, String),
    /// `key ends with 'part'`.
    EndsWith(String, String),
    /// `!(...)`.
    Not(Box<Selector>),
    /// `(...) && (...)`.
    And(Box<Selector>, Box<Selector>),
    /// `(...) || (...)`.
    Or(Box<Selector>, Box<Selector>),
}

impl Selector {
    /// Whether it matches something of these labels.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.judge(labels, true, false)
    }

    /// Whether, as a `namespaceSelector`, it takes in what belongs to a namespace of these labels; `None`: what belongs
    /// to no namespace.
    pub fn takes_in(&self, namespace: Option<&Labels>) -> bool {
        let none = Labels::new();
        self.judge(namespace.unwrap_or(&none), namespace.is_some(), namespace.is_none())
    }

    fn judge(&self, labels: &Labels, all: bool, global: bool) -> bool {
        let judge = |inner: &Self| inner.judge(labels, all, global);
        let value = |key: &String| labels.get(key);
        match self {
            Self::All => all,
            Self::Global => global,
            Self::Has(key) => value(key).is_some(),
            Self::Is(key, wanted) => value(key) == Some(wanted),
            Self::IsNot(key, unwanted) => value(key) != Some(unwanted),
            Self::In(key, wanted) => value(key).is_some_and(|it| wanted.contains(it)),
            Self::NotIn(key, unwanted) => !value(key).is_some_and(|it| unwanted.contains(it)),
            Self::Contains(key, part) => value(key).is_some_and(|it| it.contains(part)),
            Self::StartsWith(key, part) => value(key).is_some_and(|it| it.starts_with(part)),
            Self::EndsWith(key, part) => value(key).is_some_and(|it| it.ends_with(part)),
            Self::Not(inner) => !judge(inner),
            Self::And(left, right) => judge(left) && judge(right),
            Self::Or(left, right) => judge(left) || judge(right),
        }
    }
}

/// Calico's language. No more parentheses are written than are needed, so that who reads it has to know what binds how.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |values: &[String]| {
            values.iter().map(|value| format!("'{value}'")).collect::<Vec<_>>().join(", ")
        };
        match self {
            Self::All => f.write_str("all()"),
            Self::Global => f.write_str("global()"),
            Self::Has(key) => write!(f, "has({key})"),
            Self::Is(key, value) => write!(f, "{key} == '{value}'"),
            Self::IsNot(key, value) => write!(f, "{key} != \"{value}\""),
            Self::In(key, values) => write!(f, "{key} in {{ {} }}", list(values)),
            Self::NotIn(key, values) => write!(f, "{key} not in {{{}}}", list(values)),
            Self::Contains(key, part) => write!(f, "{key} contains '{part}'"),
            Self::StartsWith(key, part) => write!(f, "{key} starts with '{part}'"),
            Self::EndsWith(key, part) => write!(f, "{key} ends with '{part}'"),
            Self::Not(inner) => match **inner {
                Self::And(..) | Self::Or(..) => write!(f, "!({inner})"),
                _ => write!(f, "!{inner}"),
            },
            Self::And(left, right) => {
                for (at, side) in [left, right].into_iter().enumerate() {
                    f.write_str(if at == 0 { "" } else { " && " })?;
                    match **side {
                        Self::Or(..) => write!(f, "({side})")?,
                        _ => write!(f, "{side}")?,
                    }
                }
                Ok(())
            }
            Self::Or(left, right) => write!(f, "{left} || {right}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn what_is_not_there_is_unlike_any_value() {
        let matches = |text: &str, pairs: &[(&str, &str)]| {
            Selector::read(text).expect("a selector").matches(&labels(pairs))
        };
        let red = [("colour", "red")];
        for (text, with, without) in [
            ("colour == 'red'", true, false),
            ("colour != 'red'", false, true),
            ("colour != 'blue'", true, true),
            ("has(colour)", true, false),
            ("!has(colour)", false, true),
            ("colour in {'red', 'blue'}", true, false),
            ("colour not in {'red'}", false, true),
            ("colour not in {'blue'}", true, true),
            ("colour contains 'e'", true, false),
            ("colour starts with 're'", true, false),
            ("colour ends with 're'", false, false),
            ("all()", true, true),
            ("!all()", false, false),
        ] {
            assert_eq!((matches(text, &red), matches(text, &[])), (with, without), "{text}");
        }
    }

    #[test]
    fn and_binds_closer_than_or_and_not_closest() {
        let text = "! has(my-label) || my-label starts with 'prod' && role in {'frontend','business'}";
        let selector = Selector::read(text).expect("a selector");
        for (pairs, expected) in [
            (&[][..], true),
            (&[("role", "x")][..], true),
            (&[("my-label", "prod-1")][..], false),
            (&[("my-label", "prod-1"), ("role", "business")][..], true),
            (&[("my-label", "test"), ("role", "business")][..], false),
        ] {
            assert_eq!(selector.matches(&labels(pairs)), expected, "{pairs:?}");
        }
    }

    #[test]
    fn global_is_what_belongs_to_no_namespace() {
        let there = labels(&[("a", "x")]);
        for (text, inside, outside) in [
            ("global()", false, true),
            ("all()", true, false),
            ("a == 'x'", true, false),
            ("a != 'x'", false, true),
        ] {
            let selector = Selector::read(text).expect("a selector");
            assert_eq!(
                (selector.takes_in(Some(&there)), selector.takes_in(None)),
                (inside, outside),
                "{text}"
            );
        }
    }
}
