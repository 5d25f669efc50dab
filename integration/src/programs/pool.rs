//! Loaded programs that tests of one process use one after the other: the verifier takes a second for them, in an emulated
//! machine half a minute.

use std::{
    mem::MaybeUninit,
    ops::{Deref, DerefMut},
    sync::{Mutex, PoisonError},
    thread,
};

use anyhow::{Context, Result, bail};
use bpf::{CambricSkel, CambricSkelBuilder, layout::LIFETIMES};
use ipamd_datapath::fib_lookup_flags;
use libbpf_rs::{
    ErrorKind, MapCore, MapFlags, MapType, RingBufferBuilder,
    skel::{OpenSkel, Skel, SkelBuilder},
};

use super::{knobs::Knobs, maps::forget};

/// So many wait for their next test. Each holds some 100 MiB of maps.
const IDLE_MOST: usize = 2;
const LOAD_ATTEMPTS: usize = 50;
/// What is larger is an array of services' backends: nothing of it is found without a frontend.
const ARRAY_MOST: u32 = 65_535;

static IDLE: Mutex<Vec<Loaded>> = Mutex::new(Vec::new());

/// What is decided when the programs are loaded.
type Fixed = (u16, u16, bool, u32);

struct Loaded {
    skeleton: CambricSkel<'static>,
    fixed: Fixed,
}

/// The loaded programs, with maps as they were after loading. At the end of a test they wait for the next.
pub struct Lent {
    loaded: Option<Loaded>,
    is_spent: bool,
}

impl Lent {
    pub fn new(knobs: &Knobs) -> Result<Self> {
        let fixed = (knobs.first_port, knobs.ports, knobs.tick.is_some(), knobs.waiting);
        let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        let found = idle.iter().position(|it| it.fixed == fixed).map(|at| idle.swap_remove(at));
        drop(idle);
        let loaded = found.map_or_else(|| load(fixed), Ok)?;
        Ok(Self { loaded: Some(loaded), is_spent: false })
    }

    /// They are no other test's: somebody else knows their maps.
    pub fn spend(&mut self) {
        self.is_spent = true;
    }
}

/// The verifier gives up when a signal is pending, with EAGAIN: the process has several threads, and children that end.
fn load(fixed: Fixed) -> Result<Loaded> {
    for _ in 1..LOAD_ATTEMPTS {
        match load_once(fixed) {
            Err(error) if is_again(&error) => {}
            other => return other,
        }
    }
    load_once(fixed)
}

fn is_again(error: &anyhow::Error) -> bool {
    error.downcast_ref::<libbpf_rs::Error>().is_some_and(|it| it.kind() == ErrorKind::WouldBlock)
}

fn load_once(fixed: Fixed) -> Result<Loaded> {
    // The skeleton borrows the object's place for as long as it lives, which nobody knows beforehand.
    let mut open = CambricSkelBuilder::default().open(Box::leak(Box::new(MaybeUninit::uninit())))?;
    let rodata = open.maps.rodata_data.as_deref_mut().context("no read-only data")?;
    (
        rodata.masquerade_port_first,
        rodata.masquerade_port_count,
        rodata.clock_by_hand,
        rodata.waiting_entries,
    ) = fixed;
    rodata.fib_lookup_flags = fib_lookup_flags();
    rodata.lifetimes = LIFETIMES;
    for map in [&mut open.maps.waiting4, &mut open.maps.waiting6] {
        map.set_max_entries(fixed.3)?;
    }
    Ok(Loaded { skeleton: open.load()?, fixed })
}

impl Deref for Lent {
    type Target = CambricSkel<'static>;

    fn deref(&self) -> &Self::Target {
        &self.loaded.as_ref().expect("it is taken when it is dropped").skeleton
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.loaded.as_mut().expect("it is taken when it is dropped").skeleton
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(mut loaded) = self.loaded.take() else { return };
        // After a failure nobody knows what is left.
        if self.is_spent || thread::panicking() {
            return;
        }
        if let Err(error) = clear(&mut loaded.skeleton) {
            eprintln!("the programs are loaded anew for the next test: {error:#}");
            return;
        }
        let mut idle = IDLE.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(loaded);
        if idle.len() > IDLE_MOST {
            idle.remove(0);
        }
    }
}

/// Empties the maps. Arrays of maps are filled by nobody but the daemon's code, which gets no maps but those of who is
/// spent.
fn clear(skeleton: &mut CambricSkel<'static>) -> Result<()> {
    let cpus = libbpf_rs::num_possible_cpus()?;
    for map in skeleton.object_mut().maps_mut() {
        let name = map.name().to_string_lossy().into_owned();
        if name.ends_with(".rodata") {
            continue;
        }
        let zero = vec![0; map.value_size().next_multiple_of(8) as usize];
        match map.map_type() {
            MapType::Hash | MapType::LruHash | MapType::LpmTrie => {
                for key in map.keys().collect::<Vec<_>>() {
                    forget(&map, &key)?;
                }
            }
            MapType::Array if map.max_entries() <= ARRAY_MOST || name.starts_with("waiting") => {
                let keys: Vec<u8> = (0..map.max_entries()).flat_map(u32::to_ne_bytes).collect();
                let values = vec![0; (map.max_entries() * map.value_size()) as usize];
                map.update_batch(&keys, &values, map.max_entries(), MapFlags::ANY, MapFlags::ANY)?;
            }
            MapType::PercpuArray => {
                let zeroes = vec![zero; cpus];
                for index in 0..map.max_entries() {
                    map.update_percpu(&index.to_ne_bytes(), &zeroes, MapFlags::ANY)?;
                }
            }
            MapType::Array | MapType::ArrayOfMaps => {}
            MapType::RingBuf => {
                let mut ring = RingBufferBuilder::new();
                ring.add(&map, |_| 0)?;
                ring.build()?.consume()?;
            }
            other => bail!("{name} is of a kind that cannot be emptied: {other:?}"),
        }
    }
    Ok(())
}
