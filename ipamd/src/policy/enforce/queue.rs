//! Endpoints that come and go while a change of the cluster is under way: they wait in a queue, in their order, and whoever has
//! the state next takes them in. So nobody who adds or deletes a pod waits for that change.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use ipamd_api::AttachmentKey;
use tokio::sync::oneshot;

use super::{EnforceError, LocalEndpoint, Slot};

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
    pub begun: Arc<AtomicBool>,
    pub answer: oneshot::Sender<Result<Slot, EnforceError>>,
}

/// An endpoint that is on its way into the tables. It has its place in them already, at which everything is dropped until its
/// policy is there.
#[derive(Debug)]
pub struct Admission {
    /// Its place.
    pub slot: Slot,
    /// What comes of it.
    pub outcome: oneshot::Receiver<Result<Slot, EnforceError>>,
    pub(super) begun: Arc<AtomicBool>,
}

impl Admission {
    /// Whether its own policy is being worked at, and not waited for.
    pub fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }
}

/// Places in the tables, by the endpoints that have them.
#[derive(Debug, Default)]
pub(super) struct Slots {
    held: BTreeMap<AttachmentKey, Held>,
    used: BTreeSet<Slot>,
    last: u32,
}

#[derive(Debug)]
struct Held {
    slot: Slot,
    /// So many wait for the state with it.
    claims: u32,
}

impl Slots {
    /// The place of an endpoint, which it keeps at least until [`Self::settle`]. One that has none gets the one that is asked
    /// for, if it is free, or the next one after the last that was given: a place rests before it is given again.
    pub fn claim(&mut self, key: &AttachmentKey, wanted: Option<Slot>, most: u32) -> Option<Slot> {
        if let Some(held) = self.held.get_mut(key) {
            held.claims += 1;
            return Some(held.slot);
        }
        let is_free = |slot: &Slot| (1..=most).contains(&slot.0) && !self.used.contains(slot);
        let slot = if let Some(slot) = wanted.filter(is_free) {
            slot
        } else {
            let order = (self.last + 1..=most).chain(1..=self.last.min(most));
            let slot = order.map(Slot).find(is_free)?;
            self.last = slot.0;
            slot
        };
        self.used.insert(slot);
        self.held.insert(key.clone(), Held { slot, claims: 1 });
        Some(slot)
    }

    /// A claim is over; `placed`: the endpoint is in the state.
    pub fn settle(&mut self, key: &AttachmentKey, placed: bool) {
        let Some(held) = self.held.get_mut(key) else { return };
        held.claims = held.claims.saturating_sub(1);
        if !placed {
            self.free(key);
        }
    }

    /// The endpoint is in the state no more. One that comes again and waits already keeps its place.
    pub fn free(&mut self, key: &AttachmentKey) {
        if let Some(Held { slot, .. }) = self.held.get(key).filter(|held| held.claims == 0) {
            self.used.remove(slot);
            self.held.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: &str) -> AttachmentKey {
        AttachmentKey { network: "n".into(), container_id: id.into(), ifname: "eth0".into() }
    }

    #[test]
    fn a_place_rests_before_it_is_given_again() {
        let mut slots = Slots::default();
        let mut place = |id: &str| {
            let slot = slots.claim(&key(id), None, 3).map(|slot| slot.0);
            slots.settle(&key(id), true);
            if id == "b" {
                slots.free(&key(id));
            }
            slot
        };
        assert_eq!(
            [place("a"), place("b"), place("c"), place("d"), place("e")],
            [Some(1), Some(2), Some(3), Some(2), None]
        );
    }

    #[test]
    fn one_that_comes_again_before_it_is_forgotten_keeps_its_place() {
        let mut slots = Slots::default();
        assert_eq!(slots.claim(&key("a"), Some(Slot(7)), 9), Some(Slot(7)));
        slots.settle(&key("a"), true);
        assert_eq!(slots.claim(&key("a"), None, 9), Some(Slot(7)), "it waits to come again");
        slots.free(&key("a"));
        assert_eq!(slots.claim(&key("b"), Some(Slot(7)), 9), Some(Slot(1)), "and nobody else gets it");
        slots.settle(&key("a"), false);
        assert_eq!(
            slots.claim(&key("c"), Some(Slot(7)), 9),
            Some(Slot(7)),
            "until it does not come after all"
        );
    }
}
