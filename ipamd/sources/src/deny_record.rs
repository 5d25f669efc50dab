//! The record of what a directory of deny sets said, kept over a restart of the daemon: what cannot be read then says what it said before.

use std::{collections::BTreeMap, fs, io, path::Path, sync::Arc};

use ipamd_runtime::atomic_file;
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

/// What tells one directory from another: device, inode, and the time it was made, in nanoseconds, where the file system knows it.
pub(crate) type Identity = (u64, u64, Option<u64>);

/// What a directory said.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DenyRecord {
    /// Which directory it was.
    pub identity: Option<Identity>,
    /// The prefixes of each file, by its name.
    pub files: BTreeMap<String, Vec<IpNetwork>>,
}

/// Reads it; `None` if there is none.
pub(crate) fn read(path: &Path) -> io::Result<Option<DenyRecord>> {
    match fs::read(path) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Puts it in the place of the former one.
pub(crate) fn write<'a>(
    path: &Path,
    identity: Option<Identity>,
    files: impl Iterator<Item = (&'a str, &'a Arc<[IpNetwork]>)>,
) -> io::Result<()> {
    let files = files.map(|(name, prefixes)| (name.to_owned(), prefixes.to_vec())).collect();
    let text = serde_json::to_vec(&DenyRecord { identity, files })?;
    atomic_file::replace(path, &path.with_extension("new"), &text, 0o600)
}

/// Removes it, where no directory is read any longer.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_says_what_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deny.json");
        assert_eq!(read(&path).unwrap(), None);
        let prefixes: Arc<[IpNetwork]> =
            vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()].into();
        write(&path, Some((1, 2, None)), [("a.txt", &prefixes)].into_iter()).unwrap();
        let read_again = read(&path).unwrap().unwrap();
        assert_eq!(read_again.identity, Some((1, 2, None)));
        assert_eq!(read_again.files["a.txt"][..], prefixes[..]);
        fs::write(&path, "{\"files\": {").unwrap();
        assert!(read(&path).is_err(), "half a record is none");
        remove(&path).unwrap();
        remove(&path).unwrap();
    }
}
