//! Labels of objects, held small: clusters have many.

use std::{cmp::Ordering, collections::BTreeMap, fmt, sync::Arc};

use serde::{Serialize, Serializer};

/// Labels, ordered by key.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(Arc<Packed>);

/// All keys and values in one text: each for itself would take as much room again.
#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Packed {
    /// Key, value, key, value.
    text: Box<str>,
    /// Where each key ends in the text, and where its value does.
    ends: Box<[(u32, u32)]>,
}

impl Packed {
    /// One of them by its number.
    fn at(&self, number: usize) -> Option<(&str, &str)> {
        let (key, value) = *self.ends.get(number)?;
        let before = number.checked_sub(1).and_then(|before| self.ends.get(before));
        let begin = before.map_or(0, |(_, end)| *end as usize);
        let text = |from, to| self.text.get(from..to);
        Some((text(begin, key as usize)?, text(key as usize, value as usize)?))
    }
}

impl Labels {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        let (mut low, mut high) = (0, self.0.ends.len());
        while low < high {
            let middle = low.midpoint(high);
            let (k, value) = self.0.at(middle)?;
            match k.cmp(key) {
                Ordering::Equal => return Some(value),
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        (0..self.0.ends.len()).filter_map(|number| self.0.at(number))
    }
}

impl<K: AsRef<str>, V: AsRef<str>> FromIterator<(K, V)> for Labels {
    /// Of several values of one key the last counts.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(labels: I) -> Self {
        let labels: Vec<_> = labels.into_iter().collect();
        let ordered: BTreeMap<&str, &str> =
            labels.iter().map(|(key, value)| (key.as_ref(), value.as_ref())).collect();
        let (mut text, mut ends) = (String::new(), Vec::with_capacity(ordered.len()));
        // An object has some 1.5 MB at most.
        let end = |text: &String| u32::try_from(text.len()).unwrap_or(u32::MAX);
        for (key, value) in ordered {
            text.push_str(key);
            let key = end(&text);
            text.push_str(value);
            ends.push((key, end(&text)));
        }
        Self(Arc::new(Packed { text: text.into(), ends: ends.into() }))
    }
}

impl From<&BTreeMap<String, String>> for Labels {
    fn from(labels: &BTreeMap<String, String>) -> Self {
        labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (key, value)) in self.iter().enumerate() {
            write!(f, "{}{key}={value}", if at == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_found_by_key_whatever_their_order() {
        let labels: Labels = [("b", "2"), ("a", "1"), ("c", "3"), ("b", "4")].into_iter().collect();
        assert_eq!((labels.get("a"), labels.get("b"), labels.get("d")), (Some("1"), Some("4"), None));
        assert_eq!(labels.to_string(), "a=1,b=4,c=3");
    }

    #[test]
    fn keys_and_values_do_not_run_into_each_other() {
        let of = |labels: &[(&str, &str)]| labels.iter().copied().collect::<Labels>();
        let labels = of(&[("a", ""), ("ab", "c"), ("", "x")]);
        assert_eq!(labels.iter().collect::<Vec<_>>(), [("", "x"), ("a", ""), ("ab", "c")]);
        let found = ["", "a", "ab", "abc", "b"].map(|key| labels.get(key));
        assert_eq!(found, [Some("x"), Some(""), Some("c"), None, None]);
        assert_ne!(of(&[("a", "bc")]), of(&[("ab", "c")]));
        assert_eq!((Labels::default().get(""), Labels::default().iter().count()), (None, 0));
    }
}
