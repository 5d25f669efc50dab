//! Which file system each directory was read from. Another one that is mounted there takes nothing away: nobody who mounts a volume, or
//! loses one, has meant to remove a policy, and inotify tells nothing of it.
//!
//! What was read stays until the former file system is back, or another one has every object that the former had. A directory that is
//! replaced by `rename`, or a link that leads elsewhere, is a change that somebody has made, and counts.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    time::SystemTime,
};

use nix::libc;

use super::{files::Files, read_file, walk::Walk};
use crate::manifest;
use ipamd_model::objects::ObjectId;

/// What is wrong with a directory on which another file system is mounted.
pub(super) const TROUBLE: &str = "another file system is here than before, and it lacks some of what that one had; what that said stays \
    in force until that one is back, this one has all of it too, or the daemon is restarted";

/// Where a directory is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Its path without links.
    path: PathBuf,
    /// The number of its mount; `None` where the kernel does not tell.
    mount: Option<u64>,
    device: u64,
    inode: u64,
    /// Numbers of file systems are given again; this tells two of them apart, where the file system knows it.
    made: Option<SystemTime>,
}

impl Place {
    /// The place of a directory; `None` if there is none.
    pub fn of(directory: &Path) -> Option<Self> {
        let options =
            fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(directory);
        let open = options.ok()?;
        let metadata = open.metadata().ok()?;
        let number = open.as_raw_fd();
        let told = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap_or_default();
        let mount = told.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
        let path = fs::read_link(format!("/proc/self/fd/{number}")).unwrap_or_else(|_| directory.into());
        Some(Self {
            path,
            mount,
            device: metadata.dev(),
            inode: metadata.ino(),
            made: metadata.created().ok(),
        })
    }

    /// Whether this is where that was, on another file system.
    fn covers(&self, former: &Self) -> bool {
        let is_other_mount = self.mount.zip(former.mount).is_some_and(|(is, was)| is != was);
        self.path == former.path && (is_other_mount || self.device != former.device)
    }

    /// Whether it is the same directory, be it mounted once more.
    fn is_same(&self, former: &Self) -> bool {
        (self.device, self.inode, self.made) == (former.device, former.inode, former.made)
            && self.made.is_some()
    }
}

/// Of a file: when it was changed last, and how long it is.
type Version = (PathBuf, Option<(i64, i64, u64)>);

/// What is known of a directory.
#[derive(Debug)]
struct Known {
    /// Where it was when it was read.
    place: Place,
    /// The kernel has told that its file system was unmounted.
    unmounted: bool,
    /// The files of another file system that is there now, when it was seen that it lacks something.
    lacking: Option<Vec<Version>>,
}

/// The directories that were read.
#[derive(Debug)]
pub(super) struct Mounts {
    known: BTreeMap<PathBuf, Known>,
    /// How a place is found out.
    see: fn(&Path) -> Option<Place>,
}

impl Default for Mounts {
    fn default() -> Self {
        Self { known: BTreeMap::new(), see: Place::of }
    }
}

impl Mounts {
    /// Whether a directory may be read as it is now. If not, what was read of it and below it is to stay.
    pub fn may_read(&mut self, directory: &Path, files: &Files) -> bool {
        let Some(place) = (self.see)(directory) else { return true };
        if let Some(known) = self.known.get_mut(directory)
            && (known.unmounted || known.lacking.is_some() || place.covers(&known.place))
            && !place.is_same(&known.place)
            && place.path == known.place.path
        {
            let walk = Walk::of(directory, directory, &mut |_| super::walk::Entered::Read);
            let versions =
                walk.files.iter().map(|it| (it.path.clone(), version(&it.path))).collect::<Vec<_>>();
            if known.lacking.as_ref() == Some(&versions) {
                return false;
            }
            if lacks_some(&walk, directory, files) {
                known.lacking = Some(versions);
                return false;
            }
        }
        self.known.insert(directory.into(), Known { place, unmounted: false, lacking: None });
        true
    }

    /// Takes note that the file system of a directory was unmounted.
    pub fn unmounted(&mut self, directory: &Path) {
        if let Some(known) = self.known.get_mut(directory) {
            known.unmounted = true;
        }
    }

    /// Whether a directory is not to be read now, or lies in one that is not.
    pub fn is_covered(&self, path: &Path) -> bool {
        path.ancestors().any(|it| self.known.get(it).is_some_and(|known| known.lacking.is_some()))
    }

    /// Whether another file system is where a directory was when it was read.
    pub fn is_other(&self, directory: &Path) -> bool {
        let Some(known) = self.known.get(directory) else { return false };
        known.unmounted || (self.see)(directory).is_some_and(|place| place.covers(&known.place))
    }

    /// The directories that became others and have not been looked at since.
    pub fn others(&self) -> Vec<PathBuf> {
        let unseen = self.known.iter().filter(|(_, known)| known.lacking.is_none());
        unseen.map(|(path, _)| path).filter(|path| self.is_other(path)).cloned().collect()
    }

    /// Forgets what is at a path and below it, but for these and what lies below those of them that are not to be read.
    pub fn forget_below(&mut self, path: &Path, but: &BTreeSet<PathBuf>) {
        let covered: BTreeSet<_> = self
            .known
            .iter()
            .filter(|(_, known)| known.lacking.is_some())
            .map(|(path, _)| path.clone())
            .collect();
        let stays = |it: &Path| {
            but.contains(it) || it.ancestors().any(|above| but.contains(above) && covered.contains(above))
        };
        self.known.retain(|it, _| !it.starts_with(path) || stays(it));
    }

    /// The same with another way to find out a place. For tests.
    #[cfg(test)]
    pub fn seen_by(see: fn(&Path) -> Option<Place>) -> Self {
        Self { known: BTreeMap::new(), see }
    }
}

#[cfg(test)]
impl Place {
    /// The same on another mount.
    pub fn on(self, mount: u64) -> Self {
        Self { mount: Some(mount), made: None, ..self }
    }
}

fn version(file: &Path) -> Option<(i64, i64, u64)> {
    let metadata = fs::metadata(file).ok()?;
    Some((metadata.mtime(), metadata.mtime_nsec(), metadata.size()))
}

/// Whether there is something in force that was read below a directory, and of which what is there now does not tell.
fn lacks_some(walk: &Walk, directory: &Path, files: &Files) -> bool {
    let mut told: BTreeSet<ObjectId> = BTreeSet::new();
    // Of these it is not known which objects they have: they take nothing away.
    let mut unclear: BTreeSet<&Path> = BTreeSet::new();
    for file in &walk.files {
        match read_file::read(&file.path).map(|text| manifest::read(&file.path, &text)) {
            Ok(manifest) if manifest.complete && !manifest.objects.is_empty() => {
                told.extend(manifest.objects.iter().map(|it| it.object.id()));
                told.extend(manifest.refusals.into_iter().filter_map(|it| it.object));
            }
            Ok(manifest) if manifest.complete && manifest.refusals.is_empty() => {}
            _ => {
                unclear.insert(&file.path);
            }
        }
    }
    let below = files.below(directory);
    below.iter().any(|path| !unclear.contains(&**path) && files.ids(path).any(|id| !told.contains(&id)))
}
