//! A directory of manifests as a source: it is read once as a whole, and then again file by file as it is edited.
//!
//! What cannot be read or parsed changes nothing: its last good state stays in force, and the refusal is shown until it
//! is repaired. Only what is removed is taken away: an object that its file no longer has, a file that no longer
//! exists. If the whole directory disappears or is replaced by one without manifests, or a file is emptied (editors may
//! do that first), everything stays. At a start the last good state is unknown, so the start waits until everything can
//! be read.

mod files;
#[cfg(test)]
mod files_tests;
mod inotify;
mod mounts;
pub(crate) mod read_file;
pub mod read_once;
#[cfg(test)]
mod tests;
mod walk;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use ipamd_api::wire::ClusterStatus;

use nix::{
    libc,
    sys::inotify::{AddWatchFlags, InotifyEvent},
};
use tokio::time::sleep_until;

use self::{
    files::Files,
    inotify::Watches,
    mounts::Mounts,
    read_file::Unread,
    walk::{Entered, Identity, Walk},
};
use super::{
    Source, SourceState,
    manifest::{self, Manifest},
};
use ipamd_model::objects::Batch;
use ipamd_runtime::monotonic::Age;

/// How often is looked for what inotify does not tell: whether the directory is still the one at its path, and whether
/// files that could not be read can be.
const LOOK: Duration = Duration::from_secs(1);
/// After a look that took long there is none for so many times as long.
const REST: u32 = 20;

/// A directory cannot be a cluster.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the directory of the cluster, {}", path.display())]
pub struct OpenError {
    path: PathBuf,
    source: io::Error,
}

/// How a directory goes as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    Gone,
    /// Another one is in its place, which has no manifest: what is to be mounted there may not be yet.
    Replaced,
    /// Another file system is in its place, which lacks some of what it had.
    Covered,
}

impl Loss {
    fn words(self) -> &'static str {
        match self {
            Self::Gone => "the directory is gone",
            Self::Replaced => "the directory is another one than it was, and has no manifest",
            Self::Covered => {
                "another file system is where the directory was, and lacks some of what that had"
            }
        }
    }

    fn trouble(self) -> &'static str {
        match self {
            Self::Gone => "this directory is gone; what it said stays in force",
            Self::Replaced => {
                "this directory is another one than it was, and has no manifest; what that said stays in force until this one has some"
            }
            Self::Covered => mounts::TROUBLE,
        }
    }
}

/// How much of the directory is known, for whoever asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// It was not read yet.
    NotYet,
    /// What it says.
    Now,
    /// What it said until it was gone.
    Until(Age, Loss),
}

/// The state of the directory.
#[derive(Debug)]
struct Sight {
    root: PathBuf,
    known: Mutex<Known>,
    /// What a start waits for, and why that was not read.
    waits: Mutex<Vec<(PathBuf, String)>>,
}

impl Sight {
    fn waits(&self) -> MutexGuard<'_, Vec<(PathBuf, String)>> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SourceState for Sight {
    fn status(&self) -> ClusterStatus {
        let known = *self.known();
        let waits = self.waits();
        let (age_seconds, trouble) = match known {
            Known::NotYet => (None, waits.first().map(|(_, why)| why.clone())),
            Known::Now => (Some(0), None),
            Known::Until(gone, loss) => (Some(gone.seconds()), Some(loss.words().to_owned())),
        };
        ClusterStatus {
            source: format!("dir {}", self.root.display()),
            live: known == Known::Now,
            age_seconds,
            unlisted: waits.iter().map(|(path, _)| path.display().to_string()).collect(),
            trouble,
            ..ClusterStatus::default()
        }
    }
}

/// A directory of manifests.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    sight: Arc<Sight>,
    /// Whether it was read once.
    started: bool,
    /// Whether the first batch is given.
    begun: bool,
    /// What stood at the path when it was last read; `None` while there is nothing.
    identity: Option<Identity>,
    /// What stood there when it was read last.
    former: Option<Identity>,
    /// Directories below it of which it is not known what is in them.
    unread: BTreeSet<PathBuf>,
    /// `None` while nothing can be watched.
    watches: Option<Watches>,
    files: Files,
    mounts: Mounts,
    /// What could not be read, and links that lead nowhere.
    retry: BTreeSet<PathBuf>,
    /// The other links, and what they led to when they were looked at. inotify tells nothing when another link or directory on the way is
    /// replaced.
    links: BTreeMap<PathBuf, Identity>,
    next_look: Instant,
}

impl Directory {
    /// Takes a directory for the cluster. Nothing of it is read before it is followed.
    ///
    /// # Errors
    /// It is not a directory that can be read.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, OpenError> {
        let root = path.into();
        if let Err(source) = fs::read_dir(&root) {
            return Err(OpenError { path: root, source });
        }
        Ok(Self {
            sight: Arc::new(Sight {
                root: root.clone(),
                known: Mutex::new(Known::NotYet),
                waits: Mutex::default(),
            }),
            root,
            started: false,
            begun: false,
            identity: None,
            former: None,
            unread: BTreeSet::new(),
            watches: None,
            files: Files::default(),
            mounts: Mounts::default(),
            retry: BTreeSet::new(),
            links: BTreeMap::new(),
            next_look: Instant::now() + LOOK,
        })
    }

    /// Reads all of it and watches it from here on.
    fn begin(&mut self) {
        self.retry.clear();
        let root = self.root.clone();
        self.files.clear_troubles(&root);
        self.identity = walk::identity(&root);
        if self.identity.is_none() {
            return self.lose(Loss::Gone);
        }
        if !self.mounts.may_read(&root, &self.files) {
            return self.lose(Loss::Covered);
        }
        if self.is_replaced_by_nothing() {
            return self.lose(Loss::Replaced);
        }
        self.former = self.identity;
        *self.sight.known() = if self.begun { Known::Now } else { Known::NotYet };
        self.watches = match Watches::new() {
            Ok(watches) => Some(watches),
            Err(error) => {
                let reason = format!("cannot be watched, only looked at every second: {error}");
                self.files.set_trouble(&root, Some(reason));
                None
            }
        };
        self.scan(&root, false);
    }

    /// Whether another directory is in the place of one that had objects, and has no manifest.
    fn is_replaced_by_nothing(&self) -> bool {
        let is_another = self.former.is_some() && self.former != self.identity;
        is_another
            && !self.files.are_none()
            && Walk::of(&self.root, &self.root, &mut |_| Entered::Read).files.is_empty()
    }

    /// The directory is gone. What it said stays.
    fn lose(&mut self, loss: Loss) {
        self.watches = None;
        self.identity = None;
        {
            let mut known = self.sight.known();
            let age = if let Known::Until(age, _) = *known { age } else { Age::default() };
            *known = Known::Until(age, loss);
        }
        let root = self.root.clone();
        self.files.set_trouble(&root, Some(loss.trouble().into()));
    }

    /// Looks for what inotify does not tell.
    fn look(&mut self) {
        let began = Instant::now();
        let now = walk::identity(&self.root);
        if now.is_none() {
            self.lose(Loss::Gone);
        } else if now != self.identity || self.watches.is_none() || self.mounts.is_other(&self.root) {
            self.begin();
        } else {
            for path in self.mounts.others() {
                self.scan(&path, false);
            }
            let turned = self.links.iter().filter(|(link, led_to)| walk::target(link) != Some(**led_to));
            let turned: BTreeSet<_> = turned.map(|(link, _)| link).chain(&self.retry).cloned().collect();
            for path in turned {
                self.examine(&path);
            }
        }
        // To look takes a share of the time, however many directories there are.
        self.next_look = Instant::now() + LOOK.max(began.elapsed() * REST);
    }

    /// Does what events ask for.
    fn take(&mut self, events: &[InotifyEvent]) {
        for event in events.iter().filter(|event| event.mask.contains(AddWatchFlags::IN_UNMOUNT)) {
            for path in self.watches.as_ref().map(|it| it.paths(event.wd)).unwrap_or_default() {
                self.mounts.unmounted(&path);
            }
        }
        // When all of it goes away its files go first, one by one.
        if walk::identity(&self.root) != self.identity || self.mounts.is_other(&self.root) {
            return self.look();
        }
        if events.iter().any(|event| event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW)) {
            tracing::warn!(directory = %self.root.display(), "the inotify queue overflowed; reading the directory again");
            return self.begin();
        }
        let mut touched = BTreeSet::new();
        let mut swapped = BTreeSet::new();
        for event in events {
            let paths = self.watches.as_ref().map(|it| it.paths(event.wd)).unwrap_or_default();
            if event.mask.contains(AddWatchFlags::IN_IGNORED)
                && let Some(watches) = &mut self.watches
            {
                watches.ended(event.wd);
            }
            for path in paths {
                match &event.name {
                    None => {
                        touched.insert(path);
                    }
                    // The kubelet changes all files of a volume at once by moving this link.
                    Some(name) if name == "..data" => {
                        swapped.insert(path);
                    }
                    Some(name) if walk::is_hidden(name) => {}
                    Some(name) => {
                        let path = path.join(name);
                        if is_finished(event.mask, &path) {
                            touched.insert(path);
                        }
                    }
                }
            }
        }
        // What became another file system is no longer where these events come from.
        let directories: BTreeSet<_> =
            touched.iter().chain(&swapped).filter_map(|path| path.parent()).collect();
        for directory in directories {
            if self.mounts.is_other(directory) {
                self.scan(directory, false);
            }
        }
        for path in &swapped {
            self.scan(path, true);
        }
        for path in &touched {
            self.examine(path);
        }
    }

    /// Looks at what a path is now.
    fn examine(&mut self, path: &Path) {
        // Of what lies in such a directory nothing is to be seen; whether it may be read again is asked of itself.
        if path.parent().is_some_and(|parent| self.mounts.is_covered(parent)) {
            return;
        }
        let is_link = match fs::symlink_metadata(path) {
            Ok(metadata) => metadata.is_symlink(),
            Err(error) if leads_nowhere(&error) => return self.remove_below(path),
            Err(_) => false,
        };
        self.links.remove(path);
        if is_link && let Some(target) = walk::target(path) {
            self.links.insert(path.into(), target);
        }
        if walk::identity(path).is_some() {
            if !self.keeps_what_became_a_directory(path) {
                self.files.remove(path);
            }
            self.scan(path, false);
        } else if path.file_name().is_some_and(walk::is_manifest) {
            self.read(path, is_link);
        } else {
            self.remove_below(path);
            if is_link && !path.exists() {
                self.retry.insert(path.into());
            }
        }
    }

    /// Reads what is below a directory; with `linked_only`, of the files that are known those that links lead to.
    fn scan(&mut self, directory: &Path, linked_only: bool) {
        if directory.parent().is_some_and(|parent| self.mounts.is_covered(parent)) {
            return;
        }
        let (watches, mounts, files) = (&mut self.watches, &mut self.mounts, &self.files);
        let mut entered = BTreeSet::new();
        let mut walk = Walk::of(&self.root, directory, &mut |path| {
            entered.insert(path.to_path_buf());
            if !mounts.may_read(path, files) {
                return Entered::Covered;
            }
            let outcome = watches.as_mut().map_or(Ok(()), |it| it.add_directory(path));
            outcome.map_or_else(Entered::Unwatched, |()| Entered::Read)
        });
        self.mounts.forget_below(directory, &entered);
        walk.troubles.extend(walk.covered.drain(..).map(|path| (path, mounts::TROUBLE.to_owned())));
        self.retry.retain(|path| !path.starts_with(directory));
        if *directory != *self.root || self.watches.is_some() {
            self.files.clear_troubles(directory);
        }
        for (path, reason) in &walk.troubles {
            self.files.set_trouble(path, Some(reason.clone()));
            self.retry.insert(path.clone());
        }
        self.retry.extend(walk.dangling);
        self.links.retain(|path, _| path == directory || !path.starts_with(directory));
        self.links.extend(walk.links);
        self.unread.retain(|path| !path.starts_with(directory));
        self.unread.extend(walk.unread);
        let found: BTreeSet<_> = walk.files.iter().map(|it| it.path.as_path()).collect();
        for known in self.files.below(directory) {
            let is_unknown = walk.troubles.iter().any(|(path, _)| known.starts_with(path));
            if !is_unknown && !found.contains(&*known) && !self.keeps_what_became_a_directory(&known) {
                self.files.remove(&known);
            }
        }
        for it in &walk.files {
            if it.linked || !linked_only || !self.files.has(&it.path) {
                self.read(&it.path, it.linked);
            }
        }
    }

    /// Whether there is a directory where a manifest with objects was. What it said stays in force: a container engine makes an empty
    /// directory where a file is to be mounted that is missing, and nobody has meant to take a policy away.
    fn keeps_what_became_a_directory(&mut self, path: &Path) -> bool {
        let keeps = self.files.has_objects(path) && walk::identity(path).is_some();
        if keeps {
            let why = "this is a directory now; what the file said stays in force until the directory is removed or is a file again";
            self.files.put(path, Manifest::unread(path, 1, why));
        }
        keeps
    }

    /// Reads a file.
    fn read(&mut self, path: &Path, is_linked: bool) {
        if is_linked && let Some(watches) = &mut self.watches {
            // Without it, a change of the file that the link leads to is missed; the file itself is read all the same.
            if let Err(error) = watches.add_target(path) {
                tracing::debug!(file = %path.display(), %error, "cannot watch the target of a link");
            }
        }
        self.retry.remove(path);
        let manifest = match read_file::read(path) {
            // Whoever writes it anew may have emptied it first.
            Ok(text) if text.trim().is_empty() && self.files.has_objects(path) => {
                let why =
                    "this file is empty; what it said stays in force until it has content or is removed";
                Manifest::unread(path, 1, why)
            }
            Ok(text) => manifest::read(path, &text),
            Err(Unread::Io(error)) if leads_nowhere(&error) && is_gone(path) => {
                return self.files.remove(path);
            }
            Err(unread) => {
                if matches!(unread, Unread::Io(_)) {
                    self.retry.insert(path.into());
                }
                Manifest::unread(path, 1, unread.to_string())
            }
        };
        self.files.put(path, manifest);
    }

    /// Forgets what is at a path and below it.
    fn remove_below(&mut self, path: &Path) {
        for file in self.files.below(path) {
            self.files.remove(&file);
        }
        self.files.clear_troubles(path);
        self.retry.retain(|it| !it.starts_with(path));
        self.links.retain(|it, _| !it.starts_with(path));
        self.unread.retain(|it| !it.starts_with(path));
        self.mounts.forget_below(path, &BTreeSet::new());
        if let Some(watches) = &mut self.watches {
            watches.forget_below(path);
        }
    }
}

impl Directory {
    /// Whether a start must wait, because something cannot be read that may have had objects before.
    fn waits(&mut self) -> bool {
        let mut waits: Vec<_> = self.files.unread().map(|it| (it.file.clone(), it.to_string())).collect();
        let unread = |path: &PathBuf| (path.clone(), format!("{}: cannot be read", path.display()));
        waits.extend(self.unread.iter().map(unread));
        if self.identity.is_none() {
            waits.push((self.root.clone(), Loss::Gone.words().into()));
        }
        let waits_now = !waits.is_empty();
        let mut known = self.sight.waits();
        if *known != waits {
            for (_, why) in &waits {
                tracing::warn!("waiting: the last good state of this file is not known: {why}");
            }
            *known = waits;
        }
        waits_now
    }

    /// Waits until there may be more to see, and looks.
    async fn more(&mut self) {
        let look = sleep_until(self.next_look.into());
        let events = if let Some(watches) = &self.watches {
            tokio::select! {
                events = watches.events() => Some(events),
                () = look => None,
            }
        } else {
            look.await;
            None
        };
        match events {
            Some(Ok(events)) => self.take(&events),
            Some(Err(error)) => {
                tracing::warn!(directory = %self.root.display(), %error, "cannot read inotify events");
                // The next look begins anew.
                self.watches = None;
            }
            None => self.look(),
        }
    }
}

/// Whether an event says that there is something new to see: a regular file that is just created is yet to be written.
fn is_finished(mask: AddWatchFlags, path: &Path) -> bool {
    if !mask.contains(AddWatchFlags::IN_CREATE) || mask.contains(AddWatchFlags::IN_ISDIR) {
        return true;
    }
    fs::symlink_metadata(path).is_ok_and(|it| !it.is_file() || it.nlink() > 1)
}

fn is_gone(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|error| leads_nowhere(&error))
}

/// Whether there is nothing at a path: also where a directory on the way became a file, or a link to itself.
fn leads_nowhere(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
        || error.raw_os_error() == Some(libc::ELOOP)
}

impl Source for Directory {
    fn state(&self) -> Option<Arc<dyn SourceState>> {
        Some(Arc::clone(&self.sight) as _)
    }

    async fn next(&mut self) -> Batch {
        if !self.begun {
            if !self.started {
                self.started = true;
                self.begin();
            }
            while self.waits() {
                self.more().await;
            }
            self.begun = true;
            *self.sight.known() = Known::Now;
            return self.files.take();
        }
        loop {
            self.more().await;
            let batch = self.files.take();
            if !batch.changes.is_empty() || batch.refusals.is_some() {
                return batch;
            }
        }
    }
}
