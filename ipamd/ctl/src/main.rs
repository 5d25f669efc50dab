//! Cambric's command line client.

use std::process::ExitCode;

use clap::Parser;
use ipamd_ctl::{CommandLine, run};
use ipamd_runtime::chain;

fn main() -> ExitCode {
    let command_line = CommandLine::parse();
    let failure = command_line.failure();
    match run(command_line) {
        Ok(ending) => ending.status().into(),
        Err(error) => {
            eprintln!("cambricctl: {}", chain::sentence(&error));
            failure.into()
        }
    }
}
