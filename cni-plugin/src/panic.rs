//! What the runtime is told when the plugin fails by a mistake of its own: an error object, as for every other failure.

use std::{
    io::{self, Write},
    os::fd::AsFd,
    panic,
    sync::OnceLock,
};

use crate::{
    error::{CniError, Failure},
    version::CniVersion,
};

/// The configuration's version, once it is known.
static VERSION: OnceLock<CniVersion> = OnceLock::new();

/// Has errors of the plugin's own told in `version`.
pub fn speak(version: Option<CniVersion>) {
    if let Some(version) = version {
        // There is one configuration.
        let _ = VERSION.set(version);
    }
}

/// Has a panic, on any thread, print an error object and end the plugin.
pub fn tell() {
    panic::set_hook(Box::new(|panicked| {
        let said = panicked.payload_as_str().unwrap_or("no reason was given");
        let place = panicked.location().map(ToString::to_string).unwrap_or_default();
        let error = CniError::Internal(format!("{said} ({place})"));
        let failure = Failure::from(error).in_version(VERSION.get().copied());
        let json = failure.to_json();
        // Past the standard library's lock, which another thread may hold, and its buffer.
        let _ = write_all(io::stdout().as_fd(), json.as_bytes());
        let _ = writeln!(io::stderr(), "cambric: {}", failure.error);
        std::process::exit(1);
    }));
}

fn write_all(to: impl AsFd, mut bytes: &[u8]) -> nix::Result<()> {
    while !bytes.is_empty() {
        match nix::unistd::write(&to, bytes) {
            Ok(0) => break,
            Ok(written) => bytes = &bytes[written..],
            Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const CHILD: &str = "CAMBRIC_TEST_PANICS";

    /// Not a test by itself: what the next one runs in a process of its own.
    #[test]
    fn panics_in_a_child() {
        let Some(thread) = std::env::var_os(CHILD) else { return };
        speak(Some(CniVersion::V0_4_0));
        tell();
        let panics = || -> () { panic!("three is {}", "odd") };
        if thread == "another" {
            let _ = std::thread::spawn(panics).join();
        }
        panics();
    }

    #[test]
    fn a_panic_on_any_thread_is_an_error_object_and_exit_1() {
        for thread in ["main", "another"] {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "panic::tests::panics_in_a_child", "--nocapture"]);
            let output = command.env(CHILD, thread).output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{output:?}");
            let printed = String::from_utf8(output.stdout).unwrap();
            // What is before it is the test runner's.
            let object = &printed[printed.find('{').unwrap()..];
            let object: serde_json::Value = serde_json::from_str(object).unwrap();
            assert_eq!((&object["cniVersion"], &object["code"]), (&"0.4.0".into(), &999.into()));
            let said = object["msg"].as_str().unwrap();
            assert!(said.contains("three is odd") && said.contains("panic.rs"), "{said}");
            assert!(String::from_utf8_lossy(&output.stderr).contains("three is odd"));
        }
    }
}
