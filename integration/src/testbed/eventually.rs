//! Waiting for what happens in its own time.

use std::time::{Duration, Instant};

/// Waits until `holds` does, at most `within`; whether it did.
pub fn eventually(within: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + within;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
