//! The name of a run: of its namespace, and the beginning of all that it makes.

use std::{
    fs::File,
    io::{self, Read},
};

/// How every run is named.
pub(super) const PREFIX: &str = "cambric-connectivity-";
/// Letters that make no words.
const LETTERS: &[u8; 16] = b"bcdfghjkmpqrtvwx";

/// A name that no other run has.
pub(super) fn new() -> io::Result<String> {
    let mut bytes = [0; 6];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let letters = bytes.iter().map(|byte| char::from(LETTERS[usize::from(byte & 15)]));
    Ok(PREFIX.chars().chain(letters).collect())
}

/// The run that something belongs to, by its name.
pub(super) fn of(name: &str) -> Option<&str> {
    let rest = name.strip_prefix(PREFIX)?;
    let letters = rest.bytes().take_while(|byte| LETTERS.contains(byte)).count();
    let behind = rest.as_bytes().get(letters);
    (letters == 6 && matches!(behind, None | Some(b'-' | b'.'))).then(|| &name[..PREFIX.len() + letters])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_run_has_made_is_known_by_its_name() {
        let run = new().unwrap();
        assert_ne!(run, new().unwrap());
        for name in [run.clone(), format!("{run}-server-0"), format!("{run}.yaml")] {
            assert_eq!(of(&name), Some(&*run), "{name}");
        }
        for name in [
            "cambric-connectivity-",
            "cambric-connectivity-mine",
            "kube-system",
            "cambric-connectivity-bcdfghx",
        ] {
            assert_eq!(of(name), None, "{name}");
        }
    }
}
