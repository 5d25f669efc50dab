//! Whatever a runtime hands over, the plugin says what is wrong in a sentence, and what an ADD takes a DEL can undo.

use std::{collections::HashMap, ffi::OsString, os::unix::ffi::OsStringExt};

use ::fuzz::{Form, Target, one_sentence, same};
use serde_json::Value;

use crate::{
    config::del::DelConfig,
    environment::Command,
    error::Failure,
    invocation::{self, Invocation},
    version::CniVersion,
};

/// Environment and standard input: variables line by line, an empty line, and the configuration.
fn call(input: &[u8]) -> (HashMap<String, OsString>, Vec<u8>) {
    let at = input.windows(2).position(|pair| pair == b"\n\n");
    let (variables, stdin) = at.map_or((input, &[][..]), |at| (&input[..at], &input[at + 2..]));
    let variables = variables.split(|byte| *byte == b'\n').filter_map(|line| {
        let at = line.iter().position(|byte| *byte == b'=')?;
        let value = OsString::from_vec(line[at + 1..].to_vec());
        Some((String::from_utf8_lossy(&line[..at]).into_owned(), value))
    });
    (variables.collect(), stdin.to_vec())
}

/// What the runtime reads.
fn told(failure: &Failure) -> Result<(), String> {
    let object: Value = serde_json::from_str(&failure.to_json()).map_err(|error| error.to_string())?;
    if object["code"].as_u64().is_none_or(|code| code == 0) {
        return Err(format!("it has no code: {object}"));
    }
    if object["cniVersion"].as_str().and_then(CniVersion::parse).is_none() {
        return Err(format!("it has no version: {object}"));
    }
    one_sentence(object["msg"].as_str().unwrap_or_default())?;
    object.get("details").map_or(Ok(()), |details| one_sentence(details.as_str().unwrap_or_default()))
}

fn holds(input: &[u8]) -> Result<(), String> {
    let (variables, stdin) = call(input);
    let lookup = |name: &str| variables.get(name).cloned();
    let command = match Command::from_environment(&lookup) {
        Ok(Some(command)) => command,
        Ok(None) => return Ok(()),
        Err(error) => return told(&error.into()),
    };
    let parse = |command| Invocation::parse(command, &lookup, Ok(stdin.clone()));
    let parsed = parse(command);
    same("the same call, read again", &format!("{parsed:?}"), &format!("{:?}", parse(command)))?;
    match parsed {
        Err(failure) => told(&failure),
        Ok(Invocation::Add(sandbox, config)) => {
            let network = &config.network;
            // What a failed ADD undoes with, and what the runtime's DEL finds it by.
            let Ok(Invocation::Del(target, del)) = parse(Command::Del) else {
                return Err("an ADD that is taken has a DEL that is not".into());
            };
            same("whose interface DEL removes", &target, &sandbox.target)?;
            same("what DEL takes from the configuration", &del, &DelConfig::of(network))?;
            let of_add = invocation::key(&network.name, &sandbox.target);
            same("the key", &of_add, &invocation::key(&del.name.unwrap_or_default(), &target))?;
            Ok(())
        }
        Ok(_) => Ok(()),
    }
}

#[test]
fn whatever_a_runtime_hands_over_is_taken_or_refused_in_a_sentence() {
    Target::new("invocation", Form::Text).holds(holds);
}
