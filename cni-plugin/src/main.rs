//! `cambric`, Cambric's CNI plugin. A runtime starts it once for each operation on each container, with parameters in
//! the environment and the network's configuration on the standard input; it answers with JSON on the standard
//! output.

mod about;
mod chained;
mod cni_args;
mod commands;
mod config;
mod daemon;
mod document;
mod environment;
mod error;
mod expectation;
#[cfg(test)]
mod fuzz;
mod interface;
mod invocation;
mod json;
mod logging;
mod netns;
mod observe;
mod output;
mod panic;
mod prev_result;
mod programs;
mod record;
mod result;
mod settle;
mod text;
mod version;

use std::{
    ffi::OsStr,
    io::{self, IsTerminal, Read, Write},
    process::ExitCode,
};

use commands::{add::add, check::check, del::del, gc::gc, status::status};
use config::{MAX_CONFIG, del::DelConfig};
use environment::Command;
use error::{CniError, Failure};
use invocation::Invocation;

fn main() -> ExitCode {
    panic::tell();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let printed = if output::is_closed() {
                Err(io::ErrorKind::BrokenPipe.into())
            } else {
                output::print(failure.to_json().as_bytes())
            };
            if let Err(error) = printed {
                complain(&failure.error, &error);
            }
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Failure> {
    let lookup = |name: &str| std::env::var_os(name);
    let Some(command) = Command::from_environment(&lookup)? else {
        introduce();
        return Ok(());
    };
    let invocation = Invocation::parse(command, &lookup, read_config())?;
    if let Some(logging) = invocation.logging() {
        logging.start();
    }
    let version = invocation.version();
    panic::speak(version);
    perform(invocation).map_err(|failure| failure.in_version(version))
}

fn perform(invocation: Invocation) -> Result<(), Failure> {
    match invocation {
        Invocation::Add(sandbox, config) => {
            if output::is_closed() {
                return Err(unheard(io::ErrorKind::BrokenPipe.into()));
            }
            let result = add(&sandbox, &config)?;
            output::print(&result).map_err(|error| {
                // A container whose addresses nobody knows is none that anybody deletes.
                del(&sandbox.target, &DelConfig::of(&config.network));
                unheard(error)
            })
        }
        Invocation::Del(target, network) => {
            del(&target, &network);
            Ok(())
        }
        Invocation::Check(sandbox, config) => check(&sandbox, &config),
        Invocation::Gc(config) => Ok(gc(config)?),
        Invocation::Status(network) => Ok(status(&network)?),
        Invocation::Version(asked) => {
            let printed = commands::version::print(&asked).map_err(io::Error::from);
            Ok(printed
                .and_then(|versions| output::print(&versions))
                .map_err(CniError::io("write the versions to the standard output"))?)
        }
    }
}

/// The result of an ADD that nobody hears.
fn unheard(error: io::Error) -> Failure {
    let mut failure = Failure::from(CniError::io("write the result to the standard output")(error));
    failure.details.push("nothing of the ADD is left".to_owned());
    failure
}

/// The last resort, where not even an error can be told.
fn complain(failure: &CniError, error: &io::Error) {
    // There is nobody left to tell if this fails.
    let _ = writeln!(
        io::stderr(),
        "cambric: {failure} (and the standard output does not take the error: {error})"
    );
}

/// Says who this is: to the standard output if asked, as by `--version`, else to the standard error output, where runtimes
/// look for no result.
fn introduce() {
    let mut text = about::text();
    let asked: Vec<_> = std::env::args_os().skip(1).collect();
    let is_asked = |names: &[&str]| asked.iter().any(|arg| names.iter().any(|name| arg == OsStr::new(name)));
    if is_asked(&["--help", "-h"]) {
        text.push_str(about::USAGE);
    }
    if is_asked(&["--version", "-V", "--help", "-h"]) {
        let _ = output::print(text.as_bytes());
    } else {
        let _ = io::stderr().write_all(text.as_bytes());
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
