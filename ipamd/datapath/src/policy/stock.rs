//! Policy maps that are ready to be filled.
//!
//! Putting a map into an array of maps keeps the caller waiting for an RCU grace period, 10 to 20 ms, so it is done
//! beforehand: empty maps wait at indices of the array that no posture names. What takes a policy into force is then a
//! write into `postures`, which waits for nothing. A map that is given up stays where it is until a grace period is over,
//! for a program may have read its index just before.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
};

use libbpf_rs::{MapCore, MapHandle};

use ipamd_runtime::supervisor;

use super::{
    super::{DatapathError, MapError},
    inner::{Shape, memory, put_inner},
};

/// Fewer spares than this, and more are made, up to as many as [`MANY`]: a burst of changes uses one each.
const FEW: usize = 128;
const MANY: usize = 256;
/// So many are made at a time: kernels before 6.8 wait for each.
const MADE: usize = 64;

/// The array of policy maps.
#[derive(Debug)]
pub(super) struct Stock {
    shared: Arc<Shared>,
    /// Wakes the thread that tends the stock; it ends when this is dropped.
    wake: SyncSender<()>,
}

#[derive(Debug)]
struct Shared {
    outer: MapHandle,
    shape: Shape,
    /// Stands where nothing else does any more.
    empty: MapHandle,
    shelves: Mutex<Shelves>,
    /// Only one at a time makes maps or buries them.
    tending: Mutex<()>,
}

#[derive(Debug, Default)]
struct Shelves {
    /// Indices where nothing is that a program could still look at.
    free: BTreeSet<u32>,
    spares: Vec<(u32, MapHandle)>,
    used: BTreeMap<u32, Arc<MapHandle>>,
    /// Given up, and perhaps still looked at.
    retired: BTreeMap<u32, Option<Arc<MapHandle>>>,
}

impl Stock {
    /// The stock in `outer`, but for the indices `taken`, which an earlier daemon has in force.
    pub fn new(outer: MapHandle, shape: Shape, taken: &BTreeSet<u32>) -> Result<Self, DatapathError> {
        let empty = shape.create()?;
        let free = (0..outer.max_entries()).filter(|index| !taken.contains(index)).collect();
        let shelves = Mutex::new(Shelves { free, ..Shelves::default() });
        let shared = Arc::new(Shared { outer, shape, empty, shelves, tending: Mutex::default() });
        let (wake, woken) = sync_channel(1);
        let tended = Arc::clone(&shared);
        supervisor::spawn("policy-maps", move || tend(&tended, &woken))
            .map_err(|source| DatapathError::Pin { path: "policies".into(), source })?;
        Ok(Self { shared, wake })
    }

    /// Gives up what an earlier daemon left.
    pub fn retire_left_behind(&self, indices: BTreeSet<u32>) {
        let mut shelves = self.shared.shelves();
        for index in indices {
            shelves.free.remove(&index);
            shelves.retired.insert(index, None);
        }
        drop(shelves);
        self.wake();
    }

    /// How many maps there are room for.
    pub fn capacity(&self) -> u32 {
        self.shared.outer.max_entries()
    }

    /// An empty map, now in use.
    pub fn take(&self) -> Result<(u32, Arc<MapHandle>), DatapathError> {
        let mut shelves = self.shared.shelves();
        if shelves.spares.is_empty() {
            drop(shelves);
            self.shared.restock()?;
            shelves = self.shared.shelves();
        }
        let (index, map) = shelves.spares.pop().ok_or_else(|| MapError::full("policies", self.capacity()))?;
        let map = Arc::new(map);
        shelves.used.insert(index, Arc::clone(&map));
        if shelves.spares.len() < FEW {
            self.wake();
        }
        Ok((index, map))
    }

    /// A map in use.
    pub fn used(&self, index: u32) -> Option<Arc<MapHandle>> {
        self.shared.shelves().used.get(&index).cloned()
    }

    /// Bytes that the maps in use take.
    pub fn memory(&self) -> u64 {
        self.shared.shelves().used.values().map(|map| memory(map)).sum()
    }

    /// Gives a map up.
    pub fn retire(&self, index: u32) {
        let mut shelves = self.shared.shelves();
        if let Some(map) = shelves.used.remove(&index) {
            shelves.retired.insert(index, Some(map));
        }
        drop(shelves);
        self.wake();
    }

    fn wake(&self) {
        // A full channel will wake it as well.
        let _ = self.wake.try_send(());
    }
}

fn tend(shared: &Shared, woken: &Receiver<()>) {
    while supervisor::resting(|| woken.recv()).is_ok() {
        let mut outcome = shared.bury();
        let few = shared.spares() < FEW;
        while few && outcome.is_ok() && shared.spares() < MANY {
            match shared.restock() {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => outcome = Err(error),
            }
        }
        if let Err(error) = outcome {
            tracing::warn!(%error, "policy maps could not be prepared");
        }
    }
}

impl Shared {
    fn shelves(&self) -> MutexGuard<'_, Shelves> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spares(&self) -> usize {
        self.shelves().spares.len()
    }

    /// Frees the indices of maps that were given up, and the maps.
    fn bury(&self) -> Result<(), DatapathError> {
        let _alone = self.tending.lock().unwrap_or_else(PoisonError::into_inner);
        let (dead, anywhere) = {
            let shelves = self.shelves();
            let dead = shelves.retired.keys().copied().collect::<Vec<_>>();
            (dead, shelves.free.first().copied())
        };
        if dead.is_empty() {
            return Ok(());
        }
        // This write waits for the programs that may still look at what was given up before it. Without a free index
        // they would find an empty map, and drop a packet.
        if let Some(index) = anywhere {
            put_inner(&self.outer, "policies", &[(index, &self.empty)])?;
        }
        put_inner(
            &self.outer,
            "policies",
            &dead.iter().map(|index| (*index, &self.empty)).collect::<Vec<_>>(),
        )?;
        let mut shelves = self.shelves();
        for index in dead {
            shelves.retired.remove(&index);
            shelves.free.insert(index);
        }
        Ok(())
    }

    /// Makes more spares; returns how many.
    fn restock(&self) -> Result<usize, DatapathError> {
        if self.shelves().free.len() < MADE {
            self.bury()?;
        }
        let _alone = self.tending.lock().unwrap_or_else(PoisonError::into_inner);
        let indices = self.shelves().free.iter().copied().take(MADE).collect::<Vec<_>>();
        let maps = indices.iter().map(|_| self.shape.create()).collect::<Result<Vec<_>, _>>()?;
        put_inner(&self.outer, "policies", &indices.iter().copied().zip(&maps).collect::<Vec<_>>())?;
        let mut shelves = self.shelves();
        for index in &indices {
            shelves.free.remove(index);
        }
        let made = maps.len();
        shelves.spares.extend(indices.into_iter().zip(maps));
        Ok(made)
    }
}
