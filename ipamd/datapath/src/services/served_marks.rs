//! The marks of the addresses that have frontends, as they are when the programs begin to run.

use bpf::{
    attach::Pins,
    layout::{Frontend, SERVED_WORDS, ServiceFamily, V4, V6, served_bit},
};
use libbpf_rs::MapHandle;

use crate::{error::DatapathError, maps::TypedMap};

/// Marks the addresses of the frontends in the pinned maps, and no others. An earlier daemon has left these frontends, perhaps one that
/// knew of no marks, so this is done before any program of this release runs.
pub fn mark_served(pins: &Pins) -> Result<(), DatapathError> {
    let pinned = |name: &str| MapHandle::from_pinned_path(pins.map(name)).map_err(DatapathError::map(name));
    let mut words = vec![0; SERVED_WORDS as usize];
    mark_family::<V4>(&pinned, &mut words)?;
    mark_family::<V6>(&pinned, &mut words)?;
    TypedMap::<u32, u64>::open("served_addresses", pinned)?.put_all((0..).zip(words))
}

fn mark_family<F: ServiceFamily>(
    pinned: &impl Fn(&str) -> Result<MapHandle, DatapathError>,
    words: &mut [u64],
) -> Result<(), DatapathError> {
    let frontends = TypedMap::<F::FrontendKey, Frontend>::open(&format!("frontends{}", F::FAMILY), pinned)?;
    frontends.each(|key, _| {
        let (at, bit) = served_bit(F::of_frontend(&key).0.into());
        words[at as usize] |= bit;
        true
    })
}
