//! An object of the API without the fields that Cambric does not read. They are dropped during parsing, so a list of
//! large objects takes little memory.

use std::{borrow::Cow, fmt};

use kube::core::{DynamicResourceScope, ObjectMeta};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

use super::{resources::Resource, types::Type};
use crate::v1::SOURCE_RANGES;
use ipamd_model::policy::Denied;

/// Which parts of a value are kept.
#[derive(Clone, Copy, Debug)]
enum Keep {
    Nothing,
    All,
    /// Of a mapping these fields; of a list the same of each item.
    Only(&'static [(&'static str, Keep)]),
    /// Of a mapping all fields, but of these only so much.
    But(&'static [(&'static str, Keep)]),
}

use Keep::{All, But, Nothing, Only};

/// For every kind of object: no field has two meanings among them.
const OBJECT: Keep = Only(&[
    ("kind", All),
    ("apiVersion", All),
    ("metadata", METADATA),
    ("spec", SPEC),
    ("status", STATUS),
    // Of an EndpointSlice.
    ("addressType", All),
    ("endpoints", But(&[("targetRef", Nothing), ("deprecatedTopology", Nothing)])),
    ("ports", All),
]);

const METADATA: Keep = Only(&[
    ("name", All),
    ("namespace", All),
    ("uid", All),
    ("resourceVersion", All),
    ("labels", All),
    ("annotations", Only(&[(SOURCE_RANGES, All), (Denied::ANNOTATION, All)])),
]);

/// A pod's spec is large, so most of it is dropped. A policy's spec is kept whole, because an unknown field changes the
/// policy's meaning.
const SPEC: Keep = But(&[
    ("containers", CONTAINERS),
    ("initContainers", CONTAINERS),
    ("ephemeralContainers", Nothing),
    ("volumes", Nothing),
    ("affinity", Nothing),
    ("tolerations", Nothing),
    ("securityContext", Nothing),
    ("topologySpreadConstraints", Nothing),
    ("imagePullSecrets", Nothing),
    ("hostAliases", Nothing),
    ("dnsConfig", Nothing),
    ("readinessGates", Nothing),
    ("nodeSelector", Nothing),
    ("schedulerName", Nothing),
    ("restartPolicy", Nothing),
    ("terminationGracePeriodSeconds", Nothing),
    ("dnsPolicy", Nothing),
    ("serviceAccount", Nothing),
    ("enableServiceLinks", Nothing),
    ("preemptionPolicy", Nothing),
    // A pod's `priority` is kept: a ClusterNetworkPolicy has one, too.
]);

const CONTAINERS: Keep = Only(&[("restartPolicy", All), ("ports", All)]);

const STATUS: Keep = Only(&[
    ("phase", All),
    ("podIP", All),
    ("podIPs", All),
    ("addresses", All),
    ("loadBalancer", All),
    ("conditions", Nothing),
]);

/// An object of some resource.
#[derive(Clone, Debug, Default)]
pub(super) struct PrunedObject {
    /// Its name, namespace, uid and resource version.
    meta: ObjectMeta,
    /// Its kind and apiVersion; objects in lists may lack both.
    types: Type,
    /// What is kept of it.
    pub body: Value,
}

impl PrunedObject {
    /// An object of which the body was kept.
    pub fn of(mut body: Value) -> Self {
        let mut take = |field: &str| match body.as_object_mut().and_then(|it| it.remove(field)) {
            Some(Value::String(text)) => text,
            _ => String::new(),
        };
        let types = Type { kind: take("kind"), api_version: take("apiVersion") };
        // The API omits an empty map. For Cambric missing labels are unknown labels, so an empty map is put in.
        if let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut) {
            let labels = metadata.entry("labels").or_insert(Value::Null);
            if labels.is_null() {
                *labels = Value::Object(Map::new());
            }
        }
        // The resource version differs with every heartbeat, so it is not part of the body.
        let metadata = body.get_mut("metadata").and_then(Value::as_object_mut);
        let resource_version = metadata.and_then(|it| it.remove("resourceVersion"));
        let text = |key: &str| body["metadata"][key].as_str().map(ToOwned::to_owned);
        let meta = ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            uid: text("uid"),
            resource_version: resource_version.and_then(|it| it.as_str().map(ToOwned::to_owned)),
            ..ObjectMeta::default()
        };
        Self { meta, types, body }
    }

    /// Its kind and apiVersion.
    pub fn types(&self) -> &Type {
        &self.types
    }

    /// Namespace and name.
    pub fn key(&self) -> Box<str> {
        let name = self.meta.name.as_deref().unwrap_or_default();
        match &self.meta.namespace {
            Some(namespace) => format!("{namespace}/{name}").into(),
            None => name.into(),
        }
    }

    /// The UID, which differs from that of an earlier object of the same name.
    pub fn uid(&self) -> &str {
        self.meta.uid.as_deref().unwrap_or_default()
    }

    /// The resource version.
    pub fn version(&self) -> &str {
        self.meta.resource_version.as_deref().unwrap_or_default()
    }
}

impl<'de> Deserialize<'de> for PrunedObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        OBJECT.deserialize(deserializer).map(Self::of)
    }
}

impl kube::Resource for PrunedObject {
    type DynamicType = &'static Resource;
    type Scope = DynamicResourceScope;

    fn kind(resource: &Self::DynamicType) -> Cow<'_, str> {
        resource.kind.name().into()
    }

    fn group(resource: &Self::DynamicType) -> Cow<'_, str> {
        resource.group.into()
    }

    fn version(resource: &Self::DynamicType) -> Cow<'_, str> {
        resource.version.into()
    }

    fn plural(resource: &Self::DynamicType) -> Cow<'_, str> {
        resource.plural.into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}

impl Keep {
    /// What is kept of a field.
    fn of(self, key: &str) -> Self {
        let said = |fields: &[(&str, Self)]| fields.iter().find(|(name, _)| *name == key).map(|it| it.1);
        match self {
            Nothing => Nothing,
            All => All,
            Only(fields) => said(fields).unwrap_or(Nothing),
            But(fields) => said(fields).unwrap_or(All),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Keep {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(Reader(self))
    }
}

struct Reader(Keep);

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut kept = Map::new();
        while let Some(key) = entries.next_key::<Cow<'_, str>>()? {
            match self.0.of(&key) {
                Nothing => {
                    entries.next_value::<IgnoredAny>()?;
                }
                keep => {
                    kept.insert(key.into_owned(), entries.next_value_seed(keep)?);
                }
            }
        }
        Ok(Value::Object(kept))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut kept = Vec::new();
        while let Some(item) = items.next_element_seed(self.0)? {
            kept.push(item);
        }
        Ok(Value::Array(kept))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.0.deserialize(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_is_kept_without_what_nobody_reads() {
        let pod = json!({
            "kind": "Pod", "apiVersion": "v1",
            "metadata": {
                "name": "a", "namespace": "ns", "uid": "u", "resourceVersion": "7", "labels": {"k": "v"},
                "managedFields": [{"manager": "kubelet"}], "annotations": {"x": "y"},
            },
            "spec": {
                "nodeName": "n", "volumes": [{"name": "v"}],
                "containers": [{"name": "c", "image": "i", "env": [], "ports": [{"containerPort": 80}]}],
            },
            "status": {"phase": "Running", "podIP": "10.0.0.1", "conditions": [], "containerStatuses": [{}]},
        });
        let pruned: PrunedObject = serde_json::from_value(pod).unwrap();
        assert_eq!((&*pruned.key(), pruned.version()), ("ns/a", "7"));
        assert_eq!(*pruned.types(), Type::new("Pod", "v1"));
        assert_eq!(
            pruned.body,
            json!({
                "metadata": {
                    "name": "a", "namespace": "ns", "uid": "u", "labels": {"k": "v"}, "annotations": {},
                },
                "spec": {"nodeName": "n", "containers": [{"ports": [{"containerPort": 80}]}]},
                "status": {"phase": "Running", "podIP": "10.0.0.1"},
            })
        );
    }

    #[test]
    fn a_policy_is_kept_as_it_is() {
        let policy = json!({
            "metadata": {"name": "a", "labels": {}},
            "spec": {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}], "novel": 1.5},
        });
        let pruned: PrunedObject = serde_json::from_value(policy.clone()).unwrap();
        assert_eq!(pruned.body, policy);
    }

    #[test]
    fn what_is_no_object_is_read_all_the_same() {
        for text in ["1", "null", "[]", "{\"metadata\": 3}", "{\"metadata\": {\"name\": []}}"] {
            let pruned: PrunedObject = serde_json::from_str(text).unwrap();
            assert_eq!((&*pruned.key(), pruned.version()), ("", ""), "{text}");
        }
    }
}
