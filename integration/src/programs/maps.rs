//! Reading and writing maps.

use anyhow::{Context, Result};
use bpf::layout::Plain;
use libbpf_rs::{ErrorKind, MapCore, MapFlags};

/// Sets an entry.
pub(super) fn put<K: Plain, V: Plain>(map: &impl MapCore, key: &K, value: &V) -> Result<()> {
    map.update(key.as_bytes(), value.as_bytes(), MapFlags::ANY).context("write a map")
}

/// Changes the entries of an array of each processor. How often `change` says yes.
pub(super) fn change_each<V: Plain>(map: &impl MapCore, change: impl Fn(&mut V) -> bool) -> Result<usize> {
    let mut changed = 0;
    for at in 0..map.max_entries() {
        let mut values = map.lookup_percpu(at.as_bytes(), MapFlags::ANY)?.context("no entry")?;
        for bytes in &mut values {
            let mut value = V::from_bytes(&bytes[..size_of::<V>()]).context("layout")?;
            changed += usize::from(change(&mut value));
            bytes[..size_of::<V>()].copy_from_slice(value.as_bytes());
        }
        map.update_percpu(at.as_bytes(), &values, MapFlags::ANY)?;
    }
    Ok(changed)
}

/// Removes an entry that may not be there.
pub(super) fn forget(map: &impl MapCore, key: &[u8]) -> Result<()> {
    match map.delete(key) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other.context("remove an entry"),
    }
}

/// All entries.
pub(super) fn entries<K: Plain, V: Plain>(map: &impl MapCore) -> Result<Vec<(K, V)>> {
    map.keys()
        .map(|key| {
            let value = map.lookup(&key, MapFlags::ANY)?.context("the entry went away")?;
            Ok((K::from_bytes(&key).context("key")?, V::from_bytes(&value).context("value")?))
        })
        .collect()
}
