//! The order of policies and of tiers.

use crate::field::Field;
use ipamd_model::field::FieldError;

/// A number that says a place in an order; `None` where there is none.
pub(super) fn order(spec: &Field<'_>) -> Result<Option<f64>, FieldError> {
    let Some(order) = spec.get("order")? else { return Ok(None) };
    let number = order.value().as_f64().filter(|it| it.is_finite());
    // Minus zero is zero.
    number.map(|it| Some(it + 0.0)).ok_or_else(|| order.is_not("a number"))
}
