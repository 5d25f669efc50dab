//! The selectors of requests, as far as clients of nodes use them.

use serde_json::Value;

/// What a request asks for, of a resource.
#[derive(Clone, Debug, Default)]
pub(super) struct Selector {
    /// Labels that must not be there.
    without_labels: Vec<String>,
    /// Fields that must, or must not, have a value.
    fields: Vec<(String, String, bool)>,
    namespace: Option<String>,
}

impl Selector {
    /// `labelSelector` and `fieldSelector` of a query; `None` if this server does not understand them.
    pub fn of(labels: &str, fields: &str, namespace: Option<&str>) -> Option<Self> {
        let parts = |text: &str| {
            text.split(',').filter(|part| !part.is_empty()).map(ToOwned::to_owned).collect::<Vec<_>>()
        };
        let mut selector = Self { namespace: namespace.map(ToOwned::to_owned), ..Self::default() };
        for part in parts(labels) {
            selector.without_labels.push(part.strip_prefix('!')?.to_owned());
        }
        for part in parts(fields) {
            let (field, value, equal) = match part.split_once("!=") {
                Some((field, value)) => (field, value, false),
                None => part.split_once('=').map(|(field, value)| (field, value, true))?,
            };
            selector.fields.push((format!("/{}", field.replace('.', "/")), value.to_owned(), equal));
        }
        Some(selector)
    }

    pub fn selects(&self, object: &Value) -> bool {
        let metadata = &object["metadata"];
        let field = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
        self.without_labels.iter().all(|label| metadata["labels"].get(label).is_none())
            && self.fields.iter().all(|(path, value, equal)| (field(path) == value) == *equal)
            && self.namespace.as_ref().is_none_or(|it| metadata["namespace"] == **it)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn labels_that_are_there_and_phases_that_are_over_are_left_out() {
        let selector = Selector::of("!a/b", "status.phase!=Failed", None).unwrap();
        assert!(selector.selects(&json!({"metadata": {}})));
        assert!(!selector.selects(&json!({"metadata": {"labels": {"a/b": "x"}}})));
        assert!(!selector.selects(&json!({"metadata": {}, "status": {"phase": "Failed"}})));
        assert!(Selector::of("a in (b)", "", None).is_none());
    }
}
