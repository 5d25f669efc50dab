//! The order in which policies are asked.

use std::{collections::BTreeMap, sync::Arc};

use ipamd_model::{
    objects::ObjectId,
    policy::{Order, Policy, Tier},
};

/// The place of a policy among those that select an endpoint. The fields are compared in this order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    tier_order: Order,
    tier: Arc<str>,
    order: Order,
    name: Arc<str>,
    namespace: Option<Arc<str>>,
    id: ObjectId,
}

impl Rank {
    /// The place of a policy of a tier.
    pub fn new(tier: &Tier, policy: &Policy) -> Self {
        Self {
            tier_order: tier.order,
            tier: Arc::clone(&tier.name),
            order: policy.order,
            name: Arc::clone(&policy.id.name),
            namespace: policy.id.namespace.clone(),
            // A staged policy has the place that it would have.
            id: policy.id.enforced(),
        }
    }

    /// The name of the policy's tier.
    pub fn tier(&self) -> &Arc<str> {
        &self.tier
    }
}

/// The policies that select an endpoint, in the order in which they are asked.
pub type Selecting = BTreeMap<Rank, Arc<Policy>>;
