//! Array maps in the daemon's memory (`mmap`): a word is written without a system call, and the programs see it at
//! once.

use std::{
    marker::PhantomData,
    num::NonZeroUsize,
    os::fd::AsFd,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use bpf::layout::Plain;
use libbpf_rs::{MapCore, MapHandle};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use crate::{error::DatapathError, map_error::MapError};

/// An array map, mapped.
#[derive(Debug)]
pub(super) struct MmapArray<T> {
    start: NonNull<u8>,
    length: NonZeroUsize,
    entries: u32,
    values: PhantomData<T>,
}

// SAFETY: the memory is the kernel's, is there as long as the mapping, and every access is by atomics or volatile copies
// of integers.
unsafe impl<T> Send for MmapArray<T> {}

impl<T: Plain> MmapArray<T> {
    /// Bytes from one element to the next: the kernel lays elements out in multiples of eight.
    const STRIDE: usize = size_of::<T>().next_multiple_of(8);

    /// Maps an array that was made for it.
    pub fn open(map: &MapHandle) -> Result<Self, DatapathError> {
        let name = || map.name().to_string_lossy().into_owned();
        let entries = map.max_entries();
        let length = NonZeroUsize::new(Self::STRIDE * entries as usize);
        let Some(length) = length.filter(|_| map.value_size() as usize == size_of::<T>()) else {
            return Err(DatapathError::Layout { map: name() });
        };
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice, over the whole of the array.
        let start = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, map.as_fd(), 0) };
        let start = start.map_err(|errno| MapError::mapped(&name(), errno))?;
        Ok(Self { start: start.cast(), length, entries, values: PhantomData })
    }

    /// How many elements there are.
    pub fn entries(&self) -> u32 {
        self.entries
    }

    fn at(&self, index: u32) -> Option<NonNull<u8>> {
        // SAFETY: the offset is within the mapping.
        (index < self.entries).then(|| unsafe { self.start.add(index as usize * Self::STRIDE) })
    }

    /// An element; zeroes beyond the end.
    pub fn get(&self, index: u32) -> T {
        self.at(index).map_or_else(T::default, |at| {
            // SAFETY: the element lies within the mapping and is aligned to eight bytes; every bit pattern is a value.
            // Programs may add to its counters meanwhile, which a volatile read takes as they are.
            unsafe { at.cast::<T>().read_volatile() }
        })
    }

    /// Writes an element that no program reads yet.
    pub fn put(&mut self, index: u32, value: T) {
        if let Some(at) = self.at(index) {
            // SAFETY: as in `get`.
            unsafe { at.cast::<T>().write_volatile(value) };
        }
    }

    /// The first eight bytes of an element, which are read and written as one.
    pub fn word(&self, index: u32) -> Option<&AtomicU64> {
        // SAFETY: an element has eight bytes at least, aligned to eight, for as long as the mapping, which `self` holds.
        self.at(index)
            .filter(|_| Self::STRIDE >= 8)
            .map(|at| unsafe { AtomicU64::from_ptr(at.cast().as_ptr()) })
    }

    /// Puts the first eight bytes of an element in force, and with them all that was written before.
    pub fn set_word(&mut self, index: u32, value: u64) {
        if let Some(word) = self.word(index) {
            word.store(value, Ordering::Release);
        }
    }
}

impl<T> Drop for MmapArray<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is whole, and no reference into it outlives `self`.
        let unmapped = unsafe { munmap(self.start.cast(), self.length.get()) };
        if let Err(error) = unmapped {
            tracing::debug!(%error, "cannot unmap a map");
        }
    }
}
