//! VERSION: which versions of the specification the plugin speaks.

use serde::Serialize;

use crate::version::CniVersion;

/// The list of supported versions, in the version that the caller speaks.
pub fn print(asked: &str) -> serde_json::Result<Vec<u8>> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Output<'a> {
        cni_version: &'a str,
        supported_versions: [&'a str; CniVersion::ALL.len()],
    }
    serde_json::to_vec(&Output {
        cni_version: asked,
        supported_versions: CniVersion::ALL.map(CniVersion::as_str),
    })
}
