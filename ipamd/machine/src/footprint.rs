//! The footprint: what the daemon changed on the machine outside of its own interfaces, so that uninstalling can undo
//! it.
//!
//! Kept as JSON in the state directory, written before the change is made. A file that cannot be read, as after a loss of power
//! under an earlier release, is set aside: what Cambric changed before is then known only to who looks into it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use ipamd_runtime::atomic_file;

const FILE: &str = "footprint.json";
/// What a file that cannot be read becomes.
const SET_ASIDE: &str = "footprint.damaged";

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
    set_aside: Option<PathBuf>,
}

impl FootprintFile {
    /// Reads it from the state directory; empty if it was never written.
    ///
    /// # Errors
    /// Those of the file; `InvalidData` if it is not what was written.
    pub fn open(state_dir: &Path) -> io::Result<Self> {
        let path = state_dir.join(FILE);
        let footprint = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map_err(|error| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display()))
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Footprint::default(),
            Err(error) => return Err(error),
        };
        Ok(Self { path, footprint, set_aside: None })
    }

    /// As [`Self::open`], but a file that is not what was written is moved aside, and what was changed begins empty.
    ///
    /// # Errors
    /// Those of the file.
    pub fn open_or_begin(state_dir: &Path) -> io::Result<Self> {
        match Self::open(state_dir) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let path = state_dir.join(FILE);
                let aside = state_dir.join(SET_ASIDE);
                fs::rename(&path, &aside)?;
                tracing::error!(%error, to = %aside.display(), "the record of changes to this machine cannot be read; the file is set aside");
                Ok(Self { path, footprint: Footprint::default(), set_aside: Some(aside) })
            }
            opened => opened,
        }
    }

    /// What is wrong with it, in a sentence, until somebody has removed the file that was set aside.
    pub fn problem(&self) -> Option<String> {
        let aside = self.set_aside.as_ref().filter(|aside| aside.exists())?;
        Some(format!(
            "the notes of what Cambric changed on this machine were damaged and are set aside as {}: uninstalling restores only \
             what was changed since; read the file, then remove it",
            aside.display()
        ))
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
        let fresh = self.path.with_extension("new");
        atomic_file::replace(&self.path, &fresh, &serde_json::to_vec_pretty(&footprint)?, 0o600)?;
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
        for damaged in ["", "{", "{\"sysctls\": 7}"] {
            fs::write(dir.path().join(FILE), damaged).unwrap();
            let error = FootprintFile::open(dir.path()).unwrap_err().to_string();
            assert!(error.contains("footprint.json: "), "{error}");
            let mut file = FootprintFile::open_or_begin(dir.path()).unwrap();
            assert!(file.problem().unwrap().contains("footprint.damaged"), "{:?}", file.problem());
            assert_eq!(fs::read_to_string(dir.path().join(SET_ASIDE)).unwrap(), damaged);
            file.note(|footprint| drop(footprint.sysctls.insert("a".into(), "1".into()))).unwrap();
            let again = FootprintFile::open_or_begin(dir.path()).unwrap();
            assert_eq!((again.get(), again.problem()), (file.get(), None));
            fs::remove_file(dir.path().join(SET_ASIDE)).unwrap();
            assert_eq!(file.problem(), None);
        }
    }
}
