//! The patterns of DNS names in the tables.

use std::collections::BTreeSet;

use super::{cluster::Cluster, written::Written};
use crate::tables::{TableError, Tables};
use ipamd_model::domain::DomainId;

/// Adds the patterns that maps have which are about to be in force. So a name belongs to a new pattern before a map asks for it, and to
/// the former one as long as a map asks for that. Where both together do not fit, the new ones come when the former ones go.
///
/// # Errors
/// Why they could not be written.
pub(super) fn announce_domains(
    cluster: &mut Cluster,
    written: &Written,
    tables: &mut dyn Tables,
) -> Result<(), TableError> {
    let known = cluster.domains.in_tables();
    if written.domains.keys().all(|id| known.contains(id)) {
        return Ok(());
    }
    let all: BTreeSet<_> = known.iter().chain(written.domains.keys()).copied().collect();
    let limits = tables.limits();
    let fit = all.len() <= limits.domains as usize
        && cluster.domains.deepest(&all) <= limits.domains_of_name as usize;
    if fit { put(cluster, all, tables) } else { Ok(()) }
}

fn put(cluster: &mut Cluster, ids: BTreeSet<DomainId>, tables: &mut dyn Tables) -> Result<(), TableError> {
    let patterns = ids.iter().filter_map(|id| Some((cluster.domains.pattern(*id)?.clone(), *id)));
    tables.put_domains(&patterns.collect::<Vec<_>>())?;
    cluster.domains.written(ids);
    Ok(())
}

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
    put(cluster, written.domains.keys().copied().collect(), tables)
}
