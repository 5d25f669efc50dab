//! Parsing of answers: pages of lists, and events of watches.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use kube::Client;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{
    collection::Collection,
    failure::{Failure, Status},
    pruned_object::PrunedObject,
    request::{self, Lines, Packing},
    types::Type,
};

/// The annotation that marks the end of a streamed list.
const END_OF_LIST: &str = "k8s.io/initial-events-end";

/// A page of a list.
#[derive(Debug)]
pub(super) struct Page {
    pub version: String,
    pub items: Vec<PrunedObject>,
    /// The continue token for the next page.
    pub rest: Option<String>,
}

/// An event of a watch, as the server sends it.
#[derive(Debug)]
pub(super) enum WireEvent {
    /// ADDED.
    Added(PrunedObject),
    /// MODIFIED.
    Modified(PrunedObject),
    /// DELETED.
    Deleted(PrunedObject),
    /// BOOKMARK: nothing else has changed up to this version.
    Bookmark { version: String, ends_list: bool },
}

/// A watch whose answer has begun.
#[derive(Debug)]
pub(super) struct Watch {
    lines: Lines,
    /// The type of its objects.
    object: Type,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct List {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    metadata: Metadata,
    // An answer without this field is no list.
    #[serde(default, deserialize_with = "present")]
    items: Option<Items>,
}

/// Go encodes an empty list as [] or as null.
#[derive(Deserialize)]
struct Items(Option<Vec<PrunedObject>>);

/// Marks a field as present, whatever its value.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

impl List {
    /// Checks that this is a list of such objects, and returns it as a page.
    fn page(self, object: &Type) -> Result<Page, Failure> {
        object.list().check(&Type { kind: self.kind, api_version: self.api_version })?;
        let Metadata { resource_version: version, r#continue: rest, .. } = self.metadata;
        if version.is_empty() {
            return Err(Failure::Garbage("a list has no resourceVersion".into()));
        }
        let Some(Items(items)) = self.items else {
            return Err(Failure::Garbage("a list has no items, not even none".into()));
        };
        let items = items.unwrap_or_default();
        for pruned in &items {
            object.check_item(pruned.types())?;
            if pruned.key().is_empty() {
                return Err(Failure::Garbage("an object of a list has no name".into()));
            }
        }
        Ok(Page { version, items, rest: Some(rest).filter(|it| !it.is_empty()) })
    }
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
#[serde(rename_all = "camelCase")]
struct Bookmark {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    api_version: String,
    metadata: Metadata,
}

/// Requests a page of a list. `patience` bounds the wait for each piece of the answer.
pub(super) async fn page(
    client: &Client,
    collection: &Collection,
    limit: Option<u32>,
    rest: Option<&str>,
    patience: Duration,
) -> Result<Page, Failure> {
    let request = collection.list(limit, rest)?;
    let text = request::get(client, request, Packing::Gzip, patience).await?.whole(patience).await?;
    let list: List = serde_json::from_slice(&text).map_err(|error| garbage(&error, &text))?;
    list.page(&collection.object)
}

impl Watch {
    /// Requests a watch from a version on. `patience` bounds the wait for the answer to begin.
    pub async fn begin(
        client: &Client,
        collection: &Collection,
        version: &str,
        with_list: bool,
        patience: Duration,
    ) -> Result<Self, Failure> {
        let request = collection.watch(version, with_list)?;
        let lines = request::get(client, request, Packing::Plain, patience).await?.lines();
        Ok(Self { lines, object: collection.object.clone() })
    }

    /// The next event; `None` when the server has ended the watch. `patience` bounds the wait.
    pub async fn next(&mut self, patience: Duration) -> Result<Option<WireEvent>, Failure> {
        let Some(line) = self.lines.next(patience).await? else { return Ok(None) };
        event(line, &self.object).map(Some)
    }
}

/// Parses an event of a watch. Its object must state its type, in a bookmark too.
fn event(line: &[u8], of: &Type) -> Result<WireEvent, Failure> {
    let Line { kind, object } = serde_json::from_slice(line).map_err(|error| {
        // Some servers send a Status without an event around it.
        match serde_json::from_slice::<Status>(line) {
            Ok(status) if status.code != 0 => Failure::Refused(status.into()),
            _ => garbage(&error, line),
        }
    })?;
    let unread = |error| garbage(&error, line);
    match &*kind {
        "ADDED" => whole(object, of).map(WireEvent::Added),
        "MODIFIED" => whole(object, of).map(WireEvent::Modified),
        "DELETED" => whole(object, of).map(WireEvent::Deleted),
        "BOOKMARK" => {
            let Bookmark { kind, api_version, metadata } =
                serde_json::from_str(object.get()).map_err(unread)?;
            of.check(&Type { kind, api_version })?;
            if metadata.resource_version.is_empty() {
                return Err(Failure::Garbage("a bookmark has no resourceVersion".into()));
            }
            let annotations = metadata.annotations.unwrap_or_default();
            let ends_list = annotations.get(END_OF_LIST).is_some_and(|it| it == "true");
            Ok(WireEvent::Bookmark { version: metadata.resource_version, ends_list })
        }
        "ERROR" => {
            let status: Status = serde_json::from_str(object.get()).map_err(unread)?;
            Err(Failure::Refused(status.into()))
        }
        _ => Err(Failure::Garbage(format!("a watch has an event of the type {kind:?}"))),
    }
}

/// Parses the object of an event, which must have a name and a version.
fn whole(object: &RawValue, of: &Type) -> Result<PrunedObject, Failure> {
    let text = object.get();
    let pruned: PrunedObject =
        serde_json::from_str(text).map_err(|error| garbage(&error, text.as_bytes()))?;
    of.check(pruned.types())?;
    if pruned.key().is_empty() || pruned.version().is_empty() {
        return Err(Failure::Garbage("an object of a watch has no name or no resourceVersion".into()));
    }
    Ok(pruned)
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

    fn event(line: &[u8]) -> Result<WireEvent, Failure> {
        super::event(line, &Type::new("Pod", "v1"))
    }

    /// Each what was not asked for: of another kind, of another version, of both, of none.
    const OTHERS: [&str; 5] = [
        r#""kind":"Secret","apiVersion":"v1","#,
        r#""kind":"Pod","apiVersion":"other/v9","#,
        r#""apiVersion":"v1","#,
        r#""kind":"Pod","#,
        "",
    ];

    #[test]
    fn an_event_about_something_else_is_not_understood() {
        for types in OTHERS {
            for kind in ["ADDED", "MODIFIED", "DELETED", "BOOKMARK"] {
                let line = format!(
                    r#"{{"type":"{kind}","object":{{{types}"metadata":{{"name":"a","resourceVersion":"7"}}}}}}"#
                );
                assert!(matches!(event(line.as_bytes()), Err(Failure::Garbage(_))), "{line}");
                let right = line.replace(types, r#""kind":"Pod","apiVersion":"v1","#);
                assert!(types.is_empty() || event(right.as_bytes()).is_ok(), "{right}");
            }
        }
    }

    #[test]
    fn a_list_is_one_of_what_was_asked_for_and_has_items() {
        let pods = Type::new("Pod", "v1");
        let page = |text: &str| serde_json::from_str::<List>(text).unwrap().page(&pods);
        let list =
            |types: &str, rest: &str| format!(r#"{{{types}"metadata":{{"resourceVersion":"7"}}{rest}}}"#);
        let right = r#""kind":"PodList","apiVersion":"v1","#;
        for (rest, count) in [
            (r#","items":[]"#, 0),
            (r#","items":null"#, 0),
            (r#","items":[{"metadata":{"name":"a"}}]"#, 1),
            (r#","items":[{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"}}]"#, 1),
        ] {
            assert_eq!(page(&list(right, rest)).unwrap().items.len(), count, "{rest}");
            for types in OTHERS.map(|it| it.replace("Pod", "PodList").replace("Secret", "SecretList")) {
                let text = list(&types, rest);
                assert!(matches!(page(&text), Err(Failure::Garbage(_))), "{text}");
            }
        }
        for rest in [
            "",
            r#","rows":[]"#,
            r#","items":[{"kind":"Secret","metadata":{"name":"a"}}]"#,
            r#","items":[{"apiVersion":"v2","metadata":{"name":"a"}}]"#,
            r#","items":[{"metadata":{}}]"#,
            r#","items":[null]"#,
        ] {
            let text = list(right, rest);
            assert!(matches!(page(&text), Err(Failure::Garbage(_))), "{text}");
        }
        let table =
            r#"{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{"resourceVersion":"5"},"rows":[]}"#;
        let why = page(table).unwrap_err().message();
        assert!(
            why.contains(r#"the kind "Table" of "meta.k8s.io/v1", where the kind "PodList" of "v1""#),
            "{why}"
        );
        assert!(page(r#"{"kind":"PodList","apiVersion":"v1","metadata":{},"items":[]}"#).is_err());
    }

    #[test]
    fn events_are_read_whatever_the_order_of_their_fields() {
        let object = r#"{"metadata":{"name":"a","namespace":"ns","resourceVersion":"7"},"kind":"Pod","apiVersion":"v1"}"#;
        for (kind, put) in [("ADDED", true), ("MODIFIED", true), ("DELETED", false)] {
            for line in [
                format!(r#"{{"type":"{kind}","object":{object}}}"#),
                format!(r#"{{"object":{object},"type":"{kind}"}}"#),
            ] {
                match event(line.as_bytes()).unwrap() {
                    WireEvent::Added(pruned) | WireEvent::Modified(pruned) => {
                        assert!(put && &*pruned.key() == "ns/a");
                    }
                    WireEvent::Deleted(pruned) => assert!(!put && pruned.version() == "7"),
                    WireEvent::Bookmark { .. } => panic!("{line}"),
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
                r#"{{"type":"BOOKMARK","object":{{"kind":"Pod","apiVersion":"v1","metadata":{{"resourceVersion":"9","annotations":{annotations}}}}}}}"#
            );
            let WireEvent::Bookmark { version, ends_list } = event(line.as_bytes()).unwrap() else {
                panic!()
            };
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
            r#"{"type":"ADDED","object":{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a"}}}"#,
            r#"{"type":"ADDED","object":{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"7"}}}"#,
            r#"{"type":"BOOKMARK","object":{"kind":"Pod","apiVersion":"v1","metadata":{}}}"#,
        ] {
            assert!(matches!(event(line.as_bytes()), Err(Failure::Garbage(_))), "{line}");
        }
    }
}
