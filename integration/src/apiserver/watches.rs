//! Watches, with a list in the stream or without.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use hyper::{Response, body::Bytes};
use serde_json::json;
use tokio::sync::mpsc::{Sender, channel};

use super::{
    asked::Asked,
    bodies::{self, Body, status},
    objects::{Event, Stored, Streaming},
    shared::Shared,
};

/// What is told at once, in bytes, when there is much to tell.
const CHUNK: usize = 64 << 10;

pub(super) async fn watch(shared: &Arc<Shared>, asked: Asked) -> Response<Body> {
    let behaviour = shared.behaviour().clone();
    let group = asked.target.resource.split_once('.').map(|it| it.1);
    let streaming = match behaviour.streams_not {
        Some(refused) if group == Some(refused) => Streaming::Refused,
        _ => behaviour.streaming,
    };
    let wants_all = asked.get("sendInitialEvents") == "true";
    let given = asked.get("resourceVersion");
    if !wants_all && behaviour.hangs_watches {
        std::future::pending::<()>().await;
    }
    let (sender, pieces) = channel::<Bytes>(64);
    if wants_all {
        let said = match streaming {
            Streaming::Whole | Streaming::Unknown => None,
            Streaming::Refused => return gate_is_off(),
            Streaming::Code(429) => return bodies::busy(),
            Streaming::Code(code) => return status(code, "Refused", "the tests' server streams no lists"),
            Streaming::Headerless => std::future::pending().await,
            Streaming::OldEtcd => Some(line("ERROR", etcd_is_old().to_string().as_bytes())),
            Streaming::Ends => Some(Bytes::new()),
            Streaming::Breaks => Some(r#"{"type":"ADDED","object":{"metadata":{"na"#.into()),
            Streaming::Garbage => Some("<html><body>no list here</body></html>\n".into()),
        };
        if let Some(said) = said {
            // There is room.
            let _ = sender.send(said).await;
            drop(sender);
            return bodies::stream(shared, pieces);
        }
    }
    let from = given.parse().unwrap_or(0);
    // Whoever asks for no version in particular gets what there is first, and so does who asks for what there is not
    // older than one.
    let begins = from == 0 || wants_all;
    if !begins && shared.objects().since(&asked.target.resource, from).is_none() {
        return status(410, "Expired", &format!("too old resource version: {given}"));
    }
    let marks_end = wants_all && streaming == Streaming::Whole;
    let follower = Arc::clone(shared);
    tokio::spawn(async move { follow(&follower, &asked, sender, begins, marks_end, from).await });
    bodies::stream(shared, pieces)
}

/// What a server says with the feature gate `WatchList` off.
fn gate_is_off() -> Response<Body> {
    const WHY: &str = "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Invalid", "code": 422,
        "message": format!("ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: {WHY}"),
        "details": {
            "group": "meta.k8s.io", "kind": "ListOptions",
            "causes": [{"reason": "FieldValueForbidden", "message": format!("Forbidden: {WHY}"), "field": "sendInitialEvents"}],
        },
    });
    bodies::whole(422, &status)
}

/// What a server says over an etcd that does not tell how far its watches are.
fn etcd_is_old() -> serde_json::Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
        "message": "a watch stream was requested by the client but the required storage feature RequestWatchProgress is disabled",
    })
}

/// Sends a watch's events until the client is gone or the time is over.
async fn follow(
    shared: &Shared,
    asked: &Asked,
    sender: Sender<Bytes>,
    begins: bool,
    marks_end: bool,
    from: u64,
) -> Option<()> {
    let mut changes = shared.changes.subscribe();
    let mut ended = shared.ended.subscribe();
    ended.mark_unchanged();
    let resource = &asked.target.resource;
    let seconds = asked.get("timeoutSeconds").parse().unwrap_or(300);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut version = from;
    if begins {
        let (present, now) = {
            let objects = shared.objects();
            let selected = objects.all(resource).filter(|it| asked.selector.selects(it));
            (selected.cloned().collect::<Vec<_>>(), objects.version())
        };
        version = now;
        let mut lines = Vec::with_capacity(CHUNK);
        for object in present {
            lines.extend_from_slice(&line("ADDED", &asked.shown(&object)));
            if lines.len() >= CHUNK {
                sender.send(std::mem::take(&mut lines).into()).await.ok()?;
            }
        }
        sender.send(lines.into()).await.ok()?;
        if marks_end {
            sender.send(bookmark(asked, version, true)).await.ok()?;
        }
    }
    loop {
        while shared.behaviour().silent {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        changes.mark_unchanged();
        let (events, now) = {
            let objects = shared.objects();
            (objects.since(resource, version), objects.version())
        };
        let Some(events) = events else {
            let gone = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "Expired",
                "message": "too old resource version", "code": 410,
            });
            sender.send(line("ERROR", gone.to_string().as_bytes())).await.ok()?;
            return None;
        };
        version = now;
        for event in events {
            let Some(text) = told(asked, &event) else { continue };
            if shared.behaviour().cuts {
                sender.send(text.slice(..text.len() / 2)).await.ok()?;
                return None;
            }
            sender.send(text).await.ok()?;
        }
        let garbage = shared.behaviour().garbage.take();
        if let Some(garbage) = garbage {
            sender.send(Bytes::from(format!("{garbage}\n"))).await.ok()?;
        }
        let bookmarks = shared.behaviour().bookmarks;
        tokio::select! {
            _ = changes.changed() => {}
            _ = ended.changed() => return None,
            () = sender.closed() => return None,
            () = tokio::time::sleep_until(end.into()) => return None,
            () = tokio::time::sleep(bookmarks) => {
                if asked.get("allowWatchBookmarks") == "true" {
                    sender.send(bookmark(asked, version, false)).await.ok()?;
                }
            }
        }
    }
}

/// An event as this watch sees it: what a selector begins or ceases to select comes and goes.
fn told(asked: &Asked, event: &Event) -> Option<Bytes> {
    let selected = |object: &Option<Arc<Stored>>| object.clone().filter(|it| asked.selector.selects(it));
    let (before, after) = (selected(&event.before), selected(&event.after));
    Some(match (before, after) {
        (None, None) => return None,
        (None, Some(after)) => line("ADDED", &asked.shown(&after)),
        (Some(_), Some(after)) => line("MODIFIED", &asked.shown(&after)),
        (Some(before), None) => {
            let mut before = before.value();
            before["metadata"]["resourceVersion"] = json!(event.version.to_string());
            line("DELETED", &asked.shown(&Stored::of(&before)))
        }
    })
}

fn bookmark(asked: &Asked, version: u64, ends_list: bool) -> Bytes {
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if ends_list {
        metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
    }
    let (api_version, kind) = asked.types();
    let object = json!({"kind": kind, "apiVersion": api_version, "metadata": metadata});
    line("BOOKMARK", object.to_string().as_bytes())
}

/// An event of a watch: its kind, and the object as JSON.
fn line(kind: &str, object: &[u8]) -> Bytes {
    [format!(r#"{{"type":"{kind}","object":"#).as_bytes(), object, b"}\n"].concat().into()
}
