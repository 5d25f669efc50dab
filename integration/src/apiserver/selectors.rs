//! The selectors of requests, as far as clients of nodes use them.

use super::objects::Stored;

/// What a request asks for, of a resource.
#[derive(Clone, Debug, Default)]
pub(super) struct Selector {
    /// Labels that must not be there.
    without_labels: Vec<String>,
    /// Labels that must be there, with these values.
    labels: Vec<(String, String)>,
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
            match (part.strip_prefix('!'), part.split_once('=')) {
                (Some(without), _) => selector.without_labels.push(without.to_owned()),
                (None, Some((key, value))) if !key.ends_with('!') => {
                    selector.labels.push((key.to_owned(), value.trim_start_matches('=').to_owned()));
                }
                _ => return None,
            }
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
        let has =
            |label: &str| object.labels.iter().find(|(key, _)| **key == *label).map(|(_, value)| &**value);
        self.without_labels.iter().all(|label| has(label).is_none())
            && self.labels.iter().all(|(label, value)| has(label) == Some(value))
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
        let equal = Selector::of("a=b,!c", "", None).unwrap();
        let selects = |labels| equal.selects(&Stored::of(&json!({"metadata": {"labels": labels}})));
        assert!(selects(json!({"a": "b"})));
        assert!(!selects(json!({"a": "x"})) && !selects(json!({})) && !selects(json!({"a": "b", "c": "d"})));
        assert!(Selector::of("a in (b)", "", None).is_none());
        assert!(Selector::of("", "spec.x=y", None).is_none());
    }
}
