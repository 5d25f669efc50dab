//! Opens the store, or says why that would lose something.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, Permissions},
    io::{self, ErrorKind},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use super::{
    aside,
    error::StoreError,
    format::{self, FORMAT, FORMAT_BEFORE, META, Meta, Record, SUMMARY, Summary, seal},
    ledger::Ledger,
    room::{find_room, is_of_the_disk},
    watermark::{self, Mark, Unreadable, Watermark},
    writer::Writer,
};
use ipamd_addresses::attachment::Attachment;
use ipamd_kernel::kernel_files;
use ipamd_runtime::catch_panic::catch_panic;

/// The database, in the store's directory.
const DATABASE: &str = "sled";
/// Where a new database is made; it gets its name once it is whole.
const UNFINISHED: &str = "sled.new";

/// sled's page cache, in bytes: the records of some hundred attachments.
const CACHE: u64 = 256 << 10;
/// sled's unit of the log and size of its write buffers, in bytes. sled's own 512 KiB would be most of the daemon's
/// memory. It is part of the file's format.
const SEGMENT: usize = 64 << 10;

/// What an opened store held.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loaded {
    /// All attachments, in the order of their keys.
    pub attachments: Vec<Attachment>,
    /// The address that each pool handed out last, by the pool's name.
    pub cursors: BTreeMap<String, IpAddr>,
}

/// What stands in a whole database.
#[derive(Debug, Default)]
struct Contents {
    loaded: Loaded,
    ledger: Ledger,
}

/// What stands behind an open store.
#[derive(Debug)]
pub(super) struct Opening {
    /// Writes it; `None`: nothing can be written there.
    pub writer: Result<Writer, StoreError>,
    pub loaded: Loaded,
    /// Whether records of this boot may be missing.
    pub has_lost: bool,
    /// Where a damaged store is now.
    pub set_aside: Option<PathBuf>,
}

pub(super) fn open(dir: &Path) -> Result<(Writer, Loaded), StoreError> {
    make_private(dir).map_err(|source| StoreError::io("make the directory", dir, source))?;
    open_locked(dir, lock(dir)?).map_err(|(error, _)| error)
}

/// What a node does that has lost records of running containers.
const GOES_ON: &str =
    "the node goes on with the endpoints that the kernel and the files beside the socket tell of";

/// Opens the store in whatever state it is: a damaged one is moved aside, and where nothing can be written, a copy in
/// `scratch` tells what it holds. `is_first` says that no daemon has left anything on this machine since it booted.
pub(super) fn open_or_begin(dir: &Path, scratch: &Path, is_first: bool) -> Result<Opening, StoreError> {
    let boot_id = kernel_files::boot_id()
        .map_err(|source| StoreError::io("read the kernel's boot id for", dir, source))?;
    match make_private(dir) {
        Err(why) if is_of_the_disk(&why) => return read_copy(dir, scratch, &boot_id, &why),
        made => made.map_err(|source| StoreError::io("make the directory", dir, source))?,
    }
    let lock = lock(dir)?;
    // Before sled tries, which leaves half a database on a full disk.
    match find_room(dir) {
        Err(why) if is_of_the_disk(&why) => return read_copy(dir, scratch, &boot_id, &why),
        tried => tried.map_err(|source| StoreError::io("write to", dir, source))?,
    }
    if !is_first && !dir.join(DATABASE).exists() && !dir.join(watermark::NAME).exists() {
        tracing::error!("the store in {} is missing; {GOES_ON}", dir.display());
        aside::note_loss(dir, &boot_id)?;
    }
    let (error, lock) = match open_locked(dir, lock) {
        Ok((writer, loaded)) => {
            let has_lost = aside::is_loss_noted(dir, &boot_id);
            return Ok(Opening { writer: Ok(writer), loaded, has_lost, set_aside: None });
        }
        Err((error @ StoreError::Damaged { .. }, lock)) => (error, lock),
        Err((error, _)) => return Err(error),
    };
    let mark = watermark::read(dir).ok().flatten();
    let has_lost = mark.map_or(!is_first, |mark| mark.boot_id == boot_id);
    if has_lost {
        aside::note_loss(dir, &boot_id)?;
    }
    let aside = aside::set_aside(dir)?;
    let goes_on =
        if has_lost { GOES_ON } else { "it is of an earlier boot of the machine, whose containers are gone" };
    tracing::error!("{error}; it is moved aside as {}, and {goes_on}", aside.display());
    let (writer, loaded) = open(dir)?;
    // Not before the new one is taken: whoever waits for it finds that.
    drop(lock);
    Ok(Opening { writer: Ok(writer), loaded, has_lost, set_aside: Some(aside) })
}

/// Reads what a store holds in which nothing can be written. sled writes as it opens, so this is done on a copy.
pub(super) fn read_copy(
    dir: &Path,
    scratch: &Path,
    boot_id: &str,
    reason: &io::Error,
) -> Result<Opening, StoreError> {
    let why = StoreError::Write { path: dir.to_owned(), detail: reason.to_string() };
    let copied = remove_tree(scratch).and_then(|()| match copy_tree(dir, scratch) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        copied => copied,
    });
    let loaded = match copied {
        Ok(()) => match open(scratch) {
            Ok((writer, loaded)) => {
                discard(writer.db);
                Ok(loaded)
            }
            Err(error @ StoreError::Newer { .. }) => return Err(error),
            Err(error) => Err(error.to_string()),
        },
        Err(error) => Err(format!("cannot copy it to {}: {error}", scratch.display())),
    };
    aside::await_sled(scratch);
    if let Err(error) = remove_tree(scratch) {
        tracing::warn!(path = %scratch.display(), %error, "cannot remove the copy of the store");
    }
    match &loaded {
        Ok(_) => tracing::error!("{why}; containers go on as they are, and none is added"),
        Err(unread) => {
            tracing::error!("{why}; it cannot be read either ({unread}), so {GOES_ON}, and none is added");
        }
    }
    let has_lost = aside::is_loss_noted(dir, boot_id) || loaded.is_err();
    Ok(Opening { writer: Err(why), loaded: loaded.unwrap_or_default(), has_lost, set_aside: None })
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    make_private(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

/// Opens the store whose lock that is, or gives the lock back.
fn open_locked(dir: &Path, lock: Flock<File>) -> Result<(Writer, Loaded), (StoreError, Flock<File>)> {
    match open_database(dir) {
        Ok((db, contents, watermark)) => {
            let writer = Writer { db, ledger: contents.ledger, watermark, dir: dir.to_owned(), lock };
            Ok((writer, contents.loaded))
        }
        Err(error) => Err((error, lock)),
    }
}

fn open_database(dir: &Path) -> Result<(sled::Db, Contents, Watermark), StoreError> {
    let failed = |action| move |source| StoreError::io(action, dir, source);
    let boot_id = kernel_files::boot_id().map_err(failed("read the kernel's boot id for"))?;
    let mark = watermark::read(dir).map_err(|unreadable| match unreadable {
        Unreadable::Io(source) => StoreError::io("read the watermark in", dir, source),
        Unreadable::Damaged(detail) => damaged(dir, detail),
        Unreadable::Newer(found) => newer(dir, found),
    })?;

    remove_unfinished(dir).map_err(failed("remove the unfinished database in"))?;
    let exists = dir.join(DATABASE).try_exists().map_err(failed("look into"))?;
    if !exists && mark.is_some() {
        return Err(damaged(dir, "there is a watermark, but no database".into()));
    }
    if exists {
        check_files(dir)?;
    } else {
        create(dir)?;
    }

    let db = sled_open(dir, DATABASE)?;
    let contents = match catch_panic(|| read(dir, &db)) {
        Ok(Ok(contents)) => contents,
        Ok(Err(error)) => {
            discard(db);
            return Err(error);
        }
        Err(panic) => {
            discard(db);
            return Err(damaged(dir, format!("sled cannot read it: {panic}")));
        }
    };
    let sequence = contents.ledger.summary.sequence;
    if let Err(error) = compare(dir, sequence, mark.as_ref(), &boot_id) {
        discard(db);
        return Err(error);
    }
    match Watermark::create(dir, Mark { boot_id, sequence }) {
        Ok(watermark) => Ok((db, contents, watermark)),
        Err(source) => {
            discard(db);
            Err(StoreError::io("write the watermark in", dir, source))
        }
    }
}

fn damaged(dir: &Path, detail: String) -> StoreError {
    StoreError::Damaged { path: dir.to_owned(), detail }
}

fn newer(dir: &Path, found: u32) -> StoreError {
    StoreError::Newer { path: dir.to_owned(), found, known: FORMAT }
}

fn make_private(dir: &Path) -> io::Result<()> {
    if let Some(parent) = dir.parent() {
        fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            fs::set_permissions(dir, Permissions::from_mode(0o700))
        }
        other => other,
    }
}

/// Locks the directory itself: it is there before anything else, and nobody deletes it by mistake.
fn lock(dir: &Path) -> Result<Flock<File>, StoreError> {
    let failed = |action| move |source| StoreError::io(action, dir, source);
    let file = File::open(dir).map_err(failed("open the directory"))?;
    let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => StoreError::Locked { path: dir.to_owned() },
        other => StoreError::io("lock the directory", dir, other.into()),
    })?;
    // Another daemon may have moved it aside since it was opened.
    let is = |it: &fs::Metadata| (it.dev(), it.ino());
    let locked = lock.metadata().map_err(failed("look at the directory"))?;
    match fs::metadata(dir) {
        Ok(there) if is(&there) == is(&locked) => Ok(lock),
        _ => Err(StoreError::Locked { path: dir.to_owned() }),
    }
}

/// An earlier daemon was stopped while it made its first database.
fn remove_unfinished(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir.join(UNFINISHED)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Makes an empty database, under its name only when it is whole: one without its first records is damaged.
fn create(dir: &Path) -> Result<(), StoreError> {
    let db = sled_open(dir, UNFINISHED)?;
    let unencodable = |error: serde_json::Error| StoreError::io("make the database in", dir, error.into());
    let meta = serde_json::to_vec(&Meta { format: FORMAT_BEFORE }).map_err(unencodable)?;
    let summary = serde_json::to_vec(&Summary::default()).map_err(unencodable)?;
    let mut first = sled::Batch::default();
    first.insert(META, seal(META, &meta));
    first.insert(SUMMARY, seal(SUMMARY, &summary));
    let written = catch_panic(move || db.apply_batch(first).and_then(|()| db.flush()))
        .map_err(io::Error::other)
        .and_then(|written| written.map_err(io::Error::other));
    written
        .and_then(|_| fs::rename(dir.join(UNFINISHED), dir.join(DATABASE)))
        .and_then(|()| File::open(dir)?.sync_all())
        .map_err(|source| StoreError::io("make the database in", dir, source))
}

/// sled would make anew what is missing of its files.
fn check_files(dir: &Path) -> Result<(), StoreError> {
    for name in ["conf", "db"] {
        let path = dir.join(DATABASE).join(name);
        match fs::metadata(&path) {
            Ok(file) if file.len() > 0 => {}
            Ok(_) => return Err(damaged(dir, format!("the file {DATABASE}/{name} is empty"))),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(damaged(dir, format!("the file {DATABASE}/{name} is missing")));
            }
            Err(source) => return Err(StoreError::io("look at", &path, source)),
        }
    }
    Ok(())
}

fn sled_open(dir: &Path, name: &str) -> Result<sled::Db, StoreError> {
    let path = dir.join(name);
    let mut patience = 100;
    loop {
        let config =
            sled::Config::new().path(&path).cache_capacity(CACHE).segment_size(SEGMENT).flush_every_ms(None);
        match catch_panic(|| config.open()) {
            Ok(Ok(db)) => return Ok(db),
            // The store's own lock is ours. sled lets go of its lock a moment after a database of this process
            // has been dropped.
            Ok(Err(sled::Error::Io(error))) if error.to_string().contains("could not acquire lock") => {
                if patience == 0 {
                    return Err(StoreError::Locked { path: dir.to_owned() });
                }
                patience -= 1;
                thread::sleep(Duration::from_millis(10));
            }
            Ok(Err(sled::Error::Io(error))) if is_of_the_system(&error) => {
                return Err(StoreError::io("open the database", &path, error));
            }
            Ok(Err(error)) => return Err(damaged(dir, format!("sled cannot open it: {}", words(&error)))),
            Err(panic) => return Err(damaged(dir, format!("sled cannot open it: {panic}"))),
        }
    }
}

/// sled's error without what is of use to its authors only.
fn words(error: &sled::Error) -> String {
    match error {
        sled::Error::Corruption { .. } => {
            "its log, its conf or its snapshot does not match its checksum".into()
        }
        sled::Error::Unsupported(text) => format!("its settings are not those of Cambric ({text})"),
        other => other.to_string(),
    }
}

/// Whether an error says something of the file system rather than of what is in the file.
fn is_of_the_system(error: &io::Error) -> bool {
    // A damaged pointer into the file ends in EINVAL.
    error.raw_os_error().is_some_and(|code| code != Errno::EINVAL as i32)
        || matches!(
            error.kind(),
            ErrorKind::PermissionDenied
                | ErrorKind::StorageFull
                | ErrorKind::ReadOnlyFilesystem
                | ErrorKind::QuotaExceeded
        )
}

/// Drops a database that is of no use, whatever sled has to say to that.
fn discard(db: sled::Db) {
    let _ = catch_panic(|| drop(db));
}

/// Reads everything and checks that it is all there.
fn read(dir: &Path, db: &sled::Db) -> Result<Contents, StoreError> {
    let damaged = |detail| damaged(dir, detail);
    let mut contents = Contents::default();
    let mut summary = None;
    // What a newer release wrote cannot be judged by this one's measure: look for the version first.
    let meta = db.get(META).map_err(|error| damaged(words(&error)))?;
    let meta = meta.ok_or_else(|| damaged("the database lacks its format's version".into()))?;
    match format::decode(META.as_bytes(), &meta) {
        Ok((_, Record::Meta(Meta { format: FORMAT_BEFORE..=FORMAT }))) => {}
        Ok((_, Record::Meta(Meta { format }))) if format > FORMAT => return Err(newer(dir, format)),
        Ok(_) => return Err(damaged("the database is of no known format".into())),
        Err(detail) => return Err(damaged(detail)),
    }
    for item in db.iter() {
        let (key, value) = item.map_err(|error| damaged(words(&error)))?;
        let (key, record) = format::decode(&key, &value).map_err(damaged)?;
        match record {
            Record::Meta(_) => continue,
            Record::Summary(found) => {
                summary = Some(found);
                continue;
            }
            Record::Attachment(attachment) => contents.loaded.attachments.push(*attachment),
            Record::Cursor(pool, last) => {
                contents.loaded.cursors.insert(pool, last);
            }
        }
        contents.ledger.put(&key, &value);
    }
    let summary = summary.ok_or_else(|| damaged("the database lacks its summary".into()))?;
    let found = contents.ledger.summary;
    if summary.attachments != found.attachments {
        return Err(damaged(format!(
            "it holds {} attachments instead of {}",
            found.attachments, summary.attachments
        )));
    }
    if summary.digest != found.digest {
        return Err(damaged("some of its records are not the latest".into()));
    }
    contents.ledger.summary = summary;
    check_addresses(&contents.loaded).map_err(damaged)?;
    Ok(contents)
}

fn check_addresses(loaded: &Loaded) -> Result<(), String> {
    let mut holders: BTreeMap<IpAddr, _> = BTreeMap::new();
    for attachment in &loaded.attachments {
        for address in attachment.ips() {
            if let Some(other) = holders.insert(address, &attachment.key) {
                return Err(format!("the address {address} belongs to both {other} and {}", attachment.key));
            }
        }
    }
    Ok(())
}

/// Compares how far the database goes with how far callers were told that it does.
fn compare(dir: &Path, sequence: u64, mark: Option<&Mark>, boot_id: &str) -> Result<(), StoreError> {
    match mark {
        // A daemon that was stopped right after it made its first database.
        None if sequence == 0 => Ok(()),
        None => Err(damaged(dir, "its watermark is missing".into())),
        Some(mark) if sequence >= mark.sequence => Ok(()),
        Some(mark) if mark.boot_id == boot_id => Err(damaged(
            dir,
            format!("it ends at batch {sequence}, but was durable up to batch {}", mark.sequence),
        )),
        Some(mark) => {
            let (ends_at, durable) = (sequence, mark.sequence);
            tracing::warn!(
                ends_at,
                durable,
                "the store lost its last batches when the machine went down; its containers did too"
            );
            Ok(())
        }
    }
}
