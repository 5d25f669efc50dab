//! The copy on disk: a redb database with a table for each resource.

use std::{
    fmt,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use redb::{Builder, ReadableDatabase, ReadableTable, TableDefinition};
use serde_json::Value;

use super::change::Change;
use crate::kube::resources::{RESOURCES, Resource};
use ipamd_runtime::{catch_panic::catch_panic, digest::weight};

/// Raised when what is kept of objects changes, so that another version's copy is not taken for ours.
const FORMAT: &str = "4";
/// redb's page cache, in bytes: the copy is read once.
const PAGES: usize = 1 << 20;

/// What says what the copy is of; beside it the summary of each resource, by its name.
const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("\0meta");
const FORMAT_KEY: &str = "\0format";
const SERVER_KEY: &str = "\0server";
const LAST_CONTACT_KEY: &str = "\0heard";

/// The file, in a folder that is Cambric's alone.
const FILE: &str = "copy.redb";
/// What the file is called while it lacks changes that could not be written: nobody takes it for a copy.
const BEHIND: &str = "copy.behind";

/// What opens a file: another one in tests, whose disk hangs.
pub(super) struct Disk(pub Box<OpenFile>);

type OpenFile = dyn Fn(&mut Builder, &Path) -> Result<redb::Database, redb::DatabaseError> + Send;

impl Default for Disk {
    fn default() -> Self {
        Self(Box::new(|builder, file| builder.create(file)))
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Disk")
    }
}

/// What was kept of a resource.
#[derive(Debug, Default, PartialEq)]
pub(in crate::kube) struct Loaded {
    /// The objects.
    pub bodies: Vec<Value>,
    /// Whether they are all that there were.
    pub complete: bool,
}

/// The open copy.
#[derive(Debug)]
pub(super) struct Database {
    redb: redb::Database,
    /// In the order of the resources.
    summaries: Vec<Summary>,
}

/// What the objects of a resource are together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Summary {
    /// Whether the resource was ever told as a whole.
    complete: bool,
    count: u64,
    digest: u64,
}

impl Summary {
    fn add(&mut self, key: &str, value: &[u8]) {
        self.count = self.count.wrapping_add(1);
        self.digest = self.digest.wrapping_add(weight(key, value));
    }

    fn take(&mut self, key: &str, value: &[u8]) {
        self.count = self.count.wrapping_sub(1);
        self.digest = self.digest.wrapping_sub(weight(key, value));
    }

    fn encode(self) -> Vec<u8> {
        let Self { complete, count, digest } = self;
        format!("{} {count} {digest:016x}", u8::from(complete)).into_bytes()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(bytes).ok()?.split(' ');
        let (complete, count, digest) = (words.next()?, words.next()?, words.next()?);
        let digest = u64::from_str_radix(digest, 16).ok()?;
        let summary = Self { complete: complete == "1", count: count.parse().ok()?, digest };
        (summary.encode() == bytes).then_some(summary)
    }
}

fn table(name: &str) -> TableDefinition<'_, &'static str, &'static [u8]> {
    TableDefinition::new(name)
}

/// Why the copy cannot be read or written, in words.
pub(super) type Failure = String;

fn message_of(error: impl Into<redb::Error>) -> Failure {
    match error.into() {
        redb::Error::Io(error) => error.to_string(),
        error => error.to_string(),
    }
}

impl Database {
    /// Opens the copy of what a server has told; of another server's nothing is taken. What is no copy is made anew.
    pub fn open(disk: &Disk, folder: &Path, server: &str) -> Result<Self, Failure> {
        let opened = catch_panic(|| Self::open_file(disk, &prepare(folder)?, server)).flatten();
        opened.or_else(|error| {
            tracing::warn!(path = %folder.display(), error, "cannot read the copy of the cluster's state; starting a new copy");
            remove(folder).map_err(|error| error.to_string())?;
            Self::open_file(disk, &prepare(folder)?, server)
        })
    }

    /// Opens what was behind, to write what it lacks.
    pub fn open_behind(disk: &Disk, folder: &Path, server: &str) -> Result<Self, Failure> {
        prepare(folder)?;
        catch_panic(|| Self::open_file(disk, &folder.join(BEHIND), server)).flatten()
    }

    fn open_file(disk: &Disk, file: &Path, server: &str) -> Result<Self, Failure> {
        let redb = (disk.0)(Builder::new().set_cache_size(PAGES), file).map_err(message_of)?;
        let mut database = Self { redb, summaries: Vec::new() };
        database.begin(server).map_err(message_of)?;
        Ok(database)
    }

    fn begin(&mut self, server: &str) -> Result<(), redb::Error> {
        let transaction = self.redb.begin_write()?;
        {
            let mut meta = transaction.open_table(META)?;
            let is = |key, value: &str| -> Result<bool, redb::Error> {
                Ok(meta.get(key)?.is_some_and(|it| it.value() == value.as_bytes()))
            };
            let is_ours = is(FORMAT_KEY, FORMAT)? && is(SERVER_KEY, server)?;
            if !is_ours {
                meta.retain(|_, _| false)?;
                meta.insert(FORMAT_KEY, FORMAT.as_bytes())?;
                meta.insert(SERVER_KEY, server.as_bytes())?;
            }
            for resource in &RESOURCES {
                let name = resource.to_string();
                let mut objects = transaction.open_table(table(&name))?;
                if !is_ours {
                    objects.retain(|_, _| false)?;
                }
                // Without one that can be read there is nothing that objects could agree with.
                let summary = meta.get(&*name)?.and_then(|bytes| Summary::decode(bytes.value()));
                self.summaries.push(summary.unwrap_or_default());
            }
        }
        transaction.commit()?;
        Ok(())
    }

    /// When the server was last heard, in seconds since 1970.
    pub fn last_contact(&self) -> Option<u64> {
        let read = || -> Result<Option<u64>, redb::Error> {
            let meta = self.redb.begin_read()?.open_table(META)?;
            let last_contact = meta.get(LAST_CONTACT_KEY)?;
            Ok(last_contact.and_then(|bytes| std::str::from_utf8(bytes.value()).ok()?.parse().ok()))
        };
        catch_panic(read).ok()?.ok()?
    }

    /// What was kept of a resource: nothing, if it is not just what was written.
    pub fn load(&mut self, at: usize) -> Result<Loaded, Failure> {
        let resource = &RESOURCES[at];
        let damage = match catch_panic(|| self.read(at, resource)).flatten() {
            Ok(bodies) => return Ok(Loaded { bodies, complete: self.summaries[at].complete }),
            Err(damage) => damage,
        };
        tracing::warn!(damage, %resource, "the copy of the cluster's state is damaged; it is not used");
        catch_panic(|| self.forget(at, resource)).and_then(|done| done.map_err(message_of))?;
        Ok(Loaded::default())
    }

    /// All objects, or why they are not what was written.
    fn read(&self, at: usize, resource: &Resource) -> Result<Vec<Value>, Failure> {
        let mut found = Summary { complete: self.summaries[at].complete, ..Summary::default() };
        let mut bodies = Vec::new();
        let transaction = self.redb.begin_read().map_err(message_of)?;
        let objects = transaction.open_table(table(&resource.to_string())).map_err(message_of)?;
        for entry in objects.iter().map_err(message_of)? {
            let (key, value) = entry.map_err(message_of)?;
            found.add(key.value(), value.value());
            let body = serde_json::from_slice(value.value());
            bodies.push(body.map_err(|error| format!("{}: {error}", key.value()))?);
        }
        if found != self.summaries[at] {
            let (here, written) = (found.count, self.summaries[at].count);
            return Err(format!("it has {here} objects that are not just the {written} that were written"));
        }
        Ok(bodies)
    }

    fn forget(&mut self, at: usize, resource: &Resource) -> Result<(), redb::Error> {
        let name = resource.to_string();
        let transaction = self.redb.begin_write()?;
        transaction.open_table(table(&name))?.retain(|_, _| false)?;
        transaction.open_table(META)?.remove(&*name)?;
        transaction.commit()?;
        self.summaries[at] = Summary::default();
        Ok(())
    }

    /// Writes all of the changes, durably, or none.
    pub fn apply(&mut self, changes: &[Change]) -> Result<(), Failure> {
        let summaries = catch_panic(|| self.write(changes)).and_then(|done| done.map_err(message_of))?;
        self.summaries = summaries;
        Ok(())
    }

    fn write(&self, changes: &[Change]) -> Result<Vec<Summary>, redb::Error> {
        let mut summaries = self.summaries.clone();
        let transaction = self.redb.begin_write()?;
        for group in changes.chunk_by(|one, next| one.resource() == next.resource()) {
            let Some(at) = group[0].resource() else {
                let mut meta = transaction.open_table(META)?;
                for change in group {
                    if let Change::LastContact(at) = change {
                        meta.insert(LAST_CONTACT_KEY, at.to_string().as_bytes())?;
                    }
                }
                continue;
            };
            let name = RESOURCES[at].to_string();
            let mut objects = transaction.open_table(table(&name))?;
            let summary = &mut summaries[at];
            for change in group {
                match change {
                    Change::Put { key, body, .. } => {
                        if let Some(before) = objects.insert(&**key, &**body)? {
                            summary.take(key, before.value());
                        }
                        summary.add(key, body);
                    }
                    Change::Remove { key, .. } => {
                        if let Some(before) = objects.remove(&**key)? {
                            summary.take(key, before.value());
                        }
                    }
                    Change::Complete { .. } => summary.complete = true,
                    Change::LastContact(_) => {}
                }
            }
            transaction.open_table(META)?.insert(&*name, &*summary.encode())?;
        }
        transaction.commit()?;
        Ok(summaries)
    }
}

/// Whoever starts takes the copy for what was told last: while it lacks changes it has another name.
pub(super) fn put_behind(folder: &Path) -> io::Result<()> {
    match fs::rename(folder.join(FILE), folder.join(BEHIND)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// It lacks nothing any more.
pub(super) fn bring_back(folder: &Path) -> io::Result<()> {
    fs::rename(folder.join(BEHIND), folder.join(FILE))?;
    fs::File::open(folder)?.sync_all()
}

/// The folder, and the file's place in it. What lies there besides is of another version: it has gone on since, or was behind.
fn prepare(folder: &Path) -> Result<PathBuf, Failure> {
    let made = || -> io::Result<()> {
        if let Some(parent) = folder.parent() {
            fs::create_dir_all(parent)?;
        }
        match DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        Ok(())
    };
    made().map_err(|error| error.to_string())?;
    Ok(folder.join(FILE))
}

/// Whether something lies in the folder that is not this version's copy.
pub(super) fn holds_others(folder: &Path) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_name() != FILE)
}

/// Removes whatever is at a path; nothing is fine.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
