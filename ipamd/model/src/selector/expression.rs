//! Expressions over labels, and what they are evaluated on.

use std::sync::Arc;

use serde::Serialize;

/// An expression over labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Selector {
    /// `all()`
    All,
    /// `global()`: what belongs to no namespace. Only in namespace selectors.
    Global,
    /// `has(key)`
    Has(Arc<str>),
    /// `key == 'value'`
    Equals(Arc<str>, Arc<str>),
    /// `key != 'value'`: also where there is no such label.
    NotEquals(Arc<str>, Arc<str>),
    /// `key in {'a', 'b'}`; the values are ordered and each is there once.
    In(Arc<str>, Arc<[Arc<str>]>),
    /// `key not in {'a', 'b'}`: also where there is no such label.
    NotIn(Arc<str>, Arc<[Arc<str>]>),
    /// `key contains 'text'`
    Contains(Arc<str>, Arc<str>),
    /// `key starts with 'text'`
    StartsWith(Arc<str>, Arc<str>),
    /// `key ends with 'text'`
    EndsWith(Arc<str>, Arc<str>),
    /// `!expression`
    Not(Box<Selector>),
    /// `a && b`; at least two.
    And(Vec<Selector>),
    /// `a || b`; at least two.
    Or(Vec<Selector>),
}

/// What a selector is evaluated on.
pub trait Subject {
    /// The value of a label; `None` if there is no such label.
    fn label(&self, key: &str) -> Option<&str>;

    /// Whether it belongs to a namespace: decides `all()` and `global()` in a namespace selector.
    fn in_namespace(&self) -> bool {
        true
    }
}
