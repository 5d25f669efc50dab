//! Lists, in pages or whole. All pages of a list are of the moment at which it was begun.

use std::sync::Arc;

use hyper::Response;
use serde_json::json;

use super::{
    asked::Asked,
    bodies::{self, Body},
    objects::{Rest, Stored},
    shared::Shared,
};

pub(super) fn list(shared: &Shared, asked: &Asked) -> Response<Body> {
    let resource = &asked.target.resource;
    let limit = asked.get("limit").parse().unwrap_or(usize::MAX);
    let token = asked.get("continue");
    let mut objects = shared.objects();
    let (version, mut selected) = if token.is_empty() {
        let selected: Vec<_> =
            objects.all(resource).filter(|it| asked.selector.selects(it)).cloned().collect();
        (objects.version(), selected)
    } else {
        let forgets = {
            let mut behaviour = shared.behaviour();
            let forgets = behaviour.forgets_rests > 0;
            behaviour.forgets_rests = behaviour.forgets_rests.saturating_sub(1);
            forgets
        };
        match objects.take_rest(token).filter(|_| !forgets) {
            Some(Rest { version, objects }) => (version, objects),
            None => return expired(token),
        }
    };
    let rest = selected.split_off(limit.min(selected.len()));
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if !rest.is_empty() {
        metadata["remainingItemCount"] = json!(rest.len());
        metadata["continue"] = json!(objects.keep_rest(Rest { version, objects: rest }));
    }
    drop(objects);
    let (api_version, kind) = asked.types();
    let mut text =
        format!(r#"{{"apiVersion":"{api_version}","kind":"{kind}List","metadata":{metadata},"items":["#);
    for (at, object) in selected.iter().map(Arc::as_ref).enumerate() {
        let object: &Stored = object;
        if at > 0 {
            text.push(',');
        }
        text.push_str(&String::from_utf8_lossy(&asked.shown(object)));
    }
    text.push_str("]}");
    bodies::list(shared, text.into(), asked.wants_gzip)
}

/// The rest of a list is forgotten. What a real server offers in its place is a rest of what there is now.
fn expired(token: &str) -> Response<Body> {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410,
        "metadata": {"continue": format!("{token}-of-another-state")},
        "message": "The provided continue parameter is too old to display a consistent list result.",
    });
    bodies::whole(410, &status)
}
