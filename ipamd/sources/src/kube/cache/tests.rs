use std::{fs, io, os::unix::fs::symlink};

use ipamd_waiting::eventually;
use redb::{Builder, Database as Redb, StorageBackend, TableDefinition, backends::FileBackend};
use serde_json::json;

use super::*;
use ipamd_model::objects::Kind;

fn kept(cache: &Cache, kind: Kind) -> Loaded {
    cache.load(Resource::of(kind))
}

/// The tables of a copy, for somebody else to write.
fn tamper(folder: &Path, resource: &Resource, damage: Damage) {
    let database = Redb::open(folder.join("copy.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let name = resource.to_string();
        let mut objects = transaction.open_table(TableDefinition::new(&name)).unwrap();
        let mut meta = transaction.open_table(TableDefinition::new("\0meta")).unwrap();
        damage(&mut objects, &mut meta, &name);
    }
    transaction.commit().unwrap();
}

type Table<'t> = redb::Table<'t, &'static str, &'static [u8]>;
/// What may become of a resource's objects, and of what is noted of all.
type Damage = fn(&mut Table<'_>, &mut Table<'_>, &str);

#[test]
fn what_was_kept_is_there_again_for_the_same_server_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cluster");
    let pods = Resource::of(Kind::Pod);
    let at = UNIX_EPOCH + Duration::from_secs(7);
    {
        let cache = Cache::open(&path, "https://a");
        assert!(cache.load(pods) == Loaded::default() && cache.last_contact().is_none());
        cache.put(pods, "ns/a", &json!({"x": 1}));
        cache.put(pods, "ns/b", &json!({"x": 2}));
        cache.remove(pods, "ns/a");
        cache.set_complete(pods);
        cache.set_last_contact(at);
    }
    {
        let cache = Cache::open(&path, "https://a");
        assert!(!kept(&cache, Kind::Node).complete);
        assert_eq!(cache.load(pods), Loaded { bodies: vec![json!({"x": 2})], complete: true });
        assert_eq!(cache.last_contact(), Some(at));
        assert_eq!(cache.state().problem(), None);
    }
    let cache = Cache::open(&path, "https://b");
    assert!(cache.load(pods) == Loaded::default() && cache.last_contact().is_none());
}

#[test]
fn a_policy_is_on_the_disk_although_the_daemon_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cluster");
    let policies = Resource::of(Kind::NetworkPolicy);
    let cache = Cache::open(&path, "https://a");
    cache.put(policies, "ns/a", &json!({"x": 1}));
    // Nothing waits for a policy to be written, so it is soon.
    let copied = dir.path().join("copied");
    let is_there = || {
        let _ = fs::remove_dir_all(&copied);
        fs::create_dir(&copied).unwrap();
        fs::copy(path.join("copy.redb"), copied.join("copy.redb")).unwrap();
        kept(&Cache::open(&copied, "https://a"), Kind::NetworkPolicy).bodies.len() == 1
    };
    assert!(eventually(Duration::from_secs(20), is_there));
}

/// What puts something at a path.
type Maker = fn(&Path);

#[test]
fn what_is_no_copy_is_made_anew() {
    let pods = Resource::of(Kind::Pod);
    let makers: [(&str, Maker); 4] = [
        ("a file in its place", |path| fs::write(path, "no database").unwrap()),
        ("no database in the file", |path| {
            fs::create_dir(path).unwrap();
            fs::write(path.join("copy.redb"), [7; 9000]).unwrap();
        }),
        ("another version's beside it", |path| fs::write(path.join("conf"), "sled").unwrap()),
        ("one that was behind", |path| fs::rename(path.join("copy.redb"), path.join("copy.behind")).unwrap()),
    ];
    for (what, make) in makers {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster");
        {
            let cache = Cache::open(&path, "https://a");
            cache.put(pods, "ns/a", &json!({"x": 1}));
            cache.set_complete(pods);
        }
        if what != "another version's beside it" && what != "one that was behind" {
            fs::remove_dir_all(&path).unwrap();
        }
        make(&path);
        let cache = Cache::open(&path, "https://a");
        assert!(!cache.load(pods).complete, "{what}");
        cache.set_complete(pods);
        assert!(cache.load(pods).complete, "{what}");
        assert_eq!(cache.state().problem(), None, "{what}");
    }
}

#[test]
fn what_is_not_just_what_was_written_is_no_copy() {
    let damages: [(&str, Damage); 7] = [
        ("an object is lost", |objects, _, _| drop(objects.remove("ns/a").unwrap())),
        ("all objects are lost", |objects, _, _| objects.retain(|_, _| false).unwrap()),
        ("an object is an older one", |objects, _, _| {
            drop(objects.insert("ns/a", &br#"{"x":0}"#[..]).unwrap());
        }),
        ("an object is cut", |objects, _, _| drop(objects.insert("ns/a", &br#"{"x":"#[..]).unwrap())),
        ("two objects are swapped", |objects, _, _| {
            drop(objects.insert("ns/a", &br#"{"x":2}"#[..]).unwrap());
            drop(objects.insert("ns/b", &br#"{"x":1}"#[..]).unwrap());
        }),
        ("the summary is lost", |_, meta, name| drop(meta.remove(name).unwrap())),
        ("the summary is cut", |_, meta, name| drop(meta.insert(name, &b"1 2"[..]).unwrap())),
    ];
    let policies = Resource::of(Kind::NetworkPolicy);
    for (what, damage) in damages {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cluster");
        {
            let cache = Cache::open(&path, "https://a");
            for (key, x) in [("ns/a", 1), ("ns/b", 2)] {
                cache.put(policies, key, &json!({ "x": x }));
            }
            cache.set_complete(policies);
            assert_eq!(cache.load(policies).bodies.len(), 2);
        }
        tamper(&path, policies, damage);
        let cache = Cache::open(&path, "https://a");
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
    let cache = Cache::open(&dir.path().join("cluster"), "https://a");
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

/// A folder that cannot be made, until it can: what a disk does that is full. (A mode would not keep root out.)
#[test]
fn what_cannot_be_written_waits_and_keeps_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state/cluster");
    symlink("nowhere/at/all", dir.path().join("state")).unwrap();
    let pods = Resource::of(Kind::Pod);
    let began = Instant::now();
    let cache = Cache::open(&path, "https://a");
    let state = cache.state();
    let problem = state.problem().expect("the copy cannot be opened");
    assert!(problem.starts_with("cannot write the copy of the cluster's state in "), "{problem}");
    for number in 0..1000 {
        cache.put(pods, &format!("ns/{number}"), &json!({ "number": number }));
    }
    cache.set_complete(pods);
    assert!(began.elapsed() < Duration::from_mins(1), "nothing waits for the disk: {:?}", began.elapsed());
    fs::remove_file(dir.path().join("state")).unwrap();
    let is_well = || state.problem().is_none();
    assert!(eventually(Duration::from_mins(1), is_well), "{:?}", state.problem());
    drop(cache);
    let loaded = Cache::open(&path, "https://a").load(pods);
    assert_eq!((loaded.bodies.len(), loaded.complete), (1000, true));
}

#[test]
fn what_has_no_room_to_wait_ends_the_copy() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state/cluster");
    symlink("nowhere/at/all", dir.path().join("state")).unwrap();
    let pods = Resource::of(Kind::Pod);
    let cache = Cache::open(&path, "https://a");
    let large = json!({ "filler": "x".repeat(1 << 20) });
    for number in 0..40 {
        cache.put(pods, &format!("ns/{number}"), &large);
    }
    cache.set_complete(pods);
    assert_eq!(cache.load(pods), Loaded::default());
    let problem = cache.state().problem().expect("nothing is kept");
    assert!(problem.contains("more has changed than can wait for the disk"), "{problem}");
    drop(cache);
    fs::remove_file(dir.path().join("state")).unwrap();
    assert_eq!(Cache::open(&path, "https://a").load(pods), Loaded::default());
}

/// A disk that hangs in a write while this is locked.
#[derive(Debug)]
struct Hanging(FileBackend, Arc<Mutex<()>>);

impl StorageBackend for Hanging {
    fn len(&self) -> Result<u64, io::Error> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        drop(self.1.lock());
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.0.write(offset, data)
    }

    fn close(&self) -> Result<(), io::Error> {
        self.0.close()
    }
}

impl Hanging {
    fn disk(hangs: &Arc<Mutex<()>>) -> Disk {
        let hangs = Arc::clone(hangs);
        Disk(Box::new(move |builder: &mut Builder, file: &Path| {
            let file = fs::File::options().read(true).write(true).create(true).truncate(false).open(file)?;
            builder.create_with_backend(Self(FileBackend::new(file)?, Arc::clone(&hangs)))
        }))
    }
}

#[test]
fn a_disk_that_hangs_is_told_of_while_it_does() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cluster");
    let (policies, hangs) = (Resource::of(Kind::NetworkPolicy), Arc::default());
    let cache = Cache::open_on(Hanging::disk(&hangs), &path, "https://a");
    let state = cache.state();
    let hold = hangs.lock().unwrap();
    cache.put(policies, "ns/a", &json!({"x": 1}));
    assert!(eventually(Duration::from_mins(1), || state.0.lock().writing.is_some()));
    // Slow is not hung, and there is room for more.
    assert_eq!(state.problem(), None);
    let later = Instant::now() + SLOW;
    let problem = state.0.lock().problem(&path, later).expect("it takes too long");
    assert!(problem.contains("see whether the disk hangs"), "{problem}");

    let large = json!({ "filler": "x".repeat(1 << 20) });
    for number in 0..20 {
        cache.put(policies, &format!("ns/{number}"), &large);
    }
    let overflowed = "more has changed than can wait for the disk";
    let problem = state.problem().expect("nothing is kept");
    assert!(problem.contains(overflowed), "{problem}");
    assert!(state.0.lock().writing.is_some(), "the disk hangs still");
    assert_eq!(state.0.lock().changes.len(), 0, "what nobody will write takes no memory");

    // That the write ends well makes nothing well: what came behind it is lost.
    drop(hold);
    assert!(eventually(Duration::from_mins(1), || state.0.lock().ended));
    let problem = state.problem().expect("nothing is kept");
    assert!(problem.contains(overflowed), "{problem}");
    drop(cache);
    assert_eq!(Cache::open(&path, "https://a").load(policies), Loaded::default());
}

#[test]
fn what_is_written_after_a_while_is_no_problem_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let (pods, hangs) = (Resource::of(Kind::Pod), Arc::default());
    let path = dir.path().join("cluster");
    let cache = Cache::open_on(Hanging::disk(&hangs), &path, "https://a");
    let state = cache.state();
    let hold = hangs.lock().unwrap();
    cache.put(pods, "ns/a", &json!({"x": 1}));
    drop(hold);
    drop(cache);
    assert_eq!(state.0.lock().problem(&path, Instant::now() + 2 * SLOW), None);
    assert_eq!(Cache::open(&path, "https://a").load(pods).bodies.len(), 1);
}
