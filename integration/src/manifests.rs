//! The manifests that Cambric is installed by.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Where they are.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../conf/kubernetes")
}

/// The documents of a file of the folder, with aliases resolved.
pub fn read(file: &str) -> Result<Vec<Value>> {
    let path = folder().join(file);
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(&text).with_context(|| format!("{} is no YAML", path.display()))?;
    Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
}

/// The first object of a kind in a file, as the API has it.
pub fn find<T: DeserializeOwned>(file: &str, kind: &str) -> Result<T> {
    let object = read(file)?.into_iter().find(|it| it["kind"] == kind);
    let object = object.with_context(|| format!("{file} has no {kind}"))?;
    serde_json::from_value(object).with_context(|| format!("the {kind} of {file}"))
}
