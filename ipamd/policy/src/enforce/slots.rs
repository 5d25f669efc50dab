//! Slots of endpoints in the policy tables. An endpoint gets its slot, and is served with it, before its policy is
//! written, so a slot must be empty when it is assigned. A slot whose old entries may still be there is not assigned.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use ipamd_model::endpoint::Slot;

use crate::tables::{Posture, TableError, Tables};
use ipamd_runtime::queued_lock::locked;

/// The assigned slots.
#[derive(Debug, Default)]
pub(super) struct SlotAllocator(Mutex<Given>);

#[derive(Debug, Default)]
struct Given {
    /// Slots that are assigned or unclean.
    taken: BTreeSet<Slot>,
    /// Unassigned slots for which the set in force may still have a posture.
    unclean: BTreeSet<Slot>,
    last: u32,
}

/// The slot of one endpoint, until this is dropped. Only this writes its posture.
#[derive(Debug)]
pub(super) struct EndpointSlot {
    slot: Slot,
    /// Whether the tables may have a posture for it.
    is_written: AtomicBool,
    slots: Arc<SlotAllocator>,
}

impl SlotAllocator {
    /// Assigns an empty slot: the wanted one if it is free, otherwise the next one after the last that was assigned, so
    /// that a freed slot rests. Returns `None` if none is free.
    pub fn claim(self: &Arc<Self>, wanted: Option<Slot>, most: u32) -> Option<Arc<EndpointSlot>> {
        let mut given = locked(&self.0);
        let is_free = |slot: &Slot| (1..=most).contains(&slot.0) && !given.taken.contains(slot);
        let slot = if let Some(slot) = wanted.filter(is_free) {
            slot
        } else {
            let order = (given.last + 1..=most).chain(1..=given.last.min(most));
            let slot = order.map(Slot).find(is_free)?;
            given.last = slot.0;
            slot
        };
        given.taken.insert(slot);
        Some(Arc::new(EndpointSlot { slot, is_written: AtomicBool::new(false), slots: Arc::clone(self) }))
    }

    /// Makes unclean slots free: a new set of tables is in force, which has postures of assigned slots only.
    pub fn renewed(&self) {
        let mut given = locked(&self.0);
        let unclean = std::mem::take(&mut given.unclean);
        given.taken.retain(|slot| !unclean.contains(slot));
    }
}

impl EndpointSlot {
    pub fn number(&self) -> Slot {
        self.slot
    }

    /// Writes the posture of the endpoint.
    pub fn put_posture(&self, tables: &mut dyn Tables, posture: Posture) -> Result<(), TableError> {
        // This comes first, because a write that returns an error may have been made.
        self.is_written.store(true, Ordering::Relaxed);
        tables.put_posture(self.slot, posture)
    }

    /// Removes the posture, so that everything of the endpoint is dropped.
    pub fn clear_posture(&self, tables: &mut dyn Tables) -> Result<(), TableError> {
        tables.clear_posture(self.slot)?;
        self.is_written.store(false, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for EndpointSlot {
    fn drop(&mut self) {
        let mut given = locked(&self.slots.0);
        if *self.is_written.get_mut() {
            given.unclean.insert(self.slot);
        } else {
            given.taken.remove(&self.slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::memory::Memory, *};
    use crate::tables::Limits;

    const ROOM: Limits = Limits {
        slots: 3,
        maps: 9,
        entries: 9,
        addresses: 9,
        prefixes: 9,
        rules: 9,
        domains: 9,
        domains_of_name: 9,
    };
    const OPEN: Posture = Posture { map: None, ingress: false, egress: false };

    fn slot(slot: Option<&Arc<EndpointSlot>>) -> Option<u32> {
        slot.map(|slot| slot.number().0)
    }

    #[test]
    fn a_place_rests_before_it_is_given_again() {
        let slots = Arc::new(SlotAllocator::default());
        let mut given = [(); 3].map(|()| slots.claim(None, 3));
        assert_eq!(given.each_ref().map(|it| slot(it.as_ref())), [Some(1), Some(2), Some(3)]);
        given[1] = None;
        let more = [(); 2].map(|()| slots.claim(None, 3));
        assert_eq!(more.each_ref().map(|it| slot(it.as_ref())), [Some(2), None]);
        drop(more);
        assert_eq!(slot(slots.claim(Some(Slot(1)), 3).as_ref()), Some(2), "1 is somebody's");
    }

    #[test]
    fn a_place_is_not_given_while_it_may_say_something_of_its_former_endpoint() {
        let (slots, mut tables) = (Arc::new(SlotAllocator::default()), Memory::new(ROOM));
        let claim = |wanted| slots.claim(Some(Slot(wanted)), 3).unwrap();
        let (a, b, c) = (claim(1), claim(2), claim(3));
        a.put_posture(&mut tables, OPEN).unwrap();
        b.put_posture(&mut tables, OPEN).unwrap();
        a.clear_posture(&mut tables).unwrap();
        drop((a, b));
        assert_eq!(claim(1).number(), Slot(1), "it says nothing");
        assert_eq!(claim(2).number(), Slot(1), "it says what it said");
        slots.renewed();
        assert_eq!(claim(2).number(), Slot(2));
        c.put_posture(&mut tables, OPEN).unwrap();
        slots.renewed();
        drop(c);
        assert_ne!(claim(3).number(), Slot(3), "it was in the new set");
    }
}
