//! Requests and their answers.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Frame, Incoming},
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE},
};
use serde_json::{Value, json};
use tokio::sync::mpsc::{Sender, channel};

use super::{
    Shared, TOKEN,
    objects::{Event, Stored, Streaming},
    paths::Target,
    rbac::Right,
    selectors::Selector,
};

type Body = BoxBody<Bytes, io::Error>;

/// What is told at once, in bytes, when there is much to tell.
const CHUNK: usize = 64 << 10;

/// What is asked for.
struct Asked {
    target: Target,
    query: BTreeMap<String, String>,
    selector: Selector,
    /// Only metadata is wanted.
    metadata: bool,
}

impl Asked {
    fn get(&self, key: &str) -> &str {
        self.query.get(key).map(String::as_str).unwrap_or_default()
    }

    /// An object as it is wanted, as JSON.
    fn shown(&self, object: &Stored) -> Bytes {
        if !self.metadata {
            return object.text.clone();
        }
        let partial = json!({
            "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
            "metadata": object.value()["metadata"],
        });
        partial.to_string().into()
    }
}

pub(super) async fn answer(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let uri = request.uri();
    super::lock(&shared.requests).push(format!("{} {uri}", request.method()));
    let authorized = request.headers().get(AUTHORIZATION).is_some_and(|it| *it == *format!("Bearer {TOKEN}"));
    if !authorized {
        return Ok(status(401, "Unauthorized", "no such token"));
    }
    let behaviour = shared.behaviour().clone();
    tokio::time::sleep(behaviour.delay).await;
    if behaviour.hangs {
        std::future::pending::<()>().await;
    }
    let Some(target) = Target::of(uri.path()) else {
        return Ok(status(404, "NotFound", "the server could not find the requested resource"));
    };
    let right = Right::needed(request.method(), &target, uri.query().unwrap_or_default());
    super::lock(&shared.used).insert(right.clone());
    if behaviour.rights.is_some_and(|rights| !rights.contains(&right)) {
        return Ok(status(403, "Forbidden", &format!("no role allows to {right:?}")));
    }
    let plural = target.resource.split('.').next().unwrap_or_default();
    let named = target.subresource.as_ref().map_or(plural.to_owned(), |it| format!("{plural}/{it}"));
    if let Some(code) = behaviour.refuses.get(&*named) {
        return Ok(status(*code, "Refused", "as the test wants it"));
    }
    if !shared.objects().is_served(&target.resource) {
        return Ok(status(404, "NotFound", "the server could not find the requested resource"));
    }
    let query = parameters(uri.query().unwrap_or_default());
    let parameter = |key: &str| query.get(key).map(String::as_str).unwrap_or_default();
    let selector =
        Selector::of(parameter("labelSelector"), parameter("fieldSelector"), target.namespace.as_deref());
    let Some(selector) = selector else {
        return Ok(status(400, "BadRequest", "the tests' server does not know this selector"));
    };
    let accept = request.headers().get(ACCEPT).and_then(|it| it.to_str().ok()).unwrap_or_default();
    let metadata = accept.contains("PartialObjectMetadata");
    let method = request.method().clone();
    let asked = Asked { target, query, selector, metadata };
    Ok(match (method, asked.target.key()) {
        (Method::GET, Some(key)) => get(shared, &asked, &key),
        (Method::GET, None) if asked.get("watch") == "true" || asked.get("watch") == "1" => {
            watch(shared, asked)
        }
        (Method::GET, None) => list(shared, &asked),
        (Method::PATCH, Some(key)) => patch(shared, &asked, &key, request).await,
        _ => status(405, "MethodNotAllowed", "the tests' server does not do that"),
    })
}

fn get(shared: &Shared, asked: &Asked, key: &str) -> Response<Body> {
    match shared.objects().get(&asked.target.resource, key) {
        Some(object) => said(200, asked.shown(object)),
        None => status(404, "NotFound", &format!("{} {key} not found", asked.target.resource)),
    }
}

/// A merge of JSON, or Kubernetes' strategic one of conditions, which replaces those of the same type.
async fn patch(shared: &Shared, asked: &Asked, key: &str, request: Request<Incoming>) -> Response<Body> {
    let Ok(body) = request.into_body().collect().await else {
        return status(400, "BadRequest", "no body");
    };
    let Ok(patch) = serde_json::from_slice::<Value>(&body.to_bytes()) else {
        return status(400, "BadRequest", "no JSON");
    };
    let known = shared.objects().get(&asked.target.resource, key).map(|it| it.value());
    let Some(mut object) = known else {
        return status(404, "NotFound", "no such object");
    };
    if let Some(conditions) = patch["status"]["conditions"].as_array() {
        let old = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let replaced = |it: &Value| conditions.iter().any(|new| new["type"] == it["type"]);
        let mut all: Vec<_> = old.into_iter().filter(|it| !replaced(it)).collect();
        all.extend(conditions.iter().cloned());
        object["status"]["conditions"] = Value::Array(all);
    }
    shared.objects().put(object.clone());
    shared.changes.send_modify(|count| *count += 1);
    whole(200, &object)
}

fn list(shared: &Shared, asked: &Asked) -> Response<Body> {
    let objects = shared.objects();
    let version = objects.version();
    let (from, version) = match asked.get("continue").split_once(':') {
        Some((from, version)) => (from.parse().unwrap_or(0), version.parse().unwrap_or(version_of(version))),
        None => (0, version),
    };
    let limit = asked.get("limit").parse().unwrap_or(usize::MAX);
    let selected: Vec<_> =
        objects.all(&asked.target.resource).filter(|it| asked.selector.selects(it)).collect();
    let page: Vec<_> = selected.iter().skip(from).take(limit).collect();
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if from + page.len() < selected.len() {
        metadata["continue"] = json!(format!("{}:{version}", from + page.len()));
    }
    let (api_version, kind) = if asked.metadata {
        ("meta.k8s.io/v1", "PartialObjectMetadataList")
    } else {
        (&*asked.target.api_version, "List")
    };
    let mut text =
        format!(r#"{{"apiVersion":"{api_version}","kind":"{kind}","metadata":{metadata},"items":["#);
    for (at, object) in page.into_iter().enumerate() {
        if at > 0 {
            text.push(',');
        }
        text.push_str(&String::from_utf8_lossy(&asked.shown(object)));
    }
    text.push_str("]}");
    said(200, text.into())
}

fn version_of(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}

fn watch(shared: &Arc<Shared>, asked: Asked) -> Response<Body> {
    let streaming = shared.behaviour().streaming;
    let wants_all = asked.get("sendInitialEvents") == "true";
    let given = asked.get("resourceVersion");
    if wants_all && streaming == Streaming::Refused {
        return status(
            422,
            "Invalid",
            "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled",
        );
    }
    let from = version_of(given);
    // Whoever asks for no version in particular gets what there is first.
    let begins = from == 0;
    if !begins && shared.objects().since(&asked.target.resource, from).is_none() {
        return status(410, "Expired", &format!("too old resource version: {given}"));
    }
    let (sender, mut receiver) = channel::<Bytes>(64);
    let shared = Arc::clone(shared);
    let marks_end = wants_all && streaming == Streaming::Whole;
    tokio::spawn(async move { follow(&shared, &asked, sender, begins, marks_end, from).await });
    let stream = futures_util::stream::poll_fn(move |context| {
        receiver.poll_recv(context).map(|chunk| chunk.map(|bytes| Ok(Frame::data(bytes))))
    });
    let body = BodyExt::boxed(StreamBody::new(stream));
    response(200, body)
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
    let kind = json!({"kind": "Bookmark", "apiVersion": asked.target.api_version, "metadata": metadata});
    line("BOOKMARK", kind.to_string().as_bytes())
}

/// An event of a watch: its kind, and the object as JSON.
fn line(kind: &str, object: &[u8]) -> Bytes {
    [format!(r#"{{"type":"{kind}","object":"#).as_bytes(), object, b"}\n"].concat().into()
}

fn status(code: u16, reason: &str, message: &str) -> Response<Body> {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": reason,
        "message": message, "code": code,
    });
    whole(code, &status)
}

fn whole(code: u16, value: &Value) -> Response<Body> {
    said(code, value.to_string().into())
}

fn said(code: u16, text: Bytes) -> Response<Body> {
    response(code, Full::new(text).map_err(|never| match never {}).boxed())
}

fn response(code: u16, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let json = hyper::header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

/// The parameters of a query.
fn parameters(query: &str) -> BTreeMap<String, String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (decoded(key), decoded(value))).collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let hex: Vec<u8> = rest.by_ref().take(2).collect();
                std::str::from_utf8(&hex)
                    .ok()
                    .and_then(|hex| u8::from_str_radix(hex, 16).ok())
                    .unwrap_or(b'?')
            }
            byte => byte,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
