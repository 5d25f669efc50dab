//! Staged policies: policies that are tried out and not enforced.

use std::sync::Arc;

use super::spec::{self, ACTION};
use crate::{
    field::{Field, shown},
    policies::kubernetes,
    v1,
};
use ipamd_model::{
    field::FieldError,
    objects::{Kind, Object, Origin},
    staged::{StagedAction, StagedPolicy},
};

/// Reads a policy of one of the staged kinds. Only one that is to be set is read in full: of a deletion the rest means nothing, and
/// programs that propose policies write the others.
pub(super) fn read(kind: Kind, root: &Field<'_>, origin: Option<Origin>) -> Result<Object, FieldError> {
    let id = v1::id(kind, root)?;
    let spec = root.need("spec")?;
    let action = match spec.optional_text(ACTION)? {
        None | Some("" | "Set") => StagedAction::Set(Arc::new(match kind {
            Kind::StagedKubernetesNetworkPolicy => kubernetes::policy(kind, root, origin.clone())?,
            _ => spec::read(kind, root, origin.clone())?,
        })),
        Some("Delete") => StagedAction::Delete,
        Some("Ignore") => StagedAction::Ignore,
        Some("Learn") => StagedAction::Learn,
        Some(other) => {
            let reason = format!("{} is not one of Set, Delete, Ignore and Learn", shown(other));
            return Err(FieldError { field: format!("spec.{ACTION}"), reason });
        }
    };
    Ok(Object::Staged(Arc::new(StagedPolicy { id, origin, action })))
}
