//! Cambric's command line client.

use std::process::ExitCode;

use clap::Parser;
use ipamd::{
    chain,
    ctl::{CommandLine, run},
};

fn main() -> ExitCode {
    match run(CommandLine::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cambricctl: {}", chain::sentence(&error));
            ExitCode::FAILURE
        }
    }
}
