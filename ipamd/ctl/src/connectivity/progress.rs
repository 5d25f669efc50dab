//! A person who waits is told what is being done.

use std::io::{self, IsTerminal};

/// Says to a person who waits what is being done.
pub(super) fn progress(what: &str) {
    if io::stderr().is_terminal() {
        eprintln!("cambricctl: {what} ...");
    }
}
