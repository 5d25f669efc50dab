//! Errors that are no fault of the client's.

use ipamd_api::{ApiError, ErrorKind};

/// An internal error.
pub(super) fn internal(error: impl std::fmt::Display) -> ApiError {
    ApiError::new(ErrorKind::Internal, error.to_string())
}
