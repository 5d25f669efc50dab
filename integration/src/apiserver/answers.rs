//! Requests and their answers.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use http_body_util::BodyExt;
use hyper::{
    HeaderMap, Method, Request, Response,
    body::Incoming,
    header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, HeaderName},
};
use serde_json::{Value, json};

use super::{
    asked::Asked,
    bodies::{self, Body, said, status, whole},
    lists::list,
    paths::Target,
    rbac::Right,
    selectors::Selector,
    shared::{Shared, locked},
    tls::TOKEN,
    watches::watch,
    writes,
};

pub(super) async fn answer(
    shared: &Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let uri = request.uri();
    locked(&shared.requests).push(format!("{} {uri}", request.method()));
    locked(&shared.spoken).insert(format!("{:?}", request.version()));
    let authorized = request.headers().get(AUTHORIZATION).is_some_and(|it| *it == *format!("Bearer {TOKEN}"));
    if !authorized {
        return Ok(status(401, "Unauthorized", "no such token"));
    }
    let behaviour = shared.behaviour().clone();
    tokio::time::sleep(behaviour.delay).await;
    if behaviour.hangs {
        std::future::pending::<()>().await;
    }
    let now = Instant::now();
    let path = format!("{} {}", request.method(), uri.path());
    if locked(&shared.refused).remove(&path).is_some_and(|until| now < until) {
        shared.early.fetch_add(1, Ordering::Relaxed);
    }
    let is_busy = {
        let mut behaviour = shared.behaviour();
        let is_busy = behaviour.busy > 0;
        behaviour.busy = behaviour.busy.saturating_sub(1);
        is_busy
    };
    if is_busy {
        locked(&shared.refused).insert(path, now + bodies::BUSY);
        return Ok(bodies::busy());
    }
    let Some(target) = Target::of(uri.path()) else {
        return Ok(status(404, "NotFound", "the server could not find the requested resource"));
    };
    let right = Right::needed(request.method(), &target, uri.query().unwrap_or_default());
    locked(&shared.used).insert(right.clone());
    if behaviour.rights.is_some_and(|rights| !rights.contains(&right)) {
        return Ok(status(403, "Forbidden", &format!("no role allows to {right:?}")));
    }
    let plural = target.resource.split('.').next().unwrap_or_default();
    let named = target.subresource.as_ref().map_or(plural.to_owned(), |it| format!("{plural}/{it}"));
    if let Some(code) = behaviour.refuses.get(&*named) {
        return Ok(status(*code, "Refused", "as the test wants it"));
    }
    let lists = target.name.is_none() && !uri.query().unwrap_or_default().contains("watch=");
    if let Some((api_version, kind)) = behaviour.lists_others.get(&*named).filter(|_| lists) {
        let version = shared.objects().version().to_string();
        let metadata = json!({"resourceVersion": version});
        let list = json!({"apiVersion": api_version, "kind": kind, "metadata": metadata, "items": []});
        return Ok(whole(200, &list));
    }
    let is_other_version = target.resource == "clusternetworkpolicies.policy.networking.k8s.io"
        && !target.api_version.ends_with(behaviour.cluster_policies);
    if is_other_version || !shared.objects().is_served(&target.resource) {
        return Ok(status(404, "NotFound", "the server could not find the requested resource"));
    }
    let query = parameters(uri.query().unwrap_or_default());
    let parameter = |key: &str| query.get(key).map(String::as_str).unwrap_or_default();
    let selector =
        Selector::of(parameter("labelSelector"), parameter("fieldSelector"), target.namespace.as_deref());
    let Some(selector) = selector else {
        return Ok(status(400, "BadRequest", "the tests' server does not know this selector"));
    };
    let metadata = header(request.headers(), ACCEPT).contains("PartialObjectMetadata");
    let wants_gzip = header(request.headers(), ACCEPT_ENCODING).contains("gzip");
    let method = request.method().clone();
    let asked = Asked { target, query, selector, metadata, wants_gzip };
    Ok(match (method, asked.target.key()) {
        (Method::GET, Some(key)) if asked.target.subresource.as_deref() == Some("log") => {
            writes::log(shared, &key)
        }
        (Method::GET, Some(key)) => get(shared, &asked, &key),
        (Method::GET, None) if asked.get("watch") == "true" || asked.get("watch") == "1" => {
            watch(shared, asked).await
        }
        (Method::GET, None) => list(shared, &asked),
        (Method::POST, None) => writes::create(shared, request).await,
        (Method::DELETE, Some(key)) => writes::delete(shared, &asked.target.resource, &key),
        (Method::PATCH, Some(key)) => patch(shared, &asked, &key, request).await,
        _ => status(405, "MethodNotAllowed", "the tests' server does not do that"),
    })
}

fn header(headers: &HeaderMap, name: HeaderName) -> &str {
    headers.get(name).and_then(|it| it.to_str().ok()).unwrap_or_default()
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
