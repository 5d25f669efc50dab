//! Identifiers of flows: no two flows of a cluster have the same one.

use std::{
    fs, io,
    sync::atomic::{AtomicU64, Ordering},
};

/// Where the kernel gives random numbers.
const RANDOM: &str = "/proc/sys/kernel/random/uuid";

/// Makes identifiers: the first half is drawn at the start of the daemon, the second counts.
#[derive(Debug)]
pub struct Uuids {
    drawn: String,
    count: AtomicU64,
}

impl Uuids {
    /// Draws.
    ///
    /// # Errors
    /// The kernel gives no random number.
    pub fn new() -> io::Result<Self> {
        let random = fs::read_to_string(RANDOM)?;
        // XXXXXXXX-XXXX-4XXX, and its hyphen.
        let drawn = random.get(..19).unwrap_or_default().to_owned();
        Ok(Self { drawn, count: AtomicU64::new(0) })
    }

    /// The next one.
    pub fn next(&self) -> String {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        // The first digit of the fourth group says how the others are to be understood.
        format!("{}{:04x}-{:012x}", self.drawn, 0x8000 | (count >> 48 & 0x3fff), count & 0xffff_ffff_ffff)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_are_the_same() {
        let uuids = Uuids::new().unwrap();
        let (first, second) = (uuids.next(), uuids.next());
        assert_ne!(first, second);
        for uuid in [first, second, Uuids::new().unwrap().next()] {
            let groups: Vec<usize> = uuid.split('-').map(str::len).collect();
            assert_eq!(groups, [8, 4, 4, 4, 12], "{uuid}");
        }
    }
}
