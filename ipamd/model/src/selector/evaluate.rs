//! Whether a selector selects.

use std::sync::Arc;

use super::expression::{Selector, Subject};

/// What `all()` and `global()` mean.
#[derive(Clone, Copy)]
enum Sphere {
    /// Selecting items: `all()` is everything, `global()` nothing.
    Items,
    /// Selecting namespaces: `all()` is whatever has one, `global()` what has none.
    Namespaces,
}

impl Selector {
    /// Whether it selects an item by its labels: `all()` selects each, `global()` none.
    pub fn matches(&self, subject: &(impl Subject + ?Sized)) -> bool {
        self.holds(subject, Sphere::Items)
    }

    /// Whether it selects an item by the labels of its namespace: `all()` selects what has a namespace, `global()` what
    /// has none.
    pub fn matches_namespace(&self, subject: &(impl Subject + ?Sized)) -> bool {
        self.holds(subject, Sphere::Namespaces)
    }

    fn holds(&self, subject: &(impl Subject + ?Sized), sphere: Sphere) -> bool {
        let is = |key: &str, test: &dyn Fn(&str) -> bool| subject.label(key).is_some_and(test);
        match self {
            Self::All => match sphere {
                Sphere::Items => true,
                Sphere::Namespaces => subject.in_namespace(),
            },
            Self::Global => match sphere {
                Sphere::Items => false,
                Sphere::Namespaces => !subject.in_namespace(),
            },
            Self::Has(key) => subject.label(key).is_some(),
            Self::Equals(key, value) => is(key, &|it| it == &**value),
            Self::NotEquals(key, value) => !is(key, &|it| it == &**value),
            Self::In(key, values) => is(key, &|it| contains(values, it)),
            Self::NotIn(key, values) => !is(key, &|it| contains(values, it)),
            Self::Contains(key, text) => is(key, &|it| it.contains(&**text)),
            Self::StartsWith(key, text) => is(key, &|it| it.starts_with(&**text)),
            Self::EndsWith(key, text) => is(key, &|it| it.ends_with(&**text)),
            Self::Not(inner) => !inner.holds(subject, sphere),
            Self::And(all) => all.iter().all(|inner| inner.holds(subject, sphere)),
            Self::Or(any) => any.iter().any(|inner| inner.holds(subject, sphere)),
        }
    }

    /// The keys of all labels that are looked at.
    pub fn keys(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match self {
            Self::All | Self::Global => Box::new(std::iter::empty()),
            Self::Has(key)
            | Self::Equals(key, _)
            | Self::NotEquals(key, _)
            | Self::In(key, _)
            | Self::NotIn(key, _)
            | Self::Contains(key, _)
            | Self::StartsWith(key, _)
            | Self::EndsWith(key, _) => Box::new(std::iter::once(&**key)),
            Self::Not(inner) => inner.keys(),
            Self::And(all) | Self::Or(all) => Box::new(all.iter().flat_map(Self::keys)),
        }
    }

    /// A label, with its value, without which nothing is selected: the first that is found, if one is.
    pub fn needs(&self) -> Option<(&str, &str)> {
        match self {
            Self::Equals(key, value) => Some((key, value)),
            Self::In(key, values) => match &**values {
                [value] => Some((key, value)),
                _ => None,
            },
            Self::And(all) => all.iter().find_map(Self::needs),
            _ => None,
        }
    }
}

fn contains(values: &[Arc<str>], value: &str) -> bool {
    values.binary_search_by(|known| (**known).cmp(value)).is_ok()
}
