//! Whatever happens to the files: the store opens with all that was in it, or says that it is damaged.
//!
//! `DAMAGE_ROUNDS=20000 cargo test -p ipamd --lib damage` looks longer.

use std::{
    fs::{self, File},
    path::PathBuf,
};

use proptest::{
    prelude::Rng,
    test_runner::{RngAlgorithm, TestRng},
};

use super::{
    tests::{attachment, fill},
    *,
};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(file, target).unwrap();
    }
}

/// All files below `dir`.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

/// A store with content, and what it must open as.
struct Specimen {
    dir: tempfile::TempDir,
    whole: Loaded,
}

impl Specimen {
    /// One whose daemon has been stopped.
    fn stopped(count: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path(), count);
        let (store, whole) = Store::open(dir.path()).unwrap();
        assert!(!whole.attachments.is_empty());
        store.close().unwrap();
        Self { dir, whole }
    }

    /// One whose daemon has been killed: its files as they are while it runs.
    fn killed(count: usize) -> Self {
        let (live, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fill(live.path(), count);
        let (store, _) = Store::open(live.path()).unwrap();
        for number in 0..count {
            let mut batch = Batch::new();
            batch.put(&attachment(&format!("late{number}"), &[&format!("10.1.0.{number}")])).unwrap();
            store.submit(batch).unwrap().wait_blocking().unwrap();
        }
        copy(live.path(), dir.path());
        store.close().unwrap();
        let (store, whole) = Store::open(live.path()).unwrap();
        store.close().unwrap();
        let specimen = Self { dir, whole };
        assert!(!specimen.damaged_by(|_| "nothing".into()), "a killed daemon's store opens");
        specimen
    }

    /// One with records so large that sled keeps them in files of their own.
    fn large() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(dir.path()).unwrap();
        for number in 2..8 {
            let mut record = attachment(&format!("large{number}"), &[&format!("10.0.0.{number}")]);
            record.labels.insert("note".into(), "x".repeat(number * 20_000));
            let mut batch = Batch::new();
            batch.put(&record).unwrap();
            store.submit(batch).unwrap().wait_blocking().unwrap();
        }
        store.close().unwrap();
        let (store, whole) = Store::open(dir.path()).unwrap();
        assert_eq!(whole.attachments.len(), 6);
        store.close().unwrap();
        let specimen = Self { dir, whole };
        assert!(specimen.names().iter().any(|name| name.starts_with("sled/blobs")));
        specimen
    }

    /// Opens a damaged copy, twice: sled mends what it can on opening, and that must hide nothing from the second
    /// attempt. Either all is there or the damage is found; which, is returned.
    fn damaged_by(&self, damage: impl FnOnce(&Path) -> String) -> bool {
        let copied = tempfile::tempdir().unwrap();
        copy(self.dir.path(), copied.path());
        let what = damage(copied.path());
        let attempts = [(); 2].map(|()| match Store::open(copied.path()) {
            Ok((store, loaded)) => {
                assert_eq!(loaded, self.whole, "{what}: something is missing and nothing was said");
                store.close().unwrap();
                None
            }
            Err(error @ (StoreError::Damaged { .. } | StoreError::Newer { .. })) => Some(error.to_string()),
            Err(error) => panic!("{what}: {error}"),
        });
        attempts[0].is_some()
    }

    fn names(&self) -> Vec<PathBuf> {
        files(self.dir.path())
            .iter()
            .map(|file| file.strip_prefix(self.dir.path()).unwrap().to_owned())
            .collect()
    }
}

/// Random damage to one file.
fn spoil(file: &Path, rng: &mut TestRng) -> String {
    let mut bytes = fs::read(file).unwrap();
    if bytes.is_empty() {
        return "nothing".into();
    }
    let mut below = |limit: usize| usize::try_from(rng.next_u64() % limit as u64).unwrap();
    let at = below(bytes.len());
    let scale = below(17);
    let end = (at + 1 + below(1 << scale)).min(bytes.len());
    let what = match below(6) {
        0 => {
            bytes.truncate(at);
            format!("cut to {at}")
        }
        1 | 2 => {
            bytes[at] ^= 1 << below(8);
            format!("flipped at {at}")
        }
        3 => {
            bytes[at..end].fill(0);
            format!("zeroed {at}..{end}")
        }
        4 => {
            bytes[at..end].fill_with(|| u8::try_from(below(256)).unwrap());
            format!("garbage at {at}..{end}")
        }
        _ => {
            let from = below(bytes.len() - (end - at) + 1);
            bytes.copy_within(from..from + (end - at), at);
            format!("copied {from} to {at}..{end}")
        }
    };
    fs::write(file, bytes).unwrap();
    what
}

#[test]
fn random_damage_is_found_or_harmless() {
    let rounds = std::env::var("DAMAGE_ROUNDS").map_or(300, |rounds| rounds.parse().unwrap());
    let mut rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let specimens = [
        Specimen::stopped(2),
        Specimen::stopped(100),
        Specimen::killed(30),
        Specimen::stopped(700),
        Specimen::large(),
    ];
    let (mut found, mut harmless) = (0, 0);
    for round in 0..rounds {
        let specimen = &specimens[round % specimens.len()];
        let names = specimen.names();
        // The log is where almost all is.
        let log = names.iter().position(|name| name.ends_with("sled/db")).unwrap();
        let pick = usize::try_from(rng.next_u64() % (2 * names.len() as u64)).unwrap();
        let name = names.get(pick).unwrap_or(&names[log]);
        let damage =
            |dir: &Path| format!("round {round}, {} {}", name.display(), spoil(&dir.join(name), &mut rng));
        if specimen.damaged_by(damage) {
            found += 1;
        } else {
            harmless += 1;
        }
    }
    assert!(found > harmless / 4, "the damage does not hit: {found} found, {harmless} harmless");
}

#[test]
fn a_log_cut_anywhere_is_found_or_harmless() {
    let specimen = Specimen::stopped(20);
    let log = specimen.dir.path().join("sled/db").metadata().unwrap().len();
    for cut in (0..log).step_by(1499) {
        specimen.damaged_by(|dir| {
            File::options().write(true).open(dir.join("sled/db")).unwrap().set_len(cut).unwrap();
            format!("cut to {cut}")
        });
    }
}

#[test]
fn a_missing_or_empty_file_is_found() {
    for specimen in [Specimen::stopped(20), Specimen::killed(20)] {
        for name in specimen.names() {
            let shown = name.display();
            let emptied = specimen.damaged_by(|dir| {
                File::create(dir.join(&name)).unwrap();
                format!("{shown} emptied")
            });
            let deleted = specimen.damaged_by(|dir| {
                fs::remove_file(dir.join(&name)).unwrap();
                format!("{shown} deleted")
            });
            assert!(emptied, "{shown} emptied");
            // Snapshots only shorten sled's way through its log.
            assert!(deleted || shown.to_string().contains("snap"), "{shown} deleted");
        }
        assert!(specimen.damaged_by(|dir| {
            fs::remove_dir_all(dir.join("sled")).unwrap();
            "no database".into()
        }));
    }
}

#[test]
fn an_older_copy_of_the_database_is_found() {
    let specimen = Specimen::stopped(20);
    let older = tempfile::tempdir().unwrap();
    copy(specimen.dir.path(), older.path());
    let (store, _) = Store::open(specimen.dir.path()).unwrap();
    let mut batch = Batch::new();
    batch.put(&attachment("new", &["10.9.9.9"])).unwrap();
    store.submit(batch).unwrap().wait_blocking().unwrap();
    store.close().unwrap();
    assert!(specimen.damaged_by(|dir| {
        fs::remove_dir_all(dir.join("sled")).unwrap();
        copy(&older.path().join("sled"), &dir.join("sled"));
        "older database".into()
    }));
}
