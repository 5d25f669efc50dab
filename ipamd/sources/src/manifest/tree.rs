//! A document as a tree; every node has its line.

use serde_json::{Map, Number, Value};

/// A value in a document.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    /// The line that it begins on, from 1; of a field's value, the line of the field.
    pub line: u32,
    pub tree: Tree,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Tree {
    Null,
    Bool(bool),
    Number(Number),
    Text(Box<str>),
    List(Vec<Node>),
    /// In the order of the file; no key is there twice.
    Fields(Vec<(Box<str>, Node)>),
}

impl Node {
    /// The value of a field; `None` where there is no such field, or it is null.
    pub fn field(&self, key: &str) -> Option<&Self> {
        let Tree::Fields(fields) = &self.tree else { return None };
        fields
            .iter()
            .find(|(name, _)| **name == *key)
            .map(|(_, node)| node)
            .filter(|it| it.tree != Tree::Null)
    }

    /// Its text, if it is one.
    pub fn text(&self) -> Option<&str> {
        match &self.tree {
            Tree::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The line of the field at a path such as `spec.ingress[0].ports`, or of what is there of the way to it.
    pub fn line_of(&self, path: &str) -> u32 {
        let (mut at, mut rest) = (self, path);
        while !rest.is_empty() {
            let next = match &at.tree {
                Tree::Fields(fields) => fields
                    .iter()
                    .filter_map(|(key, node)| Some((key.len(), node, after_key(rest, key)?)))
                    // Keys of labels hold dots: the longest that fits is meant.
                    .max_by_key(|(length, ..)| *length)
                    .map(|(_, node, rest)| (node, rest)),
                Tree::List(items) => {
                    after_index(rest).and_then(|(index, rest)| Some((items.get(index)?, rest)))
                }
                _ => None,
            };
            let Some(next) = next else { break };
            (at, rest) = next;
        }
        at.line
    }

    /// How many nodes it is made of, and how many bytes of text.
    pub fn weight(&self) -> (usize, usize) {
        let sum = |(nodes, bytes), (more_nodes, more_bytes)| (nodes + more_nodes, bytes + more_bytes);
        match &self.tree {
            Tree::Text(text) => (1, text.len()),
            Tree::List(items) => items.iter().map(Self::weight).fold((1, 0), sum),
            Tree::Fields(fields) => {
                fields.iter().map(|(key, node)| sum((0, key.len()), node.weight())).fold((1, 0), sum)
            }
            Tree::Null | Tree::Bool(_) | Tree::Number(_) => (1, 0),
        }
    }

    /// The same without lines.
    pub fn value(&self) -> Value {
        match &self.tree {
            Tree::Null => Value::Null,
            Tree::Bool(it) => Value::Bool(*it),
            Tree::Number(it) => Value::Number(it.clone()),
            Tree::Text(it) => Value::String(it.to_string()),
            Tree::List(items) => Value::Array(items.iter().map(Self::value).collect()),
            Tree::Fields(fields) => Value::Object(
                fields.iter().map(|(key, node)| (key.to_string(), node.value())).collect::<Map<_, _>>(),
            ),
        }
    }
}

/// What follows a key in a path, if the path begins with it.
fn after_key<'a>(path: &'a str, key: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(key)?;
    match rest.as_bytes().first() {
        None | Some(b'[') => Some(rest),
        Some(b'.') => Some(&rest[1..]),
        Some(_) => None,
    }
}

/// The index that a path begins with, and what follows it.
fn after_index(path: &str) -> Option<(usize, &str)> {
    let (index, rest) = path.strip_prefix('[')?.split_once(']')?;
    Some((index.parse().ok()?, rest.strip_prefix('.').unwrap_or(rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(line: u32, tree: Tree) -> Node {
        Node { line, tree }
    }

    #[test]
    fn a_path_leads_to_its_line_or_to_the_nearest_above_it() {
        let port = node(5, Tree::Fields(vec![("port".into(), node(6, Tree::Null))]));
        let list = node(4, Tree::List(vec![port]));
        let labels = node(
            8,
            Tree::Fields(vec![("a.b".into(), node(9, Tree::Null)), ("a".into(), node(10, Tree::Null))]),
        );
        let root = node(1, Tree::Fields(vec![("ports".into(), list), ("labels".into(), labels)]));
        for (path, line) in [
            ("", 1),
            ("ports", 4),
            ("ports[0]", 5),
            ("ports[0].port", 6),
            ("ports[0].endPort", 5),
            ("ports[1].port", 4),
            ("ports[x]", 4),
            ("port", 1),
            ("labels.a.b", 9),
            ("labels.a", 10),
            ("labels.a.c", 10),
            ("labels[0]", 8),
            ("]..[", 1),
        ] {
            assert_eq!(root.line_of(path), line, "{path}");
        }
    }
}
