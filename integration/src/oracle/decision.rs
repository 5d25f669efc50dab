//! What rules say.

/// What a rule that matches says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It passes.
    Allow,
    /// It does not.
    Deny,
    /// The next tier is asked.
    Pass,
}
