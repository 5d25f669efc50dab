//! Endpoints that come and go, in the queue of the lock that a change of the cluster may have.

use std::{sync::Arc, time::Duration};

use ipamd_api::AttachmentKey;
use tokio::{sync::oneshot, time::timeout};

use super::{EnforceError, LocalEndpoint, Slot, slots::EndpointSlot};

/// What waits for the state.
#[derive(Debug)]
pub(super) enum Waiting {
    /// An endpoint that is to be enforced.
    Admit(Box<Entrant>),
    /// One that is to be forgotten.
    Dismiss(AttachmentKey),
}

/// An endpoint in the queue.
#[derive(Debug)]
pub(super) struct Entrant {
    pub endpoint: LocalEndpoint,
    pub place: Arc<EndpointSlot>,
    pub answer: oneshot::Sender<Result<Slot, EnforceError>>,
}

/// An endpoint that is on its way into the tables. It has its place in them already, at which everything is dropped until its
/// policy is there.
#[derive(Debug)]
pub struct Admission {
    place: Arc<EndpointSlot>,
    outcome: oneshot::Receiver<Result<Slot, EnforceError>>,
}

impl Admission {
    /// An admission and what is to wait for the state.
    pub(super) fn new(endpoint: LocalEndpoint, place: Arc<EndpointSlot>) -> (Self, Waiting) {
        let (answer, outcome) = oneshot::channel();
        let entrant = Entrant { endpoint, place: Arc::clone(&place), answer };
        (Self { place, outcome }, Waiting::Admit(Box::new(entrant)))
    }

    /// What comes of it, if that is known within so long.
    pub async fn within(&mut self, patience: Duration) -> Option<Result<Slot, EnforceError>> {
        let outcome = timeout(patience, &mut self.outcome).await.ok()?;
        Some(outcome.unwrap_or(Err(EnforceError::Abandoned)))
    }

    /// Goes on without waiting: with the place, at which everything is dropped until the policy is there. From here on it is the
    /// state that keeps the place, tells if the policy does not fit, and tries again.
    ///
    /// # Errors
    /// Why it is not enforced, if that has just become known.
    pub fn go_on(mut self) -> Result<Slot, EnforceError> {
        // Whoever comes later sees that nobody listens; what came before this is here.
        self.outcome.close();
        self.outcome.try_recv().unwrap_or(Ok(self.place.slot()))
    }
}
