//! Whether the testbed can be used at all.

use std::io::Write;

/// Whether the testbed can be used. Where it cannot, says how to run the test.
pub fn usable() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        // Past the capture of libtest, so that it is seen that the test did not run.
        let _ =
            writeln!(std::io::stderr(), "skipped: needs root; run it by: sudo -E cargo test -p integration");
    }
    root
}
