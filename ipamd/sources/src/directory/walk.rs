//! Finding the manifests below a directory.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

/// How deep directories may lie in each other.
const DEPTH: usize = 32;
/// How many files are read.
const MOST_FILES: usize = 100_000;

/// What is below a directory.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// The manifests.
    pub files: Vec<Found>,
    /// Links that lead nowhere now: perhaps to a directory, later.
    pub dangling: Vec<PathBuf>,
    /// The other links, and what they lead to.
    pub links: Vec<(PathBuf, Identity)>,
    /// Directories that cannot be read, and why.
    pub troubles: Vec<(PathBuf, String)>,
    /// Those of them of which it is not known what is in them.
    pub unread: Vec<PathBuf>,
    /// Directories that are not to be read.
    pub covered: Vec<PathBuf>,
}

/// What is to become of a directory that a walk comes to.
#[derive(Debug)]
pub(super) enum Entered {
    /// It is read.
    Read,
    /// The same, but nobody will tell of its changes.
    Unwatched(io::Error),
    /// It is not read.
    Covered,
}

/// A manifest.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub path: PathBuf,
    /// Whether it is a link or lies behind one.
    pub linked: bool,
}

/// What a directory or a file is, whatever its path: its device and its inode.
pub(super) type Identity = (u64, u64);

/// What the directory at a path is; `None` if there is none.
pub(super) fn identity(path: &Path) -> Option<Identity> {
    let metadata = fs::metadata(path).ok().filter(fs::Metadata::is_dir)?;
    Some((metadata.dev(), metadata.ino()))
}

/// What a link leads to, be it a directory or a file; `None` if it leads nowhere.
pub(super) fn target(link: &Path) -> Option<Identity> {
    let metadata = fs::metadata(link).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

impl Walk {
    /// Walks a directory that is a root or lies below it. Each directory is shown to `enter` before it is read, so that nothing that comes into it
    /// meanwhile is missed.
    pub fn of(root: &Path, directory: &Path, enter: &mut dyn FnMut(&Path) -> Entered) -> Self {
        let mut walk = Self::default();
        let parents = directory.ancestors().skip(1).take_while(|it| it.starts_with(root));
        let mut above = parents.filter_map(identity).collect();
        walk.directory(directory, false, &mut above, enter);
        walk
    }

    fn directory(
        &mut self,
        path: &Path,
        linked: bool,
        above: &mut Vec<Identity>,
        enter: &mut dyn FnMut(&Path) -> Entered,
    ) {
        let Some(identity) = identity(path) else { return };
        // A link may lead back to where it is.
        if above.contains(&identity) {
            return;
        }
        if above.len() == DEPTH {
            self.troubles
                .push((path.into(), format!("lies in more than {DEPTH} directories and is not read")));
            return;
        }
        match enter(path) {
            Entered::Read => {}
            Entered::Unwatched(error) => {
                let reason = format!("cannot be watched, so changes may be missed: {error}");
                self.troubles.push((path.into(), reason));
            }
            Entered::Covered => return self.covered.push(path.into()),
        }
        above.push(identity);
        if let Err(error) = self.entries(path, linked, above, enter) {
            self.troubles.push((path.into(), format!("cannot be read: {error}")));
            self.unread.push(path.into());
        }
        above.pop();
    }

    fn entries(
        &mut self,
        path: &Path,
        linked: bool,
        above: &mut Vec<Identity>,
        enter: &mut dyn FnMut(&Path) -> Entered,
    ) -> io::Result<()> {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let (name, path) = (entry.file_name(), entry.path());
            if is_hidden(&name) {
                continue;
            }
            let kind = entry.file_type()?;
            let linked = linked || kind.is_symlink();
            if kind.is_symlink()
                && let Some(target) = target(&path)
            {
                self.links.push((path.clone(), target));
            }
            let is_directory = kind.is_dir() || (kind.is_symlink() && identity(&path).is_some());
            if is_directory {
                self.directory(&path, linked, above, enter);
            } else if is_manifest(&name) {
                if self.files.len() == MOST_FILES {
                    return Err(io::Error::other(format!("there are more than {MOST_FILES} files")));
                }
                self.files.push(Found { path, linked });
            } else if kind.is_symlink() && !path.exists() {
                self.dangling.push(path);
            }
        }
        Ok(())
    }
}

/// Whether a name is that of a file or directory that nobody is meant to see.
pub(super) fn is_hidden(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b".")
}

/// Whether a name is that of a manifest. What editors leave beside it (`a.yaml~`, `.a.yaml.swp`) is none.
pub(super) fn is_manifest(name: &OsStr) -> bool {
    !is_hidden(name)
        && Path::new(name).extension().is_some_and(|it| it == "yaml" || it == "yml" || it == "json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_are_told_by_their_names() {
        for name in ["a.yaml", "a.yml", "a.json", "a.b.yaml"] {
            assert!(is_manifest(OsStr::new(name)), "{name}");
        }
        for name in
            ["a", "a.yaml~", ".a.yaml", ".a.yaml.swp", "..data", "#a.yaml#", "a.YAML.bak", "yaml", ".yaml"]
        {
            assert!(!is_manifest(OsStr::new(name)), "{name}");
        }
    }

    #[test]
    fn links_are_followed_but_not_in_circles() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir_all(path("a/.hidden")).unwrap();
        for file in ["a/x.yaml", "a/.hidden/y.yaml", "a/z.txt"] {
            fs::write(path(file), "").unwrap();
        }
        std::os::unix::fs::symlink(folder.path(), path("a/loop")).unwrap();
        std::os::unix::fs::symlink("a", path("b")).unwrap();
        std::os::unix::fs::symlink("nowhere", path("c.yaml")).unwrap();
        let mut entered = Vec::new();
        let walk = Walk::of(folder.path(), folder.path(), &mut |path| {
            entered.push(path.to_path_buf());
            Entered::Read
        });
        let mut files: Vec<_> = walk.files.iter().map(|it| (it.path.clone(), it.linked)).collect();
        files.sort();
        assert_eq!(files, [(path("a/x.yaml"), false), (path("b/x.yaml"), true), (path("c.yaml"), true)]);
        entered.sort();
        assert_eq!(entered, [folder.path().to_path_buf(), path("a"), path("b")]);
        assert!(walk.troubles.is_empty());
    }
}
