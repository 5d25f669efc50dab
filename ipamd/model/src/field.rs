//! Errors of an object's fields.

/// A field that cannot be understood, and so its object.
#[derive(serde::Serialize, Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct FieldError {
    /// The field, such as `spec.ingress[0].ports[1].port`; empty for the object as a whole.
    pub field: String,
    /// What is wrong with it: a clause that names the value.
    pub reason: String,
}

/// A text for a message: in quotes, without control characters, not long.
pub fn shown(text: &str) -> String {
    format!("{:?}", clipped(text))
}

/// A text for a message, not long.
pub fn clipped(text: &str) -> String {
    const LONGEST: usize = 80;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.into(),
    }
}
