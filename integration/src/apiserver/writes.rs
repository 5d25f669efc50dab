//! Objects that clients create and delete, completed as a real server does, and logs.

use std::sync::Arc;

use http_body_util::BodyExt;
use hyper::{Request, Response, body::Incoming};
use serde_json::{Value, json};

use super::{
    bodies::{Body, said, status, whole},
    objects::{Objects, key_of, resource_of},
    shared::{Shared, locked},
};

/// The prefixes of services' addresses.
const CLUSTER4: &str = "10.96.0.";
const CLUSTER6: &str = "fd00:96::";
/// The first of the node ports.
const NODE_PORT: u64 = 30_000;
/// How many services there may be.
const SERVICES: u64 = 250;

pub(super) async fn create(shared: &Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
    let Ok(body) = request.into_body().collect().await else {
        return status(400, "BadRequest", "no body");
    };
    let Ok(mut object) = serde_json::from_slice::<Value>(&body.to_bytes()) else {
        return status(400, "BadRequest", "no JSON");
    };
    let (resource, key) = (resource_of(&object), key_of(&object));
    {
        let mut objects = shared.objects();
        if objects.get(&resource, &key).is_some() {
            return status(409, "AlreadyExists", &format!("{resource} {key} already exists"));
        }
        let namespace = object["metadata"]["namespace"].as_str();
        if namespace.is_some_and(|it| objects.get("namespaces", it).is_none()) {
            return status(404, "NotFound", "there is no such namespace");
        }
        if resource == "services" && !assign(&objects, &mut object) {
            return status(422, "Invalid", "no address is left for another service");
        }
        objects.put(object.clone());
    }
    shared.changes.send_modify(|count| *count += 1);
    whole(201, &object)
}

/// Addresses of both families, and a port of the nodes if it is to have one.
fn assign(objects: &Objects, service: &mut Value) -> bool {
    let taken: Vec<Value> = objects.all("services").map(|it| it.value()).collect();
    let address = |number: u64| format!("{CLUSTER4}{number}");
    let is_free = |number: &u64| !taken.iter().any(|it| it["spec"]["clusterIP"] == address(*number));
    let Some(number) = (1..SERVICES).find(is_free) else { return false };
    let spec = &mut service["spec"];
    spec["clusterIP"] = json!(address(number));
    spec["clusterIPs"] = json!([address(number), format!("{CLUSTER6}{number:x}")]);
    spec["ipFamilies"] = json!(["IPv4", "IPv6"]);
    if spec["type"] == "NodePort" {
        for port in spec["ports"].as_array_mut().into_iter().flatten() {
            port["nodePort"] = json!(NODE_PORT + number);
        }
    }
    true
}

pub(super) fn delete(shared: &Shared, resource: &str, key: &str) -> Response<Body> {
    {
        let mut objects = shared.objects();
        if objects.get(resource, key).is_none() {
            return status(404, "NotFound", &format!("{resource} {key} not found"));
        }
        match resource {
            "namespaces" => objects.delete_namespace(key),
            _ => objects.delete(resource, key),
        }
    }
    shared.changes.send_modify(|count| *count += 1);
    whole(200, &json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}))
}

pub(super) fn log(shared: &Shared, pod: &str) -> Response<Body> {
    if shared.objects().get("pods", pod).is_none() {
        return status(404, "NotFound", &format!("pods {pod} not found"));
    }
    said(200, locked(&shared.logs).get(pod).cloned().unwrap_or_default().into())
}
