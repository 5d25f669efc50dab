//! Why an endpoint is not enforced.

use super::write_error::WriteError;
use crate::tables::TableError;

/// Why an endpoint is not enforced.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnforceError {
    /// All slots are in use.
    #[error("there are {0} endpoints, and there is no room for more")]
    Slots(u32),
    /// Its rules, or its addresses, do not fit.
    #[error("its policy does not fit: {0}")]
    Fit(String),
    /// The tables could not be written.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The cluster is not known yet.
    #[error("the policies are not known yet")]
    NotStarted,
    /// The thread that was to enforce it has failed.
    #[error("whoever was to enforce its policy has failed; see the log")]
    Abandoned,
}

impl From<WriteError> for EnforceError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Table(error) => Self::Table(error),
            WriteError::Overflow(overflow) => Self::Fit(overflow.to_string()),
        }
    }
}
