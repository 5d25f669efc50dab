//! The selectors of requests, as far as clients of nodes use them.

use super::objects::Stored;

/// What a request asks for, of a resource.
#[derive(Clone, Debug, Default)]
pub(super) struct Selector {
    /// Labels that must not be there.
    without_labels: Vec<String>,
    /// What `status.phase` must be, or must not be: the field that clients of nodes select by.
    phases: Vec<(String, bool)>,
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
            if field != "status.phase" {
                return None;
            }
            selector.phases.push((value.to_owned(), equal));
        }
        Some(selector)
    }

    pub fn selects(&self, object: &Stored) -> bool {
        let phase = object.phase.as_deref().unwrap_or_default();
        self.without_labels.iter().all(|label| !object.labels.iter().any(|key| **key == **label))
            && self.phases.iter().all(|(value, equal)| (phase == value) == *equal)
            && self.namespace.as_ref().is_none_or(|it| object.namespace.as_deref() == Some(&**it))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn labels_that_are_there_and_phases_that_are_over_are_left_out() {
        let selector = Selector::of("!a/b", "status.phase!=Failed", None).unwrap();
        let selects = |object| selector.selects(&Stored::of(&object));
        assert!(selects(json!({"metadata": {}})));
        assert!(!selects(json!({"metadata": {"labels": {"a/b": "x"}}})));
        assert!(!selects(json!({"metadata": {}, "status": {"phase": "Failed"}})));
        assert!(Selector::of("a in (b)", "", None).is_none());
        assert!(Selector::of("", "spec.x=y", None).is_none());
    }
}
