//! The patterns of DNS names in the tables.

use std::collections::BTreeSet;

use super::{cluster::Cluster, written::Written};
use crate::tables::{TableError, Tables};

/// Has the tables know the patterns that the policies in force mean, and no others. While a set is filled that is not in force, they
/// keep those of the one that is.
///
/// # Errors
/// Why they could not be written.
pub(super) fn put_domains(
    cluster: &mut Cluster,
    written: &Written,
    tables: &mut dyn Tables,
) -> Result<(), TableError> {
    if !written.in_force || cluster.domains.in_tables().iter().eq(written.domains.keys()) {
        return Ok(());
    }
    let patterns = written.domains.keys().filter_map(|id| Some((cluster.domains.pattern(*id)?.clone(), *id)));
    tables.put_domains(&patterns.collect::<Vec<_>>())?;
    cluster.domains.written(written.domains.keys().copied().collect::<BTreeSet<_>>());
    Ok(())
}
