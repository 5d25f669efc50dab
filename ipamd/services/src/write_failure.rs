//! What follows when the tables cannot be written.

use super::tables::TableError;

/// Logs a failed write; `Balancer::retry` repairs it.
pub(super) fn has_failed(written: &Result<(), TableError>) -> bool {
    if let Err(error) = written {
        tracing::error!(%error, "cannot write the tables of services; trying again");
    }
    written.is_err()
}
