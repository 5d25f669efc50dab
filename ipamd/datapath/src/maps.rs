//! Typed access to the maps.

use std::{collections::BTreeMap, marker::PhantomData};

use bpf::layout::Plain;
use libbpf_rs::{MapCore, MapFlags, MapHandle};

use super::{batch::each_entry, error::DatapathError, writes};

/// A map with its key and value.
#[derive(Debug)]
pub struct TypedMap<K, V> {
    name: String,
    handle: MapHandle,
    types: PhantomData<fn(K) -> V>,
}

impl<K: Plain, V: Plain> TypedMap<K, V> {
    /// Takes the map of that name out of `maps`.
    ///
    /// # Errors
    /// [`DatapathError::Layout`] if it is not there or has another layout.
    pub fn take(maps: &mut BTreeMap<String, MapHandle>, name: &str) -> Result<Self, DatapathError> {
        let handle = maps.remove(name).ok_or_else(|| DatapathError::Layout { map: name.to_owned() })?;
        if handle.key_size() as usize != size_of::<K>() || handle.value_size() as usize != size_of::<V>() {
            return Err(DatapathError::Layout { map: name.to_owned() });
        }
        Ok(Self { name: name.to_owned(), handle, types: PhantomData })
    }

    /// The map that `pinned` tells of under that name.
    ///
    /// # Errors
    /// As [`Self::take`], and those of `pinned`.
    pub fn open(
        name: &str,
        pinned: impl Fn(&str) -> Result<MapHandle, DatapathError>,
    ) -> Result<Self, DatapathError> {
        Self::take(&mut [(name.to_owned(), pinned(name)?)].into(), name)
    }

    /// The map itself, to pin it.
    pub fn handle(&self) -> &MapHandle {
        &self.handle
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Result<Option<V>, DatapathError> {
        let value =
            self.handle.lookup(key.as_bytes(), MapFlags::ANY).map_err(DatapathError::map(&self.name))?;
        Ok(value.and_then(|bytes| V::from_bytes(&bytes)))
    }

    /// Sets the value of a key.
    pub fn put(&self, key: &K, value: &V) -> Result<(), DatapathError> {
        Ok(writes::put(&self.handle, &self.name, key.as_bytes(), value.as_bytes())?)
    }

    /// Sets the values of many keys, in one system call where the kernel takes it.
    pub fn put_all(&self, entries: impl Iterator<Item = (K, V)>) -> Result<(), DatapathError> {
        let (mut keys, mut values, mut count) = (Vec::new(), Vec::new(), 0);
        for (key, value) in entries {
            keys.extend_from_slice(key.as_bytes());
            values.extend_from_slice(value.as_bytes());
            count += 1;
        }
        // A single one needs no batch, which not every kind of map takes on every kernel.
        let written = match count {
            1 => writes::put(&self.handle, &self.name, &keys, &values),
            _ => writes::put_all(&self.handle, &self.name, &keys, &values, count),
        };
        Ok(written?)
    }

    /// Removes a key that may not be there.
    pub fn remove(&self, key: &K) -> Result<(), DatapathError> {
        Ok(writes::remove(&self.handle, &self.name, key.as_bytes())?)
    }

    /// All keys.
    pub fn keys(&self) -> Vec<K> {
        self.handle.keys().filter_map(|bytes| K::from_bytes(&bytes)).collect()
    }

    /// Calls `visit` with each entry of a hash map until it returns false.
    pub fn each(&self, mut visit: impl FnMut(K, V) -> bool) -> Result<(), DatapathError> {
        let visited = each_entry(&self.handle, |key, value| {
            let (Some(key), Some(value)) = (K::from_bytes(key), V::from_bytes(value)) else { return true };
            visit(key, value)
        });
        visited.map_err(|error| DatapathError::map(&self.name)(error.into()))
    }
}

/// The sum of each element of a per-CPU array of counters.
pub fn sums(array: &MapHandle) -> Result<Vec<u64>, DatapathError> {
    (0..array.max_entries()).map(|index| sum(array, index)).collect()
}

/// The sum of one element of a per-CPU array of counters.
pub fn sum(array: &MapHandle, index: u32) -> Result<u64, DatapathError> {
    let per_cpu = array
        .lookup_percpu(index.as_bytes(), MapFlags::ANY)
        .map_err(|source| DatapathError::map(&array.name().to_string_lossy())(source))?;
    Ok(per_cpu.unwrap_or_default().iter().filter_map(|bytes| u64::from_bytes(bytes)).sum())
}

/// Copies what fits of one map into another of the same layout, and says how much does not: a smaller map keeps what it has room for.
pub fn copy_entries(from: &MapHandle, to: &MapHandle, name: &str) -> Result<(), DatapathError> {
    let (mut left, mut why) = (0_u64, None);
    let copied = each_entry(from, |key, value| {
        if let Err(error) = writes::put(to, name, key, value) {
            left += 1;
            why.get_or_insert(error);
        }
        true
    });
    if let Some(why) = why {
        tracing::warn!(map = name, left, %why, "entries of the old map do not fit into the new one");
    }
    copied.map_err(|error| DatapathError::map(name)(error.into()))
}
