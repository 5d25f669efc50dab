//! A pool of empty policy maps.
//!
//! Putting a map into an array of maps blocks for an RCU grace period, 10 to 20 ms, so it is done in advance: empty
//! maps wait at indices that no posture names. Putting a policy in force is then a write into `postures`, which does
//! not block. A retired map stays at its index for a grace period, because a program may have read the index just
//! before.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

use libbpf_rs::{MapCore, MapHandle};

use ipamd_runtime::supervisor;

use super::inner_map::{Shape, memory, put_inner};
use crate::{error::DatapathError, map_error::MapError};

/// Below this number of spares the pool is refilled, up to [`HIGH_WATER`]. A burst of changes takes one spare each.
const LOW_WATER: usize = 128;
const HIGH_WATER: usize = 256;
/// Maps per refill. Kernels before 6.8 wait for a grace period per map.
const BATCH: usize = 64;

/// The array of policy maps.
#[derive(Debug)]
pub(super) struct InnerMapPool {
    shared: Arc<Shared>,
    /// Wakes the thread that maintains the pool; it ends when this is dropped.
    wake: SyncSender<()>,
}

#[derive(Debug)]
struct Shared {
    outer: MapHandle,
    shape: Shape,
    /// An empty map that takes the place of retired ones.
    empty: MapHandle,
    maps: Mutex<Maps>,
    /// Held while maps are created or freed.
    maintaining: Mutex<()>,
}

#[derive(Debug, Default)]
struct Maps {
    /// Indices that no program can still be reading.
    free: BTreeSet<u32>,
    spares: Vec<(u32, MapHandle)>,
    used: BTreeMap<u32, Arc<MapHandle>>,
    /// Retired maps, which a program may still be reading.
    retired: BTreeMap<u32, Option<Arc<MapHandle>>>,
}

impl InnerMapPool {
    /// The pool in `outer`. The indices `taken` hold maps that an earlier daemon has in force.
    pub fn new(outer: MapHandle, shape: Shape, taken: &BTreeSet<u32>) -> Result<Self, DatapathError> {
        let empty = shape.create()?;
        let free = (0..outer.max_entries()).filter(|index| !taken.contains(index)).collect();
        let maps = Mutex::new(Maps { free, ..Maps::default() });
        let shared = Arc::new(Shared { outer, shape, empty, maps, maintaining: Mutex::default() });
        let (wake, woken) = sync_channel(1);
        let worker_shared = Arc::clone(&shared);
        supervisor::spawn("policy-maps", move || maintain(&worker_shared, &woken))
            .map_err(|source| DatapathError::Pin { path: "policies".into(), source })?;
        Ok(Self { shared, wake })
    }

    /// Retires the maps that an earlier daemon left.
    pub fn retire_left_behind(&self, indices: BTreeSet<u32>) {
        let mut maps = self.shared.maps();
        for index in indices {
            maps.free.remove(&index);
            maps.retired.insert(index, None);
        }
        drop(maps);
        self.wake();
    }

    /// How many maps there are room for.
    pub fn capacity(&self) -> u32 {
        self.shared.outer.max_entries()
    }

    /// An empty map, now in use.
    pub fn take(&self) -> Result<(u32, Arc<MapHandle>), DatapathError> {
        let mut maps = self.shared.maps();
        if maps.spares.is_empty() {
            drop(maps);
            self.shared.refill()?;
            maps = self.shared.maps();
        }
        let (index, map) = maps.spares.pop().ok_or_else(|| MapError::full("policies", self.capacity()))?;
        let map = Arc::new(map);
        maps.used.insert(index, Arc::clone(&map));
        if maps.spares.len() < LOW_WATER {
            self.wake();
        }
        Ok((index, map))
    }

    /// A map in use.
    pub fn used(&self, index: u32) -> Option<Arc<MapHandle>> {
        self.shared.maps().used.get(&index).cloned()
    }

    /// Bytes that the maps in use take.
    pub fn memory(&self) -> u64 {
        self.shared.maps().used.values().map(|map| memory(map)).sum()
    }

    /// Retires a map.
    pub fn retire(&self, index: u32) {
        let mut maps = self.shared.maps();
        if let Some(map) = maps.used.remove(&index) {
            maps.retired.insert(index, Some(map));
        }
        drop(maps);
        self.wake();
    }

    fn wake(&self) {
        // A full channel has a wake-up in it already.
        let _ = self.wake.try_send(());
    }
}

fn maintain(shared: &Shared, woken: &Receiver<()>) {
    while supervisor::resting(|| woken.recv()).is_ok() {
        let mut outcome = shared.free_retired();
        let is_low = shared.spares() < LOW_WATER;
        while is_low && outcome.is_ok() && shared.spares() < HIGH_WATER {
            match shared.refill() {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => outcome = Err(error),
            }
        }
        if let Err(error) = outcome {
            tracing::warn!(%error, "cannot prepare policy maps");
        }
    }
}

impl Shared {
    fn maps(&self) -> MutexGuard<'_, Maps> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spares(&self) -> usize {
        self.maps().spares.len()
    }

    /// Frees retired maps and their indices.
    fn free_retired(&self) -> Result<(), DatapathError> {
        let _alone = self.maintaining.lock().unwrap_or_else(PoisonError::into_inner);
        let (retired, free) = {
            let maps = self.maps();
            let retired = maps.retired.keys().copied().collect::<Vec<_>>();
            (retired, maps.free.first().copied())
        };
        if retired.is_empty() {
            return Ok(());
        }
        // This write waits until no program reads a map that was retired before it. Without a free index programs would
        // find an empty map and drop a packet.
        if let Some(index) = free {
            put_inner(&self.outer, "policies", &[(index, &self.empty)])?;
        }
        put_inner(
            &self.outer,
            "policies",
            &retired.iter().map(|index| (*index, &self.empty)).collect::<Vec<_>>(),
        )?;
        let mut maps = self.maps();
        for index in retired {
            maps.retired.remove(&index);
            maps.free.insert(index);
        }
        Ok(())
    }

    /// Makes more spares; returns how many.
    fn refill(&self) -> Result<usize, DatapathError> {
        if self.maps().free.len() < BATCH {
            self.free_retired()?;
        }
        let _alone = self.maintaining.lock().unwrap_or_else(PoisonError::into_inner);
        let indices = self.maps().free.iter().copied().take(BATCH).collect::<Vec<_>>();
        let created = indices.iter().map(|_| self.shape.create()).collect::<Result<Vec<_>, _>>()?;
        put_inner(&self.outer, "policies", &indices.iter().copied().zip(&created).collect::<Vec<_>>())?;
        let mut maps = self.maps();
        for index in &indices {
            maps.free.remove(index);
        }
        let made = created.len();
        maps.spares.extend(indices.into_iter().zip(created));
        Ok(made)
    }
}
