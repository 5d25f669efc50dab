//! What a server tells, read: pages of lists, and events of watches.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use kube::Client;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    collection::Collection,
    exchange::{self, Lines, Packing},
    failure::{Failure, Status},
    seen::Seen,
};

/// What marks the end of the list in a stream.
const END_OF_LIST: &str = "k8s.io/initial-events-end";

/// A part of a list.
#[derive(Debug)]
pub(super) struct Page {
    pub version: String,
    pub items: Vec<Seen>,
    /// What to ask for the rest with.
    pub rest: Option<String>,
}

/// What happens to an object.
#[derive(Debug)]
pub(super) enum Event {
    /// It is there.
    Added(Seen),
    /// It is another than it was.
    Modified(Seen),
    /// It is gone.
    Gone(Seen),
    /// Nothing happened until this version.
    Bookmark { version: String, ends_list: bool },
}

/// A watch that the server has begun to answer.
#[derive(Debug)]
pub(super) struct Watch(Lines);

#[derive(Deserialize)]
struct List {
    metadata: Metadata,
    // Go has two empty lists.
    items: Option<Vec<Seen>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    resource_version: String,
    r#continue: String,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct Bookmark {
    metadata: Metadata,
}

/// Asks for a part of a list, and waits so long for each piece of it.
pub(super) async fn page(
    client: &Client,
    collection: &Collection,
    limit: Option<u32>,
    rest: Option<&str>,
    patience: Duration,
) -> Result<Page, Failure> {
    let request = collection.list(limit, rest)?;
    let text = exchange::get(client, request, Packing::Gzip, patience).await?.whole(patience).await?;
    let list: List = serde_json::from_slice(&text).map_err(|error| garbage(&error, &text))?;
    let Metadata { resource_version: version, r#continue: rest, .. } = list.metadata;
    if version.is_empty() {
        return Err(Failure::Garbage("a list has no resourceVersion".into()));
    }
    Ok(Page { version, items: list.items.unwrap_or_default(), rest: Some(rest).filter(|it| !it.is_empty()) })
}

impl Watch {
    /// Asks for what happens after a version, and waits so long for the answer to begin.
    pub async fn begin(
        client: &Client,
        collection: &Collection,
        version: &str,
        with_list: bool,
        patience: Duration,
    ) -> Result<Self, Failure> {
        let request = collection.watch(version, with_list)?;
        Ok(Self(exchange::get(client, request, Packing::Plain, patience).await?.lines()))
    }

    /// The next event; `None` when the server has ended the watch. Waits so long for something to come.
    pub async fn next(&mut self, patience: Duration) -> Result<Option<Event>, Failure> {
        self.0.next(patience).await?.map(event).transpose()
    }
}

fn event(line: &[u8]) -> Result<Event, Failure> {
    let Line { kind, object } = serde_json::from_slice(line).map_err(|error| {
        // Some send a refusal as it is.
        match serde_json::from_slice::<Status>(line) {
            Ok(status) if status.code != 0 => Failure::Refused(status.into()),
            _ => garbage(&error, line),
        }
    })?;
    let unread = |error| garbage(&error, line);
    match &*kind {
        "ADDED" => whole(object).map(Event::Added),
        "MODIFIED" => whole(object).map(Event::Modified),
        "DELETED" => whole(object).map(Event::Gone),
        "BOOKMARK" => {
            let Bookmark { metadata } = serde_json::from_str(object.get()).map_err(unread)?;
            if metadata.resource_version.is_empty() {
                return Err(Failure::Garbage("a bookmark has no resourceVersion".into()));
            }
            let annotations = metadata.annotations.unwrap_or_default();
            let ends_list = annotations.get(END_OF_LIST).is_some_and(|it| it == "true");
            Ok(Event::Bookmark { version: metadata.resource_version, ends_list })
        }
        "ERROR" => {
            let status: Status = serde_json::from_str(object.get()).map_err(unread)?;
            Err(Failure::Refused(status.into()))
        }
        _ => Err(Failure::Garbage(format!("a watch has an event of the type {kind:?}"))),
    }
}

/// An object of an event, which can be told from others and from its other states.
fn whole(object: &RawValue) -> Result<Seen, Failure> {
    let text = object.get();
    let seen: Seen = serde_json::from_str(text).map_err(|error| garbage(&error, text.as_bytes()))?;
    if seen.key().is_empty() || seen.version().is_empty() {
        return Err(Failure::Garbage("an object of a watch has no name or no resourceVersion".into()));
    }
    Ok(seen)
}

fn garbage(error: &serde_json::Error, text: &[u8]) -> Failure {
    const MOST: usize = 80;
    let begins = String::from_utf8_lossy(&text[..text.len().min(MOST)]);
    Failure::Garbage(format!("{error}, in what begins with {begins:?}"))
}

#[cfg(test)]
mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_whatever_the_order_of_their_fields() {
        let object = r#"{"metadata":{"name":"a","namespace":"ns","resourceVersion":"7"}}"#;
        for (kind, put) in [("ADDED", true), ("MODIFIED", true), ("DELETED", false)] {
            for line in [
                format!(r#"{{"type":"{kind}","object":{object}}}"#),
                format!(r#"{{"object":{object},"type":"{kind}"}}"#),
            ] {
                match event(line.as_bytes()).unwrap() {
                    Event::Added(seen) | Event::Modified(seen) => assert!(put && &*seen.key() == "ns/a"),
                    Event::Gone(seen) => assert!(!put && seen.version() == "7"),
                    Event::Bookmark { .. } => panic!("{line}"),
                }
            }
        }
    }

    #[test]
    fn only_the_marked_bookmark_ends_a_list() {
        for (annotations, ends) in [
            ("{}", false),
            ("null", false),
            (r#"{"k8s.io/initial-events-end":"true"}"#, true),
            (r#"{"k8s.io/initial-events-end":"false"}"#, false),
        ] {
            let line = format!(
                r#"{{"type":"BOOKMARK","object":{{"kind":"Pod","metadata":{{"resourceVersion":"9","annotations":{annotations}}}}}}}"#
            );
            let Event::Bookmark { version, ends_list } = event(line.as_bytes()).unwrap() else { panic!() };
            assert_eq!((&*version, ends_list), ("9", ends), "{line}");
        }
    }

    #[test]
    fn refusals_inside_a_stream_are_refusals_and_the_rest_is_garbage() {
        for line in [
            r#"{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old"}}"#,
            r#"{"kind":"Status","code":410,"message":"too old"}"#,
        ] {
            assert!(event(line.as_bytes()).unwrap_err().is_expired(), "{line}");
        }
        for line in [
            "{",
            "null",
            "[]",
            "7",
            "\u{7f}ELF",
            r#"{"type":"NOVEL","object":{}}"#,
            r#"{"type":"ADDED"}"#,
            r#"{"type":"ADDED","object":{"metadata":{"name":"a"}}}"#,
            r#"{"type":"ADDED","object":{"metadata":{"resourceVersion":"7"}}}"#,
            r#"{"type":"BOOKMARK","object":{"metadata":{}}}"#,
        ] {
            assert!(matches!(event(line.as_bytes()), Err(Failure::Garbage(_))), "{line}");
        }
    }
}
