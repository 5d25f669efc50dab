//! What a request asks for, once its path and query are read.

use std::collections::BTreeMap;

use hyper::body::Bytes;
use serde_json::json;

use super::{
    objects::{Stored, kind_of},
    paths::Target,
    selectors::Selector,
};

/// What is asked for.
pub(super) struct Asked {
    pub target: Target,
    pub query: BTreeMap<String, String>,
    pub selector: Selector,
    /// Only metadata is wanted.
    pub metadata: bool,
    /// A list may be compressed.
    pub wants_gzip: bool,
}

impl Asked {
    pub fn get(&self, key: &str) -> &str {
        self.query.get(key).map(String::as_str).unwrap_or_default()
    }

    /// What each object is, as it is wanted: version and kind.
    pub fn types(&self) -> (&str, &'static str) {
        if self.metadata {
            ("meta.k8s.io/v1", "PartialObjectMetadata")
        } else {
            (&self.target.api_version, kind_of(&self.target.resource))
        }
    }

    /// An object as it is wanted, as JSON.
    pub fn shown(&self, object: &Stored) -> Bytes {
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
