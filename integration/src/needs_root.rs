//! How a test says that it needs the testbed.

/// Returns from the test, saying how to run it, where the testbed cannot be used.
#[macro_export]
macro_rules! needs_root {
    () => {
        if !$crate::testbed::usable() {
            return Ok(());
        }
    };
}
