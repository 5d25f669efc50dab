//! A copy of the cluster's state on disk. A daemon that starts while the API server is away begins with it.
//!
//! A thread of its own writes the copy, so that a slow, hanging or full disk does not delay what the server sends.
//! Changes that could not be written are kept and tried again. Until they are written the file has another name
//! (`database.rs`), because it lacks the latest changes. A part of the policies must not be taken for all of them
//! either: with the objects of each resource their number and a digest are kept, and written in the same transaction.

mod change;
mod database;

use std::{
    mem,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde_json::Value;

use self::{
    change::Change,
    database::{Database, Disk, Failure, Loaded},
};
use super::resources::{RESOURCES, Resource};
use ipamd_runtime::supervisor;

/// So many bytes are written at once, a list in parts.
const MAX_WRITE: usize = 1 << 20;
/// So many bytes may wait. More come only while a list does, or when nothing can be written.
const MAX_PENDING: usize = 16 << 20;
/// How long the source waits for room.
const PATIENCE: Duration = Duration::from_secs(1);
/// When what failed is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// A write that takes longer than this is a problem.
const SLOW: Duration = Duration::from_secs(30);
/// Why no copy is kept any more.
const OVERFLOWED: &str = "more has changed than can wait for the disk";
const NO_THREAD: &str = "no thread can be started that writes it";
/// How long the end waits for what is to be written.
const FAREWELL: Duration = Duration::from_secs(1);

/// What waits for the thread that writes.
#[derive(Debug, Default)]
struct Waiting {
    changes: Vec<Change>,
    bytes: usize,
    /// When they are to be written.
    due: Option<Instant>,
    loads: Vec<(usize, mpsc::Sender<Loaded>)>,
    /// Since when the disk has been writing.
    writing: Option<Instant>,
    keeping: Keeping,
    closed: bool,
    /// Nobody writes, or answers.
    ended: bool,
}

/// Whether what is told is kept.
#[derive(Debug, Default)]
enum Keeping {
    #[default]
    Well,
    /// Not now, and why. It is tried again.
    Behind(String),
    /// Not until the next start, and why: a change is lost, and what follows is of no use without it.
    GivenUp(String),
}

impl Waiting {
    fn is_given_up(&self) -> bool {
        matches!(self.keeping, Keeping::GivenUp(_))
    }

    /// What is wrong at this time. A disk that hangs says nothing, so whoever asks looks at how long it has.
    fn problem(&self, folder: &Path, now: Instant) -> Option<String> {
        match (&self.keeping, self.writing) {
            (Keeping::GivenUp(problem) | Keeping::Behind(problem), _) => Some(problem.clone()),
            (Keeping::Well, Some(since)) if now.saturating_duration_since(since) >= SLOW => Some(format!(
                "the cluster's state has been written to {} for {} s and is not there yet; a start without the API server \
                 would go on with an older one; see whether the disk hangs",
                folder.display(),
                now.saturating_duration_since(since).as_secs()
            )),
            (Keeping::Well, _) => None,
        }
    }
}

#[derive(Debug, Default)]
struct Queue {
    folder: PathBuf,
    waiting: Mutex<Waiting>,
    /// Something waits, or there is room again.
    changed: Condvar,
}

impl Queue {
    fn new(folder: &Path) -> Self {
        Self { folder: folder.into(), ..Self::default() }
    }

    /// Keeps nothing any more, and says so from now on: the thread that writes may be waiting for a disk that hangs.
    fn give_up(&self, waiting: &mut Waiting, why: &str) {
        if waiting.is_given_up() {
            return;
        }
        (waiting.changes, waiting.bytes) = (Vec::new(), 0);
        let problem = format!(
            "the cluster's state is not kept in {}: {why}; a start without the API server would have to wait for it; \
             restart the daemon once the disk is well",
            self.folder.display()
        );
        tracing::error!("{problem}");
        waiting.keeping = Keeping::GivenUp(problem);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, change: Change) {
        let size = change.size();
        let waiting = self.lock();
        let (mut waiting, _) = self
            .changed
            .wait_timeout_while(waiting, PATIENCE, |it| {
                !it.is_given_up() && it.bytes > 0 && it.bytes + size > MAX_PENDING
            })
            .unwrap_or_else(PoisonError::into_inner);
        if waiting.is_given_up() {
            return;
        }
        if waiting.bytes > 0 && waiting.bytes + size > MAX_PENDING {
            self.give_up(&mut waiting, OVERFLOWED);
        } else {
            let due = Instant::now() + change.max_delay();
            waiting.due = Some(waiting.due.map_or(due, |before| before.min(due)));
            waiting.bytes += size;
            waiting.changes.push(change);
        }
        drop(waiting);
        self.changed.notify_all();
    }

    /// Waits for what is to be done next.
    fn next(&self) -> Next {
        let mut waiting = self.lock();
        loop {
            if waiting.is_given_up() {
                return Next::GivenUp;
            }
            let now = Instant::now();
            let is_due = waiting.due.is_some_and(|due| due <= now);
            let hurries = waiting.closed || !waiting.loads.is_empty() || waiting.bytes >= MAX_WRITE;
            if !waiting.changes.is_empty() && (is_due || hurries) {
                let mut size = 0;
                let parts = waiting.changes.iter().position(|change| {
                    size += change.size();
                    size > MAX_WRITE
                });
                // One at least.
                let rest = parts.map_or(Vec::new(), |at| waiting.changes.split_off(at.max(1)));
                let batch = mem::replace(&mut waiting.changes, rest);
                waiting.due = waiting.due.filter(|_| !waiting.changes.is_empty());
                return Next::Write(batch);
            }
            if let Some((resource, to)) = waiting.loads.pop() {
                return Next::Load(resource, to);
            }
            if waiting.closed {
                return Next::End;
            }
            let pause = waiting.due.map_or(Duration::MAX, |due| due.saturating_duration_since(now));
            waiting = supervisor::resting(|| match pause {
                Duration::MAX => self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner),
                pause => self.changed.wait_timeout(waiting, pause).unwrap_or_else(PoisonError::into_inner).0,
            });
        }
    }

    /// These are written.
    fn written(&self, batch: &[Change]) {
        let mut waiting = self.lock();
        waiting.bytes -= batch.iter().map(Change::size).sum::<usize>().min(waiting.bytes);
        if !waiting.is_given_up() {
            waiting.keeping = Keeping::Well;
        }
        drop(waiting);
        self.changed.notify_all();
    }

    /// Waits before the next try; whether there is to be one.
    fn pause(&self) -> bool {
        let waiting = self.lock();
        let (waiting, _) = supervisor::resting(|| {
            self.changed
                .wait_timeout_while(waiting, RETRY_AFTER, |it| !it.closed && !it.is_given_up())
                .unwrap_or_else(PoisonError::into_inner)
        });
        !waiting.closed && !waiting.is_given_up()
    }
}

enum Next {
    Write(Vec<Change>),
    Load(usize, mpsc::Sender<Loaded>),
    GivenUp,
    End,
}

/// The copy. Without one, everything is as if it were empty.
#[derive(Debug)]
pub(super) struct Cache {
    queue: Arc<Queue>,
    last_contact: Option<SystemTime>,
    thread: Option<JoinHandle<()>>,
}

/// What is wrong with the copy, for whoever asks.
#[derive(Clone, Debug, Default)]
pub(super) struct CopyState(Arc<Queue>);

impl CopyState {
    /// Why it is not kept now.
    pub fn problem(&self) -> Option<String> {
        self.0.lock().problem(&self.0.folder, Instant::now())
    }
}

impl Cache {
    /// Opens the copy of what a server has told; of another server's nothing is taken.
    pub fn open(path: &Path, server: &str) -> Self {
        Self::open_on(Disk::default(), path, server)
    }

    fn open_on(disk: Disk, path: &Path, server: &str) -> Self {
        let queue = Arc::new(Queue::new(path));
        let mut writer = Writer {
            queue: Arc::clone(&queue),
            folder: path.into(),
            server: server.into(),
            disk,
            database: None,
            is_behind: false,
        };
        if database::holds_others(path) {
            tracing::info!(path = %path.display(), "the copy of the cluster's state is incomplete or of another version; starting a new copy");
            if let Err(error) = database::remove(path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove the old copy of the cluster's state");
            }
        }
        match Database::open(&writer.disk, path, server) {
            Ok(database) => writer.database = Some(database),
            Err(error) => writer.fails(&error),
        }
        let last_contact = writer.database.as_ref().and_then(Database::last_contact);
        let thread = supervisor::spawn("copy", move || writer.run());
        if let Err(error) = &thread {
            let mut waiting = queue.lock();
            waiting.ended = true;
            queue.give_up(&mut waiting, &format!("{NO_THREAD}: {error}"));
        }
        let last_contact =
            last_contact.and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
        Self { queue, last_contact, thread: thread.ok() }
    }

    /// What is wrong with it, from now on.
    pub fn state(&self) -> CopyState {
        CopyState(Arc::clone(&self.queue))
    }

    /// When the last daemon heard of the server.
    pub fn last_contact(&self) -> Option<SystemTime> {
        self.last_contact
    }

    /// What was kept of a resource: nothing, if it is not just what was written. Waits for the disk.
    pub fn load(&self, resource: &Resource) -> Loaded {
        let Some(at) = field(resource) else { return Loaded::default() };
        let (to, loaded) = mpsc::channel();
        {
            let mut waiting = self.queue.lock();
            if waiting.ended {
                return Loaded::default();
            }
            waiting.loads.push((at, to));
        }
        self.queue.changed.notify_all();
        // Nobody answers where there is no thread.
        loaded.recv().unwrap_or_default()
    }

    /// Keeps an object.
    pub fn put(&self, resource: &Resource, key: &str, body: &Value) {
        // A Value is always JSON.
        let (Some(at), Ok(body)) = (field(resource), serde_json::to_vec(body)) else { return };
        self.queue.push(Change::Put { resource: at, key: key.into(), body: body.into() });
    }

    /// Forgets an object.
    pub fn remove(&self, resource: &Resource, key: &str) {
        let Some(at) = field(resource) else { return };
        self.queue.push(Change::Remove { resource: at, key: key.into() });
    }

    /// Notes that a resource is here as a whole.
    pub fn set_complete(&self, resource: &Resource) {
        let Some(at) = field(resource) else { return };
        self.queue.push(Change::Complete { resource: at });
    }

    /// Notes when the server was last heard.
    pub fn set_last_contact(&self, at: SystemTime) {
        self.queue.push(Change::LastContact(at.duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs())));
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.queue.lock().closed = true;
        self.queue.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = supervisor::join_within(thread, FAREWELL);
        }
    }
}

fn field(resource: &Resource) -> Option<usize> {
    RESOURCES.iter().position(|it| it == resource)
}

/// The thread that writes.
#[derive(Debug)]
struct Writer {
    queue: Arc<Queue>,
    folder: PathBuf,
    server: String,
    disk: Disk,
    database: Option<Database>,
    /// What is on the disk lacks changes.
    is_behind: bool,
}

impl Writer {
    fn run(mut self) {
        loop {
            match self.queue.next() {
                Next::Write(batch) => {
                    if !self.write(&batch) {
                        break;
                    }
                }
                Next::Load(resource, to) => {
                    let loaded = self.database.as_mut().map(|database| database.load(resource));
                    match loaded.unwrap_or_else(|| Ok(Loaded::default())) {
                        // Nobody waits for it if the source is gone.
                        Ok(loaded) => drop(to.send(loaded)),
                        Err(error) => {
                            // What was loaded of others is not told again, so no copy can be made from here on.
                            self.queue
                                .give_up(&mut self.queue.lock(), &format!("it cannot be read: {error}"));
                            self.remove();
                            break;
                        }
                    }
                }
                Next::GivenUp => {
                    self.remove();
                    break;
                }
                Next::End => break,
            }
        }
        // Whoever waits for an answer has none.
        let mut waiting = self.queue.lock();
        waiting.ended = true;
        waiting.loads.clear();
    }

    /// Writes until that succeeds; whether it did.
    fn write(&mut self, batch: &[Change]) -> bool {
        loop {
            // A disk may take its time, and hang: nobody waits for this thread.
            self.queue.lock().writing = Some(Instant::now());
            let written = supervisor::resting(|| self.try_to_write(batch));
            self.queue.lock().writing = None;
            match written {
                Ok(()) => {
                    self.queue.written(batch);
                    return true;
                }
                Err(error) => self.fails(&error),
            }
            if !self.queue.pause() {
                if self.queue.lock().is_given_up() {
                    self.remove();
                }
                return false;
            }
        }
    }

    fn try_to_write(&mut self, batch: &[Change]) -> Result<(), Failure> {
        let database = match &mut self.database {
            Some(database) => database,
            None => self.database.insert(Database::open_behind(&self.disk, &self.folder, &self.server)?),
        };
        database.apply(batch)?;
        if self.is_behind && self.queue.lock().changes.is_empty() {
            database::bring_back(&self.folder).map_err(|error| error.to_string())?;
            self.is_behind = false;
            tracing::info!(path = %self.folder.display(), "the copy of the cluster's state is written again");
        }
        Ok(())
    }

    /// The copy cannot be written: what is on the disk is none until it can.
    fn fails(&mut self, error: &str) {
        // After an error redb wants to be opened anew.
        self.database = None;
        if let Err(error) = database::put_behind(&self.folder) {
            tracing::debug!(%error, "cannot rename the copy of the cluster's state");
        }
        self.is_behind = true;
        let problem = format!(
            "cannot write the copy of the cluster's state in {}: {error}; a start without the API server would have to wait for it",
            self.folder.display()
        );
        let mut waiting = self.queue.lock();
        match &waiting.keeping {
            // Why it is given up says more.
            Keeping::GivenUp(_) => return,
            Keeping::Behind(before) if *before == problem => {}
            _ => tracing::error!("{problem}"),
        }
        waiting.keeping = Keeping::Behind(problem);
    }

    /// There is no copy until the next start.
    fn remove(&mut self) {
        self.database = None;
        if let Err(error) = database::remove(&self.folder) {
            tracing::error!(path = %self.folder.display(), %error, "cannot remove the copy of the cluster's state");
        }
    }
}

#[cfg(test)]
mod tests;
