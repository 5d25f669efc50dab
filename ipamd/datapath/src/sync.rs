//! Makes the content of a map what is wanted, by as few writes as that takes.

use std::collections::{HashMap, HashSet};

use bpf::layout::Plain;

use super::{error::DatapathError, maps::TypedMap};

/// Makes the entries of a map those that are wanted.
pub(super) fn sync_entries<K: Plain, V: Plain>(
    map: &TypedMap<K, V>,
    wanted: &[(K, V)],
) -> Result<(), DatapathError> {
    let mut present = Vec::new();
    map.each(|key, value| {
        present.push((key, value));
        true
    })?;
    let known: HashMap<_, _> =
        present.iter().map(|(key, value)| (key.as_bytes(), value.as_bytes())).collect();
    let all: HashSet<_> = wanted.iter().map(|(key, _)| key.as_bytes()).collect();
    for (key, value) in
        wanted.iter().filter(|(key, value)| known.get(key.as_bytes()) != Some(&value.as_bytes()))
    {
        map.put(key, value)?;
    }
    for (key, _) in present.iter().filter(|(key, _)| !all.contains(key.as_bytes())) {
        map.remove(key)?;
    }
    Ok(())
}

/// Makes the map's keys those that are wanted. Returns whether anything changed.
pub(super) fn sync_keys<K: Plain>(map: &TypedMap<K, u8>, wanted: &[K]) -> Result<bool, DatapathError> {
    let present = map.keys();
    let known: HashSet<_> = present.iter().map(K::as_bytes).collect();
    let all: HashSet<_> = wanted.iter().map(K::as_bytes).collect();
    let mut changed = false;
    for key in wanted.iter().filter(|key| !known.contains(key.as_bytes())) {
        map.put(key, &1)?;
        changed = true;
    }
    for key in present.iter().filter(|key| !all.contains(key.as_bytes())) {
        map.remove(key)?;
        changed = true;
    }
    Ok(changed)
}

/// Removes the keys that are not wanted.
pub(super) fn remove_others<K: Plain, V: Plain>(
    map: &TypedMap<K, V>,
    wanted: impl Fn(K) -> bool,
) -> Result<(), DatapathError> {
    map.keys().iter().filter(|key| !wanted(**key)).try_for_each(|key| map.remove(key))
}
