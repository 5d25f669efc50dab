//! Tiers.

use std::collections::BTreeMap;

use serde_json::Value;

use super::document::text;

/// A tier of policies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tier {
    /// Its place; `None`: behind those that have one.
    pub order: Option<f64>,
    /// What its policies select and do not decide goes on to the next tier, where else it would be dropped.
    pub passes: bool,
}

impl Tier {
    /// The tiers that are there without being declared.
    pub fn built_in() -> BTreeMap<String, Self> {
        let tiers = [
            ("kube-admin", 1_000.0, true),
            ("default", 1_000_000.0, false),
            ("kube-baseline", 10_000_000.0, true),
        ];
        let tiers = tiers.map(|(name, order, passes)| (name.to_owned(), Self { order: Some(order), passes }));
        tiers.into_iter().collect()
    }

    /// Reads a tier.
    pub fn read(document: &Value) -> Self {
        let spec = &document["spec"];
        Self { order: spec["order"].as_f64(), passes: text(spec, "defaultAction") == "Pass" }
    }
}
