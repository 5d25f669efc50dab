//! Endpoints that come and go, in the queue of the lock that a change of the cluster may have.

use std::{sync::Arc, time::Duration};

use ipamd_api::AttachmentKey;
use tokio::{sync::oneshot, time::timeout};

use super::{error::EnforceError, slots::EndpointSlot};
use crate::compile::policy_inputs::LocalEndpoint;
use ipamd_model::endpoint::Slot;

/// A queued change of the endpoints.
#[derive(Debug)]
pub(super) enum QueuedChange {
    /// An endpoint is added.
    Admit(Box<QueuedEndpoint>),
    /// An endpoint is removed.
    Dismiss(AttachmentKey),
}

/// An endpoint in the queue.
#[derive(Debug)]
pub(super) struct QueuedEndpoint {
    pub endpoint: LocalEndpoint,
    pub slot: Arc<EndpointSlot>,
    pub answer: oneshot::Sender<Result<Slot, EnforceError>>,
}

/// An endpoint in the queue, seen by its ADD. It has its slot already, where everything is dropped until its policy is
/// written.
#[derive(Debug)]
pub struct Admission {
    slot: Arc<EndpointSlot>,
    outcome: oneshot::Receiver<Result<Slot, EnforceError>>,
}

impl Admission {
    /// An admission, and the change to queue.
    pub(super) fn new(endpoint: LocalEndpoint, slot: Arc<EndpointSlot>) -> (Self, QueuedChange) {
        let (answer, outcome) = oneshot::channel();
        let queued = QueuedEndpoint { endpoint, slot: Arc::clone(&slot), answer };
        (Self { slot, outcome }, QueuedChange::Admit(Box::new(queued)))
    }

    /// The outcome, if it is known within this time.
    pub async fn within(&mut self, patience: Duration) -> Option<Result<Slot, EnforceError>> {
        let outcome = timeout(patience, &mut self.outcome).await.ok()?;
        Some(outcome.unwrap_or(Err(EnforceError::Abandoned)))
    }

    /// Returns the slot without waiting. Everything is dropped there until the policy is written. From now on the state
    /// owns the slot, logs if the policy does not fit, and tries again.
    ///
    /// # Errors
    /// Why it is not enforced, if that has just become known.
    pub fn go_on(mut self) -> Result<Slot, EnforceError> {
        // An outcome that arrives later finds the channel closed; an earlier one is in it.
        self.outcome.close();
        self.outcome.try_recv().unwrap_or(Ok(self.slot.number()))
    }
}
