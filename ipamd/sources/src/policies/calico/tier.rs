//! Tiers.

use super::order::order;
use crate::{
    field::{Field, shown},
    v1,
};
use ipamd_model::{
    field::FieldError,
    objects::{Kind, Object},
    policy::{Order, Tier, TierDefault},
};

/// Longest name of a tier.
const LONGEST_TIER: usize = 63;

/// Reads a Tier. Those that are there without being declared may be declared, as what they are.
pub(super) fn read(root: &Field<'_>) -> Result<Object, FieldError> {
    let id = v1::id(Kind::Tier, root)?;
    check_name(&id.name).map_err(|reason| FieldError { field: "metadata.name".into(), reason })?;
    let (mut order_given, mut default) = (None, TierDefault::Deny);
    if let Some(spec) = root.get("spec")? {
        spec.only(&["order", "defaultAction"])?;
        order_given = order(&spec)?;
        default = match spec.optional_text("defaultAction")? {
            None | Some("Deny") => TierDefault::Deny,
            Some("Pass") => TierDefault::Pass,
            Some(other) => {
                let reason = format!("{} is neither Deny nor Pass", shown(other));
                return Err(FieldError { field: "spec.defaultAction".into(), reason });
            }
        };
    }
    let tier = Tier { name: id.name, order: Order(order_given), default };
    if let Some(fixed) = Tier::built_in().into_iter().find(|it| it.name == tier.name) {
        check_fixed(&tier, &fixed)?;
    }
    Ok(Object::Tier(tier))
}

/// Checks the name of a tier: Calico's policies have it before a dot in their names, so that there is none in it.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_label =
        name.chars().all(|c| is_part(c) || c == '-') && name.starts_with(is_part) && name.ends_with(is_part);
    if is_label && name.len() <= LONGEST_TIER {
        return Ok(());
    }
    Err(format!(
        "{} cannot be the name of a tier: small letters, digits and '-' between them, {LONGEST_TIER} at most",
        shown(name)
    ))
}

fn check_fixed(tier: &Tier, fixed: &Tier) -> Result<(), FieldError> {
    let error = |field: &str, reason| Err(FieldError { field: field.into(), reason });
    if tier.order != fixed.order {
        let order = fixed.order.0.unwrap_or_default();
        return error("spec.order", format!("the tier {} has the order {order}, always", tier.name));
    }
    if tier.default != fixed.default {
        return error(
            "spec.defaultAction",
            format!("the tier {} has {:?}, always", tier.name, fixed.default),
        );
    }
    Ok(())
}
