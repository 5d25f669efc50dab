//! What was known of the cluster last, on disk: a daemon that starts while the API server is away goes on with it.
//!
//! It is a copy. What cannot be written costs no more than that. What of a resource cannot be read, or is not all there, is no
//! copy of it: sled passes over what it cannot read, and half of the policies must not be taken for all of them. So beside the
//! objects of each resource their number and a digest of them are kept, written with every change as one.

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
use crate::store::{caught, weight};

/// Raised when what is kept of objects changes, so that another version's copy is not taken for ours.
const FORMAT: &str = "3";
/// sled's page cache, in bytes: it is read once.
const PAGES: u64 = 1 << 20;
/// See the store.
const SEGMENT: usize = 64 << 10;
const FLUSH_EVERY: Duration = Duration::from_secs(2);

/// The key of a resource's [`Summary`], beside its objects; no object has it.
const SUMMARY_KEY: &str = "\0";

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
    trees: Vec<Kept>,
    path: PathBuf,
}

/// The objects of one resource.
#[derive(Debug)]
struct Kept {
    tree: Tree,
    summary: Summary,
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

/// What was kept of a resource.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Loaded {
    /// The objects.
    pub bodies: Vec<Value>,
    /// Whether they are all that there were.
    pub complete: bool,
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

    /// When the server was last heard.
    pub fn heard(&self) -> Option<SystemTime> {
        let open = self.open.as_ref()?;
        let bytes = caught(|| open.meta.get(HEARD_KEY).ok().flatten()).ok()??;
        let seconds = std::str::from_utf8(&bytes).ok()?.parse().ok()?;
        UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
    }

    /// What was kept of a resource: nothing, if it is not just what was written.
    pub fn load(&mut self, resource: &Resource) -> Loaded {
        let Some(kept) = self.open.as_ref().and_then(|open| open.kept(resource)) else {
            return Loaded::default();
        };
        let damage = match caught(|| kept.load()).flatten() {
            Ok(bodies) => return Loaded { bodies, complete: kept.summary.complete },
            Err(damage) => damage,
        };
        tracing::warn!(damage, %resource, "the copy of the cluster's last state is damaged, and not used");
        self.write(|open| {
            let kept = open.kept_mut(resource)?;
            kept.summary = Summary::default();
            Some(kept.tree.clear())
        });
        Loaded::default()
    }

    /// Keeps an object.
    pub fn put(&mut self, resource: &Resource, key: &str, body: &Value) {
        // A Value is always JSON.
        let Ok(bytes) = serde_json::to_vec(body) else { return };
        self.write(|open| open.kept_mut(resource).map(|kept| kept.set(key, Some(bytes))));
    }

    /// Forgets an object.
    pub fn remove(&mut self, resource: &Resource, key: &str) {
        self.write(|open| open.kept_mut(resource).map(|kept| kept.set(key, None)));
    }

    /// Notes that a resource is here as a whole.
    pub fn set_complete(&mut self, resource: &Resource) {
        self.write(|open| open.kept_mut(resource).map(Kept::set_complete));
    }

    /// Notes when the server was last heard.
    pub fn set_heard(&mut self, at: SystemTime) {
        let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs());
        self.write(|open| Some(open.meta.insert(HEARD_KEY, seconds.to_string().as_bytes())));
    }

    /// Writes. A copy that cannot be written is given up: half of it must not be taken for the whole.
    fn write<T>(&mut self, write: impl FnOnce(&mut Open) -> Option<sled::Result<T>>) {
        let Some(open) = &mut self.open else { return };
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
    fn kept(&self, resource: &Resource) -> Option<&Kept> {
        let at = RESOURCES.iter().position(|it| it == resource)?;
        self.trees.get(at)
    }

    fn kept_mut(&mut self, resource: &Resource) -> Option<&mut Kept> {
        let at = RESOURCES.iter().position(|it| it == resource)?;
        self.trees.get_mut(at)
    }
}

impl Kept {
    fn open(tree: Tree) -> sled::Result<Self> {
        // Without one that can be read there is nothing that objects could agree with.
        let summary = tree.get(SUMMARY_KEY)?.and_then(|bytes| Summary::decode(&bytes)).unwrap_or_default();
        Ok(Self { tree, summary })
    }

    /// All objects, or why they are not what was written.
    fn load(&self) -> Result<Vec<Value>, String> {
        let mut found = Summary { complete: self.summary.complete, ..Summary::default() };
        let mut bodies = Vec::new();
        for entry in &self.tree {
            let (key, value) = entry.map_err(|error| error.to_string())?;
            if *key == *SUMMARY_KEY.as_bytes() {
                continue;
            }
            let key = std::str::from_utf8(&key).map_err(|error| error.to_string())?;
            found.add(key, &value);
            bodies.push(serde_json::from_slice(&value).map_err(|error| format!("{key}: {error}"))?);
        }
        if found != self.summary {
            let (here, written) = (found.count, self.summary.count);
            return Err(format!("it has {here} objects that are not just the {written} that were written"));
        }
        Ok(bodies)
    }

    /// Keeps the value of a key, or none.
    fn set(&mut self, key: &str, value: Option<Vec<u8>>) -> sled::Result<()> {
        let before = self.tree.get(key)?;
        if before.as_deref() == value.as_deref() {
            return Ok(());
        }
        let mut summary = self.summary;
        let mut batch = sled::Batch::default();
        if let Some(before) = before {
            summary.take(key, &before);
        }
        match value {
            Some(value) => {
                summary.add(key, &value);
                batch.insert(key, value);
            }
            None => batch.remove(key),
        }
        self.write(batch, summary)
    }

    fn set_complete(&mut self) -> sled::Result<()> {
        if self.summary.complete {
            return Ok(());
        }
        self.write(sled::Batch::default(), Summary { complete: true, ..self.summary })
    }

    fn write(&mut self, mut batch: sled::Batch, summary: Summary) -> sled::Result<()> {
        batch.insert(SUMMARY_KEY, summary.encode());
        self.tree.apply_batch(batch)?;
        self.summary = summary;
        Ok(())
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
    let trees: Result<Vec<_>, _> =
        RESOURCES.iter().map(|it| db.open_tree(it.to_string()).and_then(Kept::open)).collect();
    let mut open = Open { db, meta, trees: trees.map_err(io::Error::other)?, path: path.into() };
    let is = |key, value: &str| -> io::Result<bool> {
        Ok(open.meta.get(key).map_err(io::Error::other)?.is_some_and(|it| it == value.as_bytes()))
    };
    if !(is(FORMAT_KEY, FORMAT)? && is(SERVER_KEY, server)?) {
        for kept in &mut open.trees {
            kept.summary = Summary::default();
            kept.tree.clear().map_err(io::Error::other)?;
        }
        open.meta.clear().map_err(io::Error::other)?;
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
            assert!(cache.load(pods) == Loaded::default() && cache.heard().is_none());
            cache.put(pods, "ns/a", &json!({"x": 1}));
            cache.put(pods, "ns/b", &json!({"x": 2}));
            cache.remove(pods, "ns/a");
            cache.set_complete(pods);
            cache.set_heard(at);
        }
        {
            let mut cache = Cache::open(&path, "https://a");
            assert!(!cache.load(Resource::of(Kind::Node)).complete);
            assert_eq!(cache.load(pods), Loaded { bodies: vec![json!({"x": 2})], complete: true });
            assert_eq!(cache.heard(), Some(at));
        }
        let mut cache = Cache::open(&path, "https://b");
        assert!(cache.load(pods) == Loaded::default() && cache.heard().is_none());
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
        assert!(!cache.load(pods).complete);
        cache.set_complete(pods);
        assert!(cache.load(pods).complete);
    }

    /// What may become of a tree, by sled or by somebody else.
    type Damage = fn(&Tree) -> sled::Result<()>;

    #[test]
    fn what_is_not_just_what_was_written_is_no_copy() {
        let damages: [(&str, Damage); 7] = [
            ("an object is lost", |tree| tree.remove("ns/a").map(drop)),
            ("all objects are lost", |tree| {
                for key in ["ns/a", "ns/b"] {
                    tree.remove(key)?;
                }
                Ok(())
            }),
            ("an object is an older one", |tree| tree.insert("ns/a", r#"{"x":0}"#).map(drop)),
            ("an object is cut", |tree| tree.insert("ns/a", r#"{"x":"#).map(drop)),
            ("two objects are swapped", |tree| {
                let (a, b) = (tree.get("ns/a")?, tree.get("ns/b")?);
                tree.insert("ns/a", b.unwrap_or_default())?;
                tree.insert("ns/b", a.unwrap_or_default()).map(drop)
            }),
            ("the summary is lost", |tree| tree.remove(SUMMARY_KEY).map(drop)),
            ("the summary is cut", |tree| tree.insert(SUMMARY_KEY, "1 2").map(drop)),
        ];
        let policies = Resource::of(Kind::NetworkPolicy);
        for (what, damage) in damages {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("cluster");
            {
                let mut cache = Cache::open(&path, "https://a");
                for (key, x) in [("ns/a", 1), ("ns/b", 2)] {
                    cache.put(policies, key, &json!({ "x": x }));
                }
                cache.set_complete(policies);
                assert_eq!(cache.load(policies).bodies.len(), 2);
                let kept = cache.open.as_ref().unwrap().kept(policies).unwrap();
                damage(&kept.tree).unwrap();
            }
            let mut cache = Cache::open(&path, "https://a");
            assert_eq!(cache.load(policies), Loaded::default(), "{what}");
            // And it is one again once everything was told.
            cache.put(policies, "ns/a", &json!({"x": 3}));
            cache.set_complete(policies);
            drop(cache);
            let told = Loaded { bodies: vec![json!({"x": 3})], complete: true };
            assert_eq!(Cache::open(&path, "https://a").load(policies), told, "{what}");
        }
    }

    #[test]
    fn a_summary_follows_from_the_objects_not_from_the_way_there() {
        let dir = tempfile::tempdir().unwrap();
        let pods = Resource::of(Kind::Pod);
        let mut cache = Cache::open(&dir.path().join("cluster"), "https://a");
        for round in 0..3 {
            for name in ["a", "b", "c"] {
                cache.put(pods, name, &json!({ "round": round }));
                cache.remove(pods, "b");
                cache.remove(pods, "never");
            }
        }
        let loaded = cache.load(pods);
        assert_eq!((loaded.bodies.len(), loaded.complete), (2, false));
    }
}
