//! The standard output, on which the runtime waits for the result.

use std::{
    fs,
    io::{self, Write},
    os::{fd::AsFd, unix::fs::MetadataExt},
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::stat::fstat,
};

/// Writes all of it, or says why not.
pub fn print(bytes: &[u8]) -> io::Result<()> {
    let mut output = io::stdout().lock();
    output.write_all(bytes).and_then(|()| output.flush())
}

/// Whether the plugin was started with its standard output closed: a result would come to nobody.
pub fn is_closed() -> bool {
    is_closed_in_place(&io::stdout())
}

/// Rust's standard library opens the null device in the place of a closed descriptor, for reading and writing; who means to
/// throw output away opens it for writing only.
fn is_closed_in_place(output: &impl AsFd) -> bool {
    let Ok(flags) = fcntl(output, FcntlArg::F_GETFL) else { return true };
    let both_ways = OFlag::from_bits_truncate(flags) & OFlag::O_ACCMODE == OFlag::O_RDWR;
    let is_null = || {
        let null = fs::metadata("/dev/null").ok()?;
        Some(fstat(output).ok()?.st_rdev == null.rdev())
    };
    both_ways && is_null().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    #[test]
    fn a_closed_output_is_told_from_one_that_is_thrown_away() {
        let null = |read| OpenOptions::new().read(read).write(true).open("/dev/null").unwrap();
        assert!(is_closed_in_place(&null(true)));
        assert!(!is_closed_in_place(&null(false)));
        let (_reader, writer) = io::pipe().unwrap();
        assert!(!is_closed_in_place(&writer));
    }
}
