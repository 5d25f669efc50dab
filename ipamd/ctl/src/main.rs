//! Cambric's command line client.

use std::{env, process::ExitCode};

use ipamd_ctl::{CommandLine, run};
use ipamd_runtime::error_chain;

fn main() -> ExitCode {
    let command_line = CommandLine::of(env::args_os().collect()).unwrap_or_else(|error| error.exit());
    let failure = command_line.failure();
    match run(command_line) {
        Ok(ending) => ending.status().into(),
        Err(error) => {
            eprintln!("cambricctl: {}", error_chain::sentence(&error));
            failure.into()
        }
    }
}
