//! What there is, and what has become of it: objects by resource, and their history. An object is put into words once,
//! however many ask for it, so that a cluster of a hundred thousand pods is served from one process.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use hyper::body::Bytes;
use serde_json::{Value, json};

/// How watches are answered that ask for what there is first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Streaming {
    /// As Kubernetes 1.32 and those from 1.34 on do by default.
    #[default]
    Whole,
    /// As servers do whose feature gate `WatchList` is off, by default those up to 1.31 and 1.33: the parameter is refused.
    Refused,
    /// As servers do with the gate on over an etcd before 3.4.31 or 3.5.13: the refusal is in the stream.
    OldEtcd,
    /// As servers do that do not know the parameter: no end of what there is is told.
    Unknown,
    /// With such a code, as whatever is between a server and its clients may.
    Code(u16),
    /// The request is taken, and no header ever comes.
    Headerless,
    /// The stream is empty and ends at once.
    Ends,
    /// The stream breaks off in the midst of the first object.
    Breaks,
    /// The stream is no JSON.
    Garbage,
}

/// The resources that are always there: plural and group, kind.
const BUILT_IN: [(&str, &str); 11] = [
    ("nodes", "Node"),
    ("namespaces", "Namespace"),
    ("serviceaccounts", "ServiceAccount"),
    ("pods", "Pod"),
    ("services", "Service"),
    ("endpointslices.discovery.k8s.io", "EndpointSlice"),
    ("networkpolicies.networking.k8s.io", "NetworkPolicy"),
    ("customresourcedefinitions.apiextensions.k8s.io", "CustomResourceDefinition"),
    ("leases.coordination.k8s.io", "Lease"),
    ("daemonsets.apps", "DaemonSet"),
    ("events.events.k8s.io", "Event"),
];

/// Those that come with a definition: plural and group, kind.
const OPTIONAL: [(&str, &str); 10] = [
    ("clusternetworkpolicies.policy.networking.k8s.io", "ClusterNetworkPolicy"),
    ("tiers.projectcalico.org", "Tier"),
    ("networksets.projectcalico.org", "NetworkSet"),
    ("globalnetworksets.projectcalico.org", "GlobalNetworkSet"),
    ("hostendpoints.projectcalico.org", "HostEndpoint"),
    ("networkpolicies.projectcalico.org", "NetworkPolicy"),
    ("globalnetworkpolicies.projectcalico.org", "GlobalNetworkPolicy"),
    ("stagednetworkpolicies.projectcalico.org", "StagedNetworkPolicy"),
    ("stagedglobalnetworkpolicies.projectcalico.org", "StagedGlobalNetworkPolicy"),
    ("stagedkubernetesnetworkpolicies.projectcalico.org", "StagedKubernetesNetworkPolicy"),
];

/// The kind of the objects of a resource.
pub(super) fn kind_of(resource: &str) -> &'static str {
    let mut all = BUILT_IN.iter().chain(&OPTIONAL);
    all.find(|it| it.0 == resource).map_or("Unknown", |it| it.1)
}

/// An object in one of its states.
#[derive(Debug)]
pub(super) struct Stored {
    /// As JSON.
    pub text: Bytes,
    pub namespace: Option<Box<str>>,
    /// Its labels.
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// `status.phase`.
    pub phase: Option<Box<str>>,
    uid: Value,
}

impl Stored {
    pub fn of(object: &Value) -> Self {
        let text = |value: &Value| value.as_str().map(Box::from);
        let metadata = &object["metadata"];
        let labels = metadata["labels"].as_object();
        Self {
            text: object.to_string().into(),
            namespace: text(&metadata["namespace"]),
            labels: labels
                .into_iter()
                .flatten()
                .map(|(key, value)| (key.as_str().into(), value.as_str().unwrap_or_default().into()))
                .collect(),
            phase: text(&object["status"]["phase"]),
            uid: metadata["uid"].clone(),
        }
    }

    /// The object itself.
    pub fn value(&self) -> Value {
        // It was made of one.
        serde_json::from_slice(&self.text).unwrap_or_default()
    }
}

/// One change.
#[derive(Clone, Debug)]
pub(super) struct Event {
    /// The version that it led to.
    pub version: u64,
    /// `plural.group`.
    pub resource: Arc<str>,
    /// What was there before.
    pub before: Option<Arc<Stored>>,
    /// What is there now; `None` if it is gone.
    pub after: Option<Arc<Stored>>,
}

/// What a list that is told in pages has not told yet.
#[derive(Debug)]
pub(super) struct Rest {
    /// When the list was begun.
    pub version: u64,
    pub objects: Vec<Arc<Stored>>,
}

/// All objects, and their history.
#[derive(Debug)]
pub struct Objects {
    version: u64,
    /// Versions before this one are forgotten.
    oldest: u64,
    served: BTreeSet<String>,
    present: BTreeMap<Arc<str>, BTreeMap<String, Arc<Stored>>>,
    history: Vec<Event>,
    rests: BTreeMap<String, Rest>,
    /// Rests so far.
    tokens: usize,
}

impl Default for Objects {
    /// No objects, of resources that a cluster has by itself.
    fn default() -> Self {
        Self {
            version: 1,
            oldest: 1,
            served: BUILT_IN.iter().map(|(resource, _)| (*resource).to_owned()).collect(),
            present: BTreeMap::new(),
            history: Vec::new(),
            rests: BTreeMap::new(),
            tokens: 0,
        }
    }
}

impl Objects {
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn is_served(&self, resource: &str) -> bool {
        self.served.contains(resource)
    }

    pub(super) fn serve(&mut self, resource: &str, served: bool) {
        if served {
            self.served.insert(resource.into());
        } else {
            self.served.remove(resource);
            self.present.remove(resource);
        }
    }

    pub(super) fn get(&self, resource: &str, key: &str) -> Option<&Arc<Stored>> {
        self.present.get(resource)?.get(key)
    }

    pub(super) fn all(&self, resource: &str) -> impl Iterator<Item = &Arc<Stored>> {
        self.present.get(resource).into_iter().flat_map(BTreeMap::values)
    }

    pub(super) fn put(&mut self, mut object: Value) {
        let resource = resource_of(&object);
        let key = key_of(&object);
        self.version += 1;
        let resource = match self.present.get_key_value(&*resource) {
            Some((known, _)) => Arc::clone(known),
            None => resource.into(),
        };
        let present = self.present.entry(Arc::clone(&resource)).or_default();
        let before = present.get(&key).cloned();
        let metadata = &mut object["metadata"];
        metadata["resourceVersion"] = json!(self.version.to_string());
        if metadata.get("uid").is_none() {
            let uid = before.as_ref().map(|it| it.uid.clone());
            metadata["uid"] = uid.unwrap_or_else(|| json!(format!("uid-{}", self.version)));
        }
        if metadata.get("managedFields").is_none() {
            // What every object of a real server has, and no client wants.
            metadata["managedFields"] = json!([{"manager": "tests", "fieldsV1": {"f:metadata": {}}}]);
        }
        let stored = Arc::new(Stored::of(&object));
        present.insert(key, Arc::clone(&stored));
        self.history.push(Event { version: self.version, resource, before, after: Some(stored) });
    }

    pub(super) fn delete(&mut self, resource: &str, key: &str) {
        let Some((resource, before)) =
            self.present.get_key_value(resource).map(|it| Arc::clone(it.0)).and_then(|resource| {
                Some((Arc::clone(&resource), self.present.get_mut(&resource)?.remove(key)?))
            })
        else {
            return;
        };
        self.version += 1;
        self.history.push(Event { version: self.version, resource, before: Some(before), after: None });
    }

    /// Keeps what follows on a page, and returns what it is asked for with.
    pub(super) fn keep_rest(&mut self, rest: Rest) -> String {
        self.tokens += 1;
        let token = format!("rest/{}", self.tokens);
        self.rests.insert(token.clone(), rest);
        token
    }

    pub(super) fn take_rest(&mut self, token: &str) -> Option<Rest> {
        self.rests.remove(token)
    }

    /// Deletes a namespace and all that is in it.
    pub(super) fn delete_namespace(&mut self, name: &str) {
        let prefix = format!("{name}/");
        let inside = |(resource, objects): (&Arc<str>, &BTreeMap<String, Arc<Stored>>)| {
            let keys = objects.keys().filter(|key| key.starts_with(&prefix));
            keys.map(|key| (Arc::clone(resource), key.clone())).collect::<Vec<_>>()
        };
        for (resource, key) in self.present.iter().flat_map(inside).collect::<Vec<_>>() {
            self.delete(&resource, &key);
        }
        self.delete("namespaces", name);
    }

    /// Forgets the history.
    pub(super) fn compact(&mut self) {
        self.rests.clear();
        self.version += 1;
        self.oldest = self.version;
        self.history = Vec::new();
    }

    /// What has become of a resource since a version; `None` if that is forgotten.
    pub(super) fn since(&self, resource: &str, version: u64) -> Option<Vec<Event>> {
        if version < self.oldest {
            return None;
        }
        let first = self.history.partition_point(|event| event.version <= version);
        Some(self.history[first..].iter().filter(|event| *event.resource == *resource).cloned().collect())
    }
}

/// `plural.group` of an object, by the rule that English and Kubernetes share.
pub(super) fn resource_of(object: &Value) -> String {
    let kind = object["kind"].as_str().unwrap_or_default().to_lowercase();
    let plural =
        if let Some(stem) = kind.strip_suffix('y') { format!("{stem}ies") } else { format!("{kind}s") };
    match object["apiVersion"].as_str().and_then(|version| version.split_once('/')) {
        Some((group, _)) => format!("{plural}.{group}"),
        None => plural,
    }
}

pub(super) fn key_of(object: &Value) -> String {
    let metadata = &object["metadata"];
    let name = metadata["name"].as_str().unwrap_or_default();
    match metadata["namespace"].as_str() {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_is_told_from_a_version_on_until_it_is_forgotten() {
        let mut objects = Objects::default();
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "ns"}});
        objects.put(pod.clone());
        let first = objects.version();
        objects.put(pod);
        objects.delete("pods", "ns/a");
        assert_eq!(objects.since("pods", first).map(|it| it.len()), Some(2));
        assert_eq!(objects.since("nodes", first).map(|it| it.len()), Some(0));
        objects.compact();
        assert!(objects.since("pods", first).is_none());
        assert_eq!(objects.since("pods", objects.version()).map(|it| it.len()), Some(0));
    }

    #[test]
    fn an_object_keeps_its_uid_and_gets_a_new_version() {
        let mut objects = Objects::default();
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "ns"}});
        let mut states = Vec::new();
        for _ in 0..2 {
            objects.put(pod.clone());
            states.push(objects.get("pods", "ns/a").unwrap().value());
        }
        assert_eq!(states[0]["metadata"]["uid"], states[1]["metadata"]["uid"]);
        assert_ne!(states[0]["metadata"]["resourceVersion"], states[1]["metadata"]["resourceVersion"]);
    }

    #[test]
    fn resources_have_the_plural_of_their_kind() {
        let of = |version: &str, kind: &str| resource_of(&json!({"apiVersion": version, "kind": kind}));
        assert_eq!(of("v1", "Pod"), "pods");
        assert_eq!(of("networking.k8s.io/v1", "NetworkPolicy"), "networkpolicies.networking.k8s.io");
    }
}
