//! The documents of a file, one after the other. Nesting, nodes and bytes are bounded, including those that aliases
//! repeat.

use std::{
    collections::{HashMap, HashSet},
    panic::{AssertUnwindSafe, catch_unwind},
};

use saphyr_parser::{BufferedInput, Event, Parser, ScalarStyle, Span, Tag};

use super::{
    bounded_chars::{AHEAD, BoundedChars, Meter},
    scalar,
    tree::{Node, Tree},
};
use crate::field::shown;

/// How deep lists and mappings may lie in each other.
pub(super) const DEPTH: usize = 64;
/// How many values a document may have.
pub(super) const NODES: usize = 2_000_000;
/// How many bytes of text a document may have.
pub(super) const BYTES: usize = 64 << 20;

/// What is wrong with a document or a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub line: u32,
    pub reason: String,
}

/// One step through a file.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// A document.
    Document(Node),
    /// A document that says something that no manifest may say; there may be more after it.
    Malformed(Fault),
    /// This is not YAML from here on. Nothing follows.
    Syntax(Fault),
}

/// Reads a file.
pub(super) struct Documents<'a> {
    /// `None` once nothing follows.
    parser: Option<Parser<'a, BufferedInput<BoundedChars<'a>>>>,
    meter: Meter,
    text: &'a str,
    first: Option<Fault>,
}

impl<'a> Documents<'a> {
    pub fn of(text: &'a str) -> Self {
        // The parser would take a NUL for the end of the file, and what follows it for nothing.
        let nul = text.find('\0').map(|at| Fault {
            line: line(text[..at].bytes().filter(|byte| *byte == b'\n').count() + 1),
            reason: "there is a NUL character".into(),
        });
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let (chars, meter) = BoundedChars::new(text);
        Self { parser: Some(Parser::new_from_iter(chars)), meter, text, first: nul }
    }

    /// The next event; `None` at the end.
    fn event(&mut self) -> Option<Result<(Event<'a>, Span), Fault>> {
        let parser = self.parser.as_mut()?;
        // A parser that panics on a file has said no more than that the file is bad.
        let event = catch_unwind(AssertUnwindSafe(|| parser.next_event()));
        let event = match event {
            Ok(event) => event?.map_err(|error| Fault {
                // What ends too early is reported behind the end.
                line: line(error.marker().line().min(self.text.lines().count())),
                reason: format!("{} (column {})", error.info(), error.marker().col() + 1),
            }),
            Err(_) => Err(Fault { line: 1, reason: "the YAML parser has failed on this file".into() }),
        };
        // It has been told that the file ends here.
        let event = if self.meter.overrun() {
            let reason =
                format!("a {{...}}, [...] or text here has more than {AHEAD} commas, colons and brackets");
            Err(Fault {
                line: event.map_or_else(|fault| fault.line, |(_, span)| line(span.start.line())),
                reason,
            })
        } else {
            event
        };
        self.meter.renew();
        if event.is_err() {
            self.parser = None;
        }
        Some(event)
    }
}

impl Iterator for Documents<'_> {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if let Some(fault) = self.first.take() {
            self.parser = None;
            return Some(Step::Syntax(fault));
        }
        let mut builder = Builder::default();
        let mut fault = None;
        loop {
            match self.event()? {
                Err(fault) => return Some(Step::Syntax(fault)),
                Ok((Event::DocumentEnd, _)) => {
                    return Some(match (fault, builder.root) {
                        (Some(fault), _) => Step::Malformed(fault),
                        (None, Some(root)) => Step::Document(root),
                        (None, None) => Step::Document(Node { line: 1, tree: Tree::Null }),
                    });
                }
                // The rest of a document at fault is passed over.
                Ok(_) if fault.is_some() => {}
                Ok((event, span)) => {
                    let line = line(span.start.line());
                    if let Err(reason) = builder.take(event, line) {
                        fault = Some(Fault { line: builder.at_fault.unwrap_or(line), reason });
                        builder = Builder::default();
                    }
                }
            }
        }
    }
}

/// Puts a document together from its events.
#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    root: Option<Node>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    bytes: usize,
    /// The line of the fault where that is not the event's.
    at_fault: Option<u32>,
}

/// A list or a mapping whose end is not read yet.
struct Open {
    line: u32,
    anchor: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Fields { read: Vec<(Box<str>, Node)>, key: Option<(Box<str>, u32)> },
}

impl Builder {
    fn take(&mut self, event: Event<'_>, line: u32) -> Result<(), String> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.spend(1, text.len())?;
                let tree = typed(&text, style, tag.as_deref())?;
                if self.wants_key() {
                    return self.take_key(&text, line);
                }
                self.put(Node { line, tree }, anchor)
            }
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor);
                let node = node.ok_or("this alias is of nothing that this document has before it")?.clone();
                let (nodes, bytes) = node.weight();
                self.spend(nodes, bytes)?;
                if self.wants_key() {
                    let text = node.text().ok_or("a key must be a string")?;
                    return self.take_key(text, line);
                }
                self.put(Node { line, ..node }, 0)
            }
            Event::SequenceStart(anchor, tag) => {
                known(tag.as_deref(), &["seq"])?;
                self.begin(Open { line, anchor, content: Content::List(Vec::new()) })
            }
            Event::MappingStart(anchor, tag) => {
                known(tag.as_deref(), &["map"])?;
                let content = Content::Fields { read: Vec::new(), key: None };
                self.begin(Open { line, anchor, content })
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(()),
        }
    }

    fn wants_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { content: Content::Fields { key: None, .. }, .. }))
    }

    fn take_key(&mut self, text: &str, line: u32) -> Result<(), String> {
        if text == "<<" {
            return Err("merge keys (<<) are not understood: repeat what is meant".into());
        }
        if let Some(Open { content: Content::Fields { key, .. }, .. }) = self.open.last_mut() {
            *key = Some((text.into(), line));
        }
        Ok(())
    }

    fn begin(&mut self, open: Open) -> Result<(), String> {
        self.spend(1, 0)?;
        if self.wants_key() {
            return Err("a key must be a string".into());
        }
        if self.open.len() == DEPTH {
            return Err(format!("there are more than {DEPTH} lists and mappings in each other"));
        }
        self.open.push(open);
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let tree = match open.content {
            Content::List(mut items) => {
                items.shrink_to_fit();
                Tree::List(items)
            }
            Content::Fields { mut read, .. } => {
                let mut seen = HashSet::with_capacity(read.len());
                if let Some((key, again)) = read.iter().find(|(key, _)| !seen.insert(key)) {
                    self.at_fault = Some(again.line);
                    return Err(format!("the key {key:?} is there twice"));
                }
                read.shrink_to_fit();
                Tree::Fields(read)
            }
        };
        self.put(Node { line: open.line, tree }, open.anchor)
    }

    /// Puts a finished value where it belongs.
    fn put(&mut self, mut node: Node, anchor: usize) -> Result<(), String> {
        if anchor != 0 {
            let (nodes, bytes) = node.weight();
            self.spend(nodes, bytes)?;
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut().map(|open| &mut open.content) {
            None => self.root = Some(node),
            Some(Content::List(items)) => items.push(node),
            Some(Content::Fields { read, key }) => {
                let (key, line) = key.take().ok_or("a value has no key")?;
                node.line = line;
                read.push((key, node));
            }
        }
        Ok(())
    }

    fn spend(&mut self, nodes: usize, bytes: usize) -> Result<(), String> {
        self.nodes += nodes;
        self.bytes += bytes;
        if self.nodes > NODES || self.bytes > BYTES {
            return Err(format!(
                "the document has more than {NODES} values or {} MiB of text, those that aliases repeat counted",
                BYTES >> 20
            ));
        }
        Ok(())
    }
}

/// What a scalar means.
fn typed(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Tree, String> {
    known(tag, &["str", "int", "float", "bool", "null"])?;
    let is_text = tag.is_some_and(|tag| tag.suffix == "str" || tag.handle.is_empty());
    Ok(match style {
        ScalarStyle::Plain if !is_text => scalar::plain(text),
        _ if tag.is_some() && !is_text => scalar::plain(text),
        _ => Tree::Text(text.into()),
    })
}

/// Refuses tags that say more than the value itself does.
fn known(tag: Option<&Tag>, known: &[&str]) -> Result<(), String> {
    match tag {
        // A lone `!` says: no guessing.
        Some(tag) if tag.handle.is_empty() && tag.suffix == "!" => Ok(()),
        Some(tag) if !(tag.is_yaml_core_schema() && known.contains(&tag.suffix.as_str())) => {
            Err(format!("the tag {} is not understood", shown(&format!("{}{}", tag.handle, tag.suffix))))
        }
        _ => Ok(()),
    }
}

fn line(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX).max(1)
}
