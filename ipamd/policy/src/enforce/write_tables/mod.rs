//! Writes the tables, in phases that each take what the one before returns:
//!
//! ```text
//! concerned endpoints --> Resolved --> Plan --> CheckedPlan -- write --> Writes
//! ```
//!
//! The writes are made in an order in which no packet sees half of a change.

mod checked_plan;
mod plan;
mod resolved;

use std::collections::BTreeSet;

use ipamd_api::AttachmentKey;

use self::{checked_plan::CheckedPlan, plan::Plan, resolved::Resolved};
use super::{cluster::Cluster, write_error::WriteError, writes::Writes, written::Written};
use crate::tables::Tables;

/// Writes the tables so that they match the cluster. `concerned` are the endpoints whose rules may have changed.
///
/// # Errors
/// [`WriteError::Overflow`] before anything is written, [`WriteError::Table`] when a part of it is.
pub(super) fn write_tables(
    concerned: &BTreeSet<AttachmentKey>,
    cluster: &mut Cluster,
    written: &mut Written,
    tables: &mut dyn Tables,
) -> Result<Writes, WriteError> {
    let limits = tables.limits();
    let resolved = Resolved::of(concerned, cluster, written);
    let plan = Plan::of(resolved, cluster, written, limits)?;
    let checked = CheckedPlan::of(plan, cluster, written, limits)?;
    Ok(checked.write(cluster, written, tables)?)
}
