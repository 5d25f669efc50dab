//! Who each committed endpoint is, in a file of its own beside the socket: what is left when the store, or what is pinned on
//! the bpffs, is lost while containers run. Each of the three makes up for the loss of the others.
//!
//! A file holds for the boot that it was written in, as containers do. It is written once the endpoint is committed, and
//! removed before its record is.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use ipamd_api::{AttachmentKey, files};
use serde::{Deserialize, Serialize};

use ipamd_addresses::attachment::Attachment;
use ipamd_kernel::kernel_files;
use ipamd_runtime::atomic_file;

/// What their names end in.
const ENDING: &str = "json";

/// An endpoint, as a file tells of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    /// The boot in which it was written.
    boot_id: String,
    /// Index of its host end.
    pub host_ifindex: u32,
    /// Its record.
    pub attachment: Attachment,
}

/// The directory of these files.
#[derive(Debug)]
pub struct EndpointFiles {
    dir: PathBuf,
    boot_id: String,
    /// Why the last file could not be written.
    failure: Mutex<Option<String>>,
}

impl EndpointFiles {
    /// Those beside `socket`.
    ///
    /// # Errors
    /// Why it is not known which boot this is.
    pub fn beside(socket: &Path) -> io::Result<Self> {
        Ok(Self {
            dir: files::endpoints(socket),
            boot_id: kernel_files::boot_id()?,
            failure: Mutex::default(),
        })
    }

    /// All that hold for this boot, and removes what does not.
    pub fn load(&self) -> Vec<Saved> {
        let mut saved = Vec::new();
        for path in self.paths() {
            match self.read(&path) {
                Ok(found) => saved.push(found),
                Err(reason) => {
                    tracing::info!(file = %path.display(), reason, "removed an endpoint's file that is no longer valid");
                    remove(&path);
                }
            }
        }
        saved
    }

    /// Writes an endpoint's file. That it cannot be is no reason to refuse the endpoint; [`Self::problem`] says so.
    pub fn put(&self, attachment: &Attachment, host_ifindex: u32) {
        let saved = Saved { boot_id: self.boot_id.clone(), host_ifindex, attachment: attachment.clone() };
        let path = self.path(&attachment.key);
        let written = serde_json::to_vec(&saved).map_err(io::Error::from).and_then(|content| {
            fs::create_dir_all(&self.dir)?;
            atomic_file::replace_until_reboot(&path, &path.with_extension("new"), &content, 0o600)
        });
        let failure = written.err().map(|error| format!("cannot write {}: {error}", path.display()));
        let mut last = self.failure();
        if let Some(failure) = failure.as_ref().filter(|_| last.is_none()) {
            tracing::warn!("{failure}; if the store is lost too, the endpoint cannot be identified");
        }
        *last = failure;
    }

    /// Removes an endpoint's file, if there is one.
    pub fn remove(&self, key: &AttachmentKey) {
        remove(&self.path(key));
    }

    /// Writes the files that are missing, as when somebody has emptied the directory. `committed` are the endpoints with the
    /// indices of their host ends.
    pub fn complete<'a>(&self, committed: impl Iterator<Item = (&'a Attachment, u32)>) {
        let present: BTreeSet<_> = self.paths().into_iter().collect();
        let mut missing = committed.filter(|(it, _)| !present.contains(&self.path(&it.key))).peekable();
        if missing.peek().is_none() {
            *self.failure() = None;
        }
        missing.for_each(|(attachment, host_ifindex)| self.put(attachment, host_ifindex));
    }

    /// Why not every endpoint has its file, in a sentence.
    pub fn problem(&self) -> Option<String> {
        let failure = self.failure().clone();
        failure
            .map(|failure| format!("{failure}; if the store is lost too, the endpoint cannot be identified"))
    }

    fn failure(&self) -> MutexGuard<'_, Option<String>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, path: &Path) -> Result<Saved, String> {
        let content = fs::read(path).map_err(|error| error.to_string())?;
        let saved: Saved = serde_json::from_slice(&content).map_err(|error| error.to_string())?;
        if saved.boot_id != self.boot_id {
            return Err("it is of another boot".into());
        }
        if self.path(&saved.attachment.key) != path {
            return Err("its name is another endpoint's".into());
        }
        Ok(saved)
    }

    fn path(&self, key: &AttachmentKey) -> PathBuf {
        self.dir.join(key.host_ifname()).with_extension(ENDING)
    }

    fn paths(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(&self.dir) else { return Vec::new() };
        let paths = entries.flatten().map(|entry| entry.path());
        paths.filter(|path| path.extension().is_some_and(|ending| ending == ENDING)).collect()
    }
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(file = %path.display(), %error, "cannot remove an endpoint's file");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::example_attachment;

    fn files(dir: &Path) -> EndpointFiles {
        EndpointFiles::beside(&dir.join("ipamd.sock")).unwrap()
    }

    #[test]
    fn an_endpoint_is_read_as_it_was_written_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        assert_eq!(files.load(), []);
        let attachment = example_attachment("a", &["10.0.0.2"]);
        files.put(&attachment, 7);
        let saved = files.load();
        assert_eq!((&saved[0].attachment, saved[0].host_ifindex, saved.len()), (&attachment, 7, 1));
        files.remove(&attachment.key);
        files.remove(&attachment.key);
        assert_eq!(files.load(), []);
    }

    #[test]
    fn what_is_of_another_boot_or_cut_or_misnamed_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        let [a, b, c] = ["a", "b", "c"].map(|id| example_attachment(id, &[]));
        files.put(&a, 7);
        let whole = fs::read_to_string(files.path(&a.key)).unwrap();
        fs::write(files.path(&b.key), &whole).unwrap();
        fs::write(files.path(&c.key), &whole[..whole.len() / 2]).unwrap();
        assert_eq!(files.load().len(), 1);
        assert_eq!(files.paths(), [files.path(&a.key)]);
        let rebooted = EndpointFiles { boot_id: "another".into(), ..files };
        assert_eq!(rebooted.load(), []);
        assert!(rebooted.paths().is_empty());
    }

    #[test]
    fn missing_files_are_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        let [a, b] = ["a", "b"].map(|id| example_attachment(id, &[]));
        files.put(&b, 8);
        files.complete([(&a, 7), (&b, 8)].into_iter());
        assert_eq!(files.load().len(), 2);
        assert_eq!(files.problem(), None);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_a_problem_until_it_can() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        fs::write(dir.path().join("endpoints"), "in the way").unwrap();
        let a = example_attachment("a", &[]);
        files.put(&a, 7);
        assert!(files.problem().unwrap().starts_with("cannot write "), "{:?}", files.problem());
        fs::remove_file(dir.path().join("endpoints")).unwrap();
        files.complete([(&a, 7)].into_iter());
        assert_eq!(files.problem(), None);
    }
}
