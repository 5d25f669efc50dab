//! Manifests that are read once and not watched, for `cambricctl policy check` and the like. They are merged as those
//! of a directory are.

use std::{
    fmt,
    io::Read,
    path::{Path, PathBuf},
};

use super::{
    files::Files,
    read_file::{self, Unread},
    walk::{Entered, Walk},
};
use crate::manifest::{self, Manifest};
use ipamd_model::objects::Batch;

/// Files that are read one after the other.
#[derive(Debug, Default)]
pub struct Once {
    files: Files,
}

impl Once {
    /// Takes what a file says.
    pub fn put(&mut self, file: &Path, text: &str) {
        self.files.put(file, manifest::read(file, text));
    }

    /// Notes that a file, or a directory of them, cannot be read.
    pub fn put_unread(&mut self, path: &Path, reason: impl fmt::Display) {
        self.files.put(path, Manifest::unread(path, 1, reason.to_string()));
    }

    /// What all of them say together: an object that two files have is refused where it comes second.
    pub fn finish(mut self) -> Batch {
        self.files.take()
    }
}

/// What is below a directory.
#[derive(Debug, Default)]
pub struct Found {
    /// The manifests, in their order.
    pub files: Vec<PathBuf>,
    /// Directories that cannot be read, and why.
    pub troubles: Vec<(PathBuf, String)>,
}

/// Looks for manifests below a directory.
pub fn find(directory: &Path) -> Found {
    let walk = Walk::of(directory, directory, &mut |_| Entered::Read);
    let mut files: Vec<_> = walk.files.into_iter().map(|it| it.path).collect();
    files.sort_unstable();
    Found { files, troubles: walk.troubles }
}

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ReadError(#[from] Unread);

/// Reads a manifest's text.
///
/// # Errors
/// It cannot be read, is too large, or no text.
pub fn read(file: &Path) -> Result<String, ReadError> {
    Ok(read_file::read(file)?)
}

/// Reads the text of a manifest that comes from somewhere else than a file.
///
/// # Errors
/// As [`read`].
pub fn read_from(source: impl Read) -> Result<String, ReadError> {
    Ok(read_file::read_from(source, 0)?)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const NAMESPACE: &str = "{apiVersion: v1, kind: Namespace, metadata: {name: shop}}";

    #[test]
    fn what_is_read_once_is_what_the_directory_would_say() {
        let mut once = Once::default();
        once.put(Path::new("b.yaml"), NAMESPACE);
        once.put(Path::new("a.yaml"), NAMESPACE);
        once.put(Path::new("c.yaml"), "kind: [");
        once.put_unread(Path::new("d"), "cannot be read");
        let batch = once.finish();
        assert_eq!(batch.changes.len(), 1);
        let refused: Vec<_> = batch.refusals.unwrap().iter().map(|it| it.file.clone()).collect();
        assert_eq!(refused, ["b.yaml", "c.yaml", "d"].map(PathBuf::from));
    }

    #[test]
    fn manifests_are_found_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("b")).unwrap();
        for name in ["c.yaml", "b/x.json", "a.yml", "a.txt"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let found = find(folder.path());
        assert_eq!(found.files, ["a.yml", "b/x.json", "c.yaml"].map(|name| folder.path().join(name)));
        assert!(found.troubles.is_empty());
    }

    #[test]
    fn what_is_no_text_is_not_read() {
        assert_eq!(read_from(&b"a: b"[..]).unwrap(), "a: b");
        assert!(read_from(&[0xff_u8][..]).unwrap_err().to_string().contains("UTF-8"));
        let endless = read_from(std::io::repeat(b' ')).unwrap_err().to_string();
        assert!(endless.contains("MiB"), "{endless}");
    }
}
