//! What the daemon changed on the machine outside of its own interfaces, so that uninstalling can put it back.
//!
//! Kept as JSON in the state directory, written before the change is made.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

const FILE: &str = "footprint.json";

/// What was changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Footprint {
    /// Settings by their path below `/proc/sys`, with the value that was found.
    pub sysctls: BTreeMap<String, String>,
    /// Gateway addresses that were given to `lo`.
    pub gateways: BTreeSet<IpAddr>,
    /// Pools whose unused addresses were made unreachable.
    pub unreachable: BTreeSet<IpNetwork>,
}

/// The footprint on disk.
#[derive(Debug)]
pub struct FootprintFile {
    path: PathBuf,
    footprint: Footprint,
}

impl FootprintFile {
    /// Reads it from the state directory; empty if it was never written.
    ///
    /// # Errors
    /// Those of the file; `InvalidData` if it is not what was written.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        let path = state_dir.join(FILE);
        let footprint = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Footprint::default(),
            Err(error) => return Err(error),
        };
        Ok(Self { path, footprint })
    }

    /// What was changed.
    pub fn get(&self) -> &Footprint {
        &self.footprint
    }

    /// Notes something more, or less.
    ///
    /// # Errors
    /// Those of the file; the note is not taken then.
    pub fn note(&mut self, change: impl FnOnce(&mut Footprint)) -> io::Result<()> {
        let mut footprint = self.footprint.clone();
        change(&mut footprint);
        if footprint == self.footprint {
            return Ok(());
        }
        let new = self.path.with_extension("new");
        fs::write(&new, serde_json::to_vec_pretty(&footprint)?)?;
        fs::rename(&new, &self.path)?;
        self.footprint = footprint;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_noted_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = FootprintFile::open(dir.path()).unwrap();
        assert_eq!(file.get(), &Footprint::default());
        let gateway = "10.88.0.1".parse().unwrap();
        file.note(|footprint| {
            footprint.sysctls.insert("net/ipv4/ip_forward".into(), "0".into());
            footprint.gateways.insert(gateway);
        })
        .unwrap();
        let again = FootprintFile::open(dir.path()).unwrap();
        assert_eq!(again.get(), file.get());
        assert_eq!(again.get().gateways, [gateway].into());
    }

    #[test]
    fn a_damaged_file_is_not_taken_for_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(FootprintFile::open(dir.path()).is_err());
    }
}
