//! Messages of Protocol Buffers: numbers and length-delimited fields are all that the CRI needs.

use anyhow::{Context, Result, bail};

/// A length-delimited field of a message.
const DELIMITED: u64 = 2;

fn number(mut value: u64, into: &mut Vec<u8>) {
    while value >= 0x80 {
        into.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    into.push(value.to_le_bytes()[0]);
}

/// A field that is a message.
pub fn field(tag: u64, value: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    number(tag << 3 | DELIMITED, &mut message);
    number(value.len() as u64, &mut message);
    message.extend_from_slice(value);
    message
}

/// A field that is a number; zero need not be said.
pub fn count(tag: u64, value: u64) -> Vec<u8> {
    let mut message = Vec::new();
    number(tag << 3, &mut message);
    number(value, &mut message);
    message
}

/// A field that is text.
pub fn text(tag: u64, value: &str) -> Vec<u8> {
    field(tag, value.as_bytes())
}

fn take_number(message: &mut &[u8]) -> Result<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first().context("a message cut short")?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    bail!("a number of more than 64 bits")
}

/// The length-delimited fields with this tag.
pub fn fields(mut message: &[u8], tag: u64) -> Result<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    while !message.is_empty() {
        let key = take_number(&mut message)?;
        match key & 7 {
            0 => drop(take_number(&mut message)?),
            DELIMITED => {
                let length = usize::try_from(take_number(&mut message)?)?;
                let (value, rest) = message.split_at_checked(length).context("a message cut short")?;
                if key >> 3 == tag {
                    found.push(value.to_vec());
                }
                message = rest;
            }
            other => bail!("a field of the wire type {other}"),
        }
    }
    Ok(found)
}

/// The last number with this tag, which is zero where nothing is said.
pub fn number_of(mut message: &[u8], tag: u64) -> Result<u64> {
    let mut found = 0;
    while !message.is_empty() {
        let key = take_number(&mut message)?;
        match key & 7 {
            0 => {
                let value = take_number(&mut message)?;
                if key >> 3 == tag {
                    found = value;
                }
            }
            DELIMITED => {
                let length = usize::try_from(take_number(&mut message)?)?;
                message = message.split_at_checked(length).context("a message cut short")?.1;
            }
            other => bail!("a field of the wire type {other}"),
        }
    }
    Ok(found)
}

/// The last length-delimited field with this tag.
pub fn only(message: &[u8], tag: u64) -> Result<Vec<u8>> {
    fields(message, tag)?.pop().with_context(|| format!("the message has no field {tag}"))
}

/// The same, as text.
pub fn only_text(message: &[u8], tag: u64) -> Result<String> {
    Ok(String::from_utf8(only(message, tag)?)?)
}
