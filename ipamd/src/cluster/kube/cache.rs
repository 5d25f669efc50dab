//! What was known of the cluster last, on disk: a daemon that starts while the API server is away goes on with it.
//!
//! It is a copy. What cannot be read of it is thrown away, and what cannot be written costs no more than that.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::Value;
use sled::Tree;

use super::resources::{RESOURCES, Resource};
use crate::store::caught;

/// Raised when what is kept of objects changes, so that another version's copy is not taken for ours.
const FORMAT: &str = "2";
/// sled's page cache, in bytes: it is read once.
const PAGES: u64 = 1 << 20;
/// See the store.
const SEGMENT: usize = 64 << 10;
const FLUSH_EVERY: Duration = Duration::from_secs(2);

const META: &str = "meta";
const FORMAT_KEY: &str = "format";
const SERVER_KEY: &str = "server";
const HEARD_KEY: &str = "heard";

/// The copy. Without one, everything is as if it were empty.
#[derive(Debug)]
pub(super) struct Cache {
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    db: sled::Db,
    meta: Tree,
    /// In the order of the resources.
    trees: Vec<Tree>,
    path: PathBuf,
}

impl Cache {
    /// Opens the copy of what a server has told; of another server's nothing is taken.
    pub fn open(path: &Path, server: &str) -> Self {
        let opened = match caught(|| open(path, server)) {
            Ok(Ok(open)) => Ok(open),
            Ok(Err(error)) => Err(error.to_string()),
            Err(panic) => Err(panic),
        };
        let open = opened.or_else(|error| {
            tracing::warn!(path = %path.display(), error, "the copy of the cluster's last state cannot be read; it is made anew");
            remove(path).and_then(|()| open(path, server))
        });
        let open = open.inspect_err(|error| {
            tracing::error!(path = %path.display(), %error, "the cluster's state cannot be kept; a start without the API server will have to wait for it");
        });
        Self { open: open.ok() }
    }

    /// Whether every object that a resource had is here.
    pub fn is_complete(&self, resource: &Resource) -> bool {
        self.open.as_ref().is_some_and(|it| {
            caught(|| it.meta.contains_key(resource.to_string()).unwrap_or(false)).unwrap_or(false)
        })
    }

    /// When the server was last heard.
    pub fn heard(&self) -> Option<SystemTime> {
        let open = self.open.as_ref()?;
        let bytes = caught(|| open.meta.get(HEARD_KEY).ok().flatten()).ok()??;
        let seconds = std::str::from_utf8(&bytes).ok()?.parse().ok()?;
        UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
    }

    /// The objects of a resource.
    pub fn load(&self, resource: &Resource) -> Vec<Value> {
        let Some(tree) = self.tree(resource) else { return Vec::new() };
        let read = caught(|| {
            let values = tree.iter().values().filter_map(Result::ok);
            values.filter_map(|bytes| serde_json::from_slice(&bytes).ok()).collect()
        });
        read.unwrap_or_else(|error| {
            tracing::warn!(error, %resource, "the copy of the cluster's last state is damaged");
            Vec::new()
        })
    }

    /// Keeps an object.
    pub fn put(&mut self, resource: &Resource, key: &str, body: &Value) {
        // A Value is always JSON.
        let Ok(bytes) = serde_json::to_vec(body) else { return };
        self.write(|open| open.tree(resource).map(|tree| tree.insert(key, bytes)));
    }

    /// Forgets an object.
    pub fn remove(&mut self, resource: &Resource, key: &str) {
        self.write(|open| open.tree(resource).map(|tree| tree.remove(key)));
    }

    /// Notes that a resource is here as a whole.
    pub fn set_complete(&mut self, resource: &Resource) {
        self.write(|open| Some(open.meta.insert(resource.to_string(), &[])));
    }

    /// Notes when the server was last heard.
    pub fn set_heard(&mut self, at: SystemTime) {
        let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs());
        self.write(|open| Some(open.meta.insert(HEARD_KEY, seconds.to_string().as_bytes())));
    }

    fn tree(&self, resource: &Resource) -> Option<&Tree> {
        self.open.as_ref()?.tree(resource)
    }

    /// Writes. A copy that cannot be written is given up: half of it must not be taken for the whole.
    fn write<T>(&mut self, write: impl FnOnce(&Open) -> Option<sled::Result<T>>) {
        let Some(open) = &self.open else { return };
        let error = match caught(|| write(open)) {
            Ok(None | Some(Ok(_))) => return,
            Ok(Some(Err(error))) => error.to_string(),
            Err(panic) => panic,
        };
        tracing::error!(path = %open.path.display(), error, "the cluster's state cannot be kept; a start without the API server will have to wait for it");
        let path = open.path.clone();
        let given_up = self.open.take();
        // What sled does when it is dropped may fail for the same reason.
        let _ = caught(move || drop(given_up));
        if let Err(error) = fs::remove_dir_all(&path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove it");
        }
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        if let Some(open) = self.open.take() {
            let _ = caught(move || open.db.flush());
        }
    }
}

impl Open {
    fn tree(&self, resource: &Resource) -> Option<&Tree> {
        let at = RESOURCES.iter().position(|it| it == resource)?;
        self.trees.get(at)
    }
}

/// Removes whatever is at a path.
fn remove(path: &Path) -> io::Result<()> {
    if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

fn open(path: &Path, server: &str) -> io::Result<Open> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let every = u64::try_from(FLUSH_EVERY.as_millis()).ok();
    let db = sled::Config::new()
        .path(path)
        .cache_capacity(PAGES)
        .segment_size(SEGMENT)
        .flush_every_ms(every)
        .open()
        .map_err(io::Error::other)?;
    let meta = db.open_tree(META).map_err(io::Error::other)?;
    let trees: Result<Vec<_>, _> = RESOURCES.iter().map(|it| db.open_tree(it.to_string())).collect();
    let open = Open { db, meta, trees: trees.map_err(io::Error::other)?, path: path.into() };
    let is = |key, value: &str| -> io::Result<bool> {
        Ok(open.meta.get(key).map_err(io::Error::other)?.is_some_and(|it| it == value.as_bytes()))
    };
    if !(is(FORMAT_KEY, FORMAT)? && is(SERVER_KEY, server)?) {
        for tree in open.trees.iter().chain([&open.meta]) {
            tree.clear().map_err(io::Error::other)?;
        }
        open.meta.insert(FORMAT_KEY, FORMAT).map_err(io::Error::other)?;
        open.meta.insert(SERVER_KEY, server).map_err(io::Error::other)?;
    }
    Ok(open)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::objects::Kind;

    #[test]
    fn what_was_kept_is_there_again_for_the_same_server_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster");
        let pods = Resource::of(Kind::Pod);
        let at = UNIX_EPOCH + Duration::from_secs(7);
        {
            let mut cache = Cache::open(&path, "https://a");
            assert!(!cache.is_complete(pods) && cache.heard().is_none());
            cache.put(pods, "ns/a", &json!({"x": 1}));
            cache.put(pods, "ns/b", &json!({"x": 2}));
            cache.remove(pods, "ns/a");
            cache.set_complete(pods);
            cache.set_heard(at);
        }
        {
            let cache = Cache::open(&path, "https://a");
            assert!(cache.is_complete(pods) && !cache.is_complete(Resource::of(Kind::Node)));
            assert_eq!(cache.load(pods), [json!({"x": 2})]);
            assert_eq!(cache.heard(), Some(at));
        }
        let cache = Cache::open(&path, "https://b");
        assert!(!cache.is_complete(pods) && cache.load(pods).is_empty() && cache.heard().is_none());
    }

    #[test]
    fn what_is_no_copy_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster");
        let pods = Resource::of(Kind::Pod);
        {
            let mut cache = Cache::open(&path, "https://a");
            cache.put(pods, "ns/a", &json!({"x": 1}));
            cache.set_complete(pods);
        }
        fs::remove_dir_all(&path).unwrap();
        fs::write(&path, "no database").unwrap();
        let mut cache = Cache::open(&path, "https://a");
        assert!(!cache.is_complete(pods));
        cache.set_complete(pods);
        assert!(cache.is_complete(pods));
    }
}
