//! `cambric`, Cambric's CNI plugin. A runtime starts it once for each operation on each container, with parameters in
//! the environment and the network's configuration on the standard input; it answers with JSON on the standard
//! output.

mod chained;
mod cni_args;
mod commands;
mod config;
mod daemon;
mod environment;
mod error;
mod expectation;
mod interface;
mod invocation;
mod logging;
mod netlink;
mod netns;
mod observe;
mod prev_result;
mod programs;
mod record;
mod result;
mod text;
mod version;

use std::{
    io::{self, IsTerminal, Read, Write},
    process::ExitCode,
};

use commands::{add::add, check::check, del::del, gc::gc, status::status};
use config::MAX_CONFIG;
use environment::Command;
use error::{CniError, Failure};
use invocation::Invocation;

fn main() -> ExitCode {
    let (output, code) = match run() {
        Ok(output) => (output, ExitCode::SUCCESS),
        Err(failure) => (failure.to_json().into_bytes(), ExitCode::FAILURE),
    };
    match io::stdout().write_all(&output).and_then(|()| io::stdout().flush()) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run() -> Result<Vec<u8>, Failure> {
    let lookup = |name: &str| std::env::var_os(name);
    let command = Command::from_environment(&lookup)?;
    let invocation = Invocation::parse(command, &lookup, read_config())?;
    if let Some(logging) = invocation.logging() {
        logging.start();
    }
    let version = invocation.version();
    perform(invocation).map_err(|failure| failure.in_version(version))
}

fn perform(invocation: Invocation) -> Result<Vec<u8>, Failure> {
    let nothing = |()| Vec::new();
    match invocation {
        Invocation::Add(sandbox, config) => add(&sandbox, &config),
        Invocation::Del(target, config) => {
            del(&target, &config);
            Ok(Vec::new())
        }
        Invocation::Check(sandbox, config) => Ok(check(&sandbox, &config).map(nothing)?),
        Invocation::Gc(config) => Ok(gc(config).map(nothing)?),
        Invocation::Status(network) => Ok(status(&network).map(nothing)?),
        Invocation::Version(asked) => commands::version::print(&asked)
            .map_err(|error| CniError::io("write the versions")(error.into()).into()),
    }
}

/// Reads the standard input, which no runtime leaves to a terminal.
fn read_config() -> Result<Vec<u8>, CniError> {
    let mut bytes = Vec::with_capacity(4096);
    let input = io::stdin();
    if !input.is_terminal() {
        input
            .lock()
            .take(MAX_CONFIG + 1)
            .read_to_end(&mut bytes)
            .map_err(CniError::io("read the standard input"))?;
    }
    if bytes.len() as u64 > MAX_CONFIG {
        return Err(CniError::Undecodable(format!("it is longer than {MAX_CONFIG} bytes")));
    }
    Ok(bytes)
}
