//! How the values of options are read.

use std::str::FromStr;

/// The parts of an option's value that are separated by commas.
pub fn parts<const N: usize>(text: &str, form: &str) -> Result<[String; N], String> {
    let parts: Vec<String> = text.split(',').map(str::to_owned).collect();
    parts.try_into().map_err(|_| format!("{text:?} is not of the form {form}"))
}

/// Reads a value, saying which it is when it is wrong.
pub fn parse<T: FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error| format!("{text:?}: {error}"))
}
