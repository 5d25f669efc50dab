use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    time::Duration,
};

use proptest::prelude::*;
use tempfile::TempDir;
use tokio::time::timeout;

use super::*;
use ipamd_model::objects::{Change, Object};

/// A directory that is followed, and what is known of it.
struct Followed {
    folder: TempDir,
    directory: Directory,
    known: BTreeMap<String, String>,
    refusals: Vec<String>,
}

fn namespace(name: &str, label: &str) -> String {
    // A label that is no string is not understood.
    let label = if label == "true" { label.to_owned() } else { format!("'{label}'") };
    format!("---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels: {{l: {label}}}\n")
}

impl Followed {
    /// Begins with files.
    async fn with(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("cluster");
        fs::create_dir(&root).unwrap();
        let directory = Directory::open(&root).unwrap();
        let mut followed = Self { folder, directory, known: BTreeMap::new(), refusals: vec![] };
        for (path, text) in files {
            followed.write(path, text);
        }
        let batch = followed.directory.next().await;
        followed.take(batch);
        followed
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join("cluster").join(path)
    }

    /// A path beside the directory.
    fn beside(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        fs::write(self.path(path), text).unwrap();
    }

    fn take(&mut self, batch: Batch) {
        for change in batch.changes {
            match change {
                Change::Put(Object::Namespace(it)) => {
                    self.known.insert(it.name.to_string(), it.labels.get("l").unwrap().to_owned());
                }
                Change::Put(other) => panic!("{other:?}"),
                Change::Remove(id) => assert!(self.known.remove(&*id.name).is_some(), "{id}"),
            }
        }
        if let Some(refusals) = batch.refusals {
            self.refusals = refusals.iter().map(ToString::to_string).collect();
        }
    }

    fn known(&self) -> String {
        self.known.iter().map(|(name, label)| format!("{name}={label}")).collect::<Vec<_>>().join(" ")
    }

    /// Waits until just this is known, with so many refusals.
    async fn until(&mut self, known: &str, refusals: usize) {
        while self.known() != known || self.refusals.len() != refusals {
            let next = timeout(Duration::from_secs(10), self.directory.next()).await;
            let Ok(batch) = next else {
                panic!(
                    "{known} and {refusals} refusals are awaited, not {} {:?}",
                    self.known(),
                    self.refusals
                );
            };
            self.take(batch);
        }
    }

    /// Asserts that nothing is told for a while.
    async fn quiet(&mut self) {
        let told = timeout(Duration::from_millis(100), self.directory.next()).await;
        assert!(told.is_err(), "{told:?}");
    }
}

#[test]
fn only_a_directory_can_be_opened() {
    let file = tempfile::NamedTempFile::new().unwrap();
    assert!(Directory::open(file.path()).is_err());
    let error = Directory::open("/does/not/exist").unwrap_err();
    assert_eq!(error.to_string(), "cannot read the directory of the cluster, /does/not/exist");
}

#[tokio::test]
async fn files_are_followed_as_they_are_written_replaced_and_removed() {
    let mut it = Followed::with(&[
        ("a.yaml", &namespace("a", "1")),
        ("sub/b.json", &namespace("b", "1")),
        ("c.txt", "x"),
    ])
    .await;
    assert_eq!(it.known(), "a=1 b=1");
    it.quiet().await;
    it.write("a.yaml", &namespace("a", "2"));
    it.until("a=2 b=1", 0).await;
    it.write("c.yml", &namespace("c", "1"));
    it.until("a=2 b=1 c=1", 0).await;

    it.write(".new", &namespace("a", "3"));
    fs::rename(it.path(".new"), it.path("a.yaml")).unwrap();
    it.until("a=3 b=1 c=1", 0).await;
    fs::rename(it.path("a.yaml"), it.path("z.yaml")).unwrap();
    it.write("done.yaml", &namespace("done", "1"));
    it.until("a=3 b=1 c=1 done=1", 0).await;
    fs::remove_file(it.path("z.yaml")).unwrap();
    fs::rename(it.path("c.yml"), it.path("c.yaml~")).unwrap();
    it.until("b=1 done=1", 0).await;
}

#[tokio::test]
async fn a_file_that_says_the_same_again_is_no_news() {
    let mut it = Followed::with(&[("a.yaml", &namespace("a", "1"))]).await;
    it.write("a.yaml", &format!("# {}\n{}", "a comment", namespace("a", "1")));
    it.write("b.txt", "b");
    it.write(".b.yaml", "b");
    it.write("b.yaml~", "b");
    it.quiet().await;
}

#[tokio::test]
async fn a_file_that_is_being_written_is_read_when_it_is_closed() {
    use std::io::Write as _;
    let mut it = Followed::with(&[]).await;
    let mut file = fs::File::create(it.path("a.yaml")).unwrap();
    file.write_all(namespace("a", "1").as_bytes()).unwrap();
    it.quiet().await;
    file.write_all(namespace("b", "1").as_bytes()).unwrap();
    drop(file);
    let batch = it.directory.next().await;
    it.take(batch);
    assert_eq!(it.known(), "a=1 b=1");
}

#[tokio::test]
async fn sub_directories_come_move_and_go() {
    let mut it = Followed::with(&[]).await;
    it.write("d/e/a.yaml", &namespace("a", "1"));
    it.until("a=1", 0).await;
    it.write("d/e/a.yaml", &namespace("a", "2"));
    it.write("d/b.yaml", &namespace("b", "1"));
    it.until("a=2 b=1", 0).await;
    fs::rename(it.path("d"), it.path("f")).unwrap();
    it.write("f/e/a.yaml", &namespace("a", "3"));
    it.until("a=3 b=1", 0).await;
    it.write("f/e/a.yaml", &namespace("a", "4"));
    it.until("a=4 b=1", 0).await;
    fs::rename(it.path("f"), it.beside("elsewhere")).unwrap();
    it.until("", 0).await;
    fs::rename(it.beside("elsewhere"), it.path("g")).unwrap();
    it.until("a=4 b=1", 0).await;
    fs::remove_dir_all(it.path("g")).unwrap();
    it.until("", 0).await;
}

#[tokio::test]
async fn what_is_broken_stays_until_it_is_mended() {
    let mut it = Followed::with(&[("a.yaml", &namespace("a", "1"))]).await;
    it.write("a.yaml", "a: [");
    it.until("a=1", 1).await;
    it.write("a.yaml", &namespace("a", "true"));
    while !it.refusals[0].contains("metadata.labels.l") {
        let batch = it.directory.next().await;
        it.take(batch);
    }
    it.until("a=1", 1).await;
    it.write("a.yaml", &namespace("a", "2"));
    it.until("a=2", 0).await;
    fs::write(it.path("a.yaml"), b"\xff\xfe").unwrap();
    it.until("a=2", 1).await;
    fs::remove_file(it.path("a.yaml")).unwrap();
    it.until("", 0).await;
}

#[tokio::test]
async fn two_files_with_one_object_take_turns() {
    let mut it = Followed::with(&[("b.yaml", &namespace("a", "2"))]).await;
    it.write("a.yaml", &namespace("a", "1"));
    it.until("a=1", 1).await;
    assert!(it.refusals[0].contains("cluster/b.yaml:2: Namespace a: this object is in"), "{:?}", it.refusals);
    fs::remove_file(it.path("a.yaml")).unwrap();
    it.until("a=2", 0).await;
}

#[tokio::test]
async fn a_volume_of_the_kubelet_is_swapped_at_once() {
    let mut it = Followed::with(&[]).await;
    let volume = |it: &Followed, name: &str, label: &str| {
        it.write(&format!("v/..{name}/a.yaml"), &namespace("a", label));
        it.write(&format!("v/..{name}/sub/b.yaml"), &namespace("b", label));
        symlink(format!("..{name}"), it.path("v/..data_tmp")).unwrap();
        fs::rename(it.path("v/..data_tmp"), it.path("v/..data")).unwrap();
    };
    volume(&it, "1", "1");
    symlink("..data/a.yaml", it.path("v/a.yaml")).unwrap();
    symlink("..data/sub", it.path("v/sub")).unwrap();
    it.until("a=1 b=1", 0).await;
    for turn in 2..5 {
        volume(&it, &turn.to_string(), &turn.to_string());
        fs::remove_dir_all(it.path(&format!("v/..{}", turn - 1))).unwrap();
        it.until(&format!("a={turn} b={turn}"), 0).await;
    }
}

#[tokio::test]
async fn links_and_what_they_lead_to_are_followed() {
    let mut it = Followed::with(&[]).await;
    let outside = it.beside("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("a"), namespace("a", "1")).unwrap();
    symlink(outside.join("a"), it.path("a.yaml")).unwrap();
    it.until("a=1", 0).await;
    fs::write(outside.join("a"), namespace("a", "2")).unwrap();
    it.until("a=2", 0).await;
    fs::write(outside.join("b"), namespace("a", "3")).unwrap();
    fs::rename(outside.join("b"), outside.join("a")).unwrap();
    it.until("a=3", 0).await;
    fs::remove_file(outside.join("a")).unwrap();
    it.until("a=3", 1).await;
    fs::write(outside.join("a"), namespace("a", "4")).unwrap();
    it.until("a=4", 0).await;
    fs::remove_file(it.path("a.yaml")).unwrap();
    it.until("", 0).await;
    fs::write(outside.join("c.yaml"), namespace("c", "1")).unwrap();
    symlink(&outside, it.path("all")).unwrap();
    it.until("c=1", 0).await;
    fs::write(outside.join("c.yaml"), namespace("c", "2")).unwrap();
    it.until("c=2", 0).await;
    fs::hard_link(outside.join("a"), it.path("hard.yaml")).unwrap();
    it.until("a=4 c=2", 0).await;
    fs::remove_file(it.path("all")).unwrap();
    it.until("a=4", 0).await;
}

#[tokio::test]
async fn a_directory_that_goes_takes_nothing_with_it_and_is_noticed_when_it_is_back() {
    let mut it = Followed::with(&[("a.yaml", &namespace("a", "1"))]).await;
    fs::rename(it.path(""), it.beside("away")).unwrap();
    it.until("a=1", 1).await;
    assert!(it.refusals[0].contains("is gone"), "{:?}", it.refusals);
    let status = it.directory.state().unwrap().status();
    assert_eq!((status.live, status.trouble.as_deref()), (false, Some("the directory is gone")));
    assert!(status.age_seconds.is_some());
    fs::write(it.beside("away/a.yaml"), namespace("a", "2")).unwrap();
    it.quiet().await;
    fs::rename(it.beside("away"), it.path("")).unwrap();
    it.until("a=2", 0).await;
    it.write("a.yaml", &namespace("a", "3"));
    it.until("a=3", 0).await;

    // Another one in its place.
    fs::create_dir(it.beside("new")).unwrap();
    fs::write(it.beside("new/b.yaml"), namespace("b", "1")).unwrap();
    fs::rename(it.path(""), it.beside("old")).unwrap();
    fs::rename(it.beside("new"), it.path("")).unwrap();
    it.until("b=1", 0).await;
}

#[tokio::test]
async fn a_file_that_cannot_be_opened_keeps_what_it_said() {
    let mut it = Followed::with(&[("a.yaml", &namespace("a", "1"))]).await;
    fs::remove_file(it.path("a.yaml")).unwrap();
    symlink("a.yaml", it.path("a.yaml")).unwrap();
    it.until("a=1", 1).await;
    assert!(it.refusals[0].contains("this file cannot be read"), "{:?}", it.refusals);
    fs::remove_file(it.path("a.yaml")).unwrap();
    it.write("a.yaml", &namespace("a", "2"));
    it.until("a=2", 0).await;
    nix::unistd::mkfifo(&it.path("p.yaml"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    it.until("a=2", 1).await;
    // Root reads what nobody may read; the modes are for others.
    fs::set_permissions(it.path("a.yaml"), fs::Permissions::from_mode(0o000)).unwrap();
    it.quiet().await;
}

#[tokio::test]
async fn many_files_at_once_come_together() {
    let mut it = Followed::with(&[]).await;
    for at in 0..300 {
        it.write(&format!("{at}.yaml"), &namespace(&format!("n{at:03}"), "1"));
    }
    let batch = it.directory.next().await;
    assert_eq!(batch.changes.len(), 300);
}

/// What it said before nobody knows, so what is in force in the kernel must stay until it is mended or removed.
#[tokio::test]
async fn a_start_waits_for_what_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("a.yaml"), namespace("a", "1")).unwrap();
    fs::write(path("b.yaml"), "a: [").unwrap();
    symlink("nowhere", path("c.yaml")).unwrap();
    fs::write(path("d.yaml"), b"\xff\xfe").unwrap();
    let mut directory = Directory::open(folder.path()).unwrap();
    let state = directory.state().unwrap();
    let waits = |names: &[&str]| {
        let status = state.status();
        let named: Vec<_> = names.iter().map(|it| path(it).display().to_string()).collect();
        assert_eq!((status.live, status.age_seconds, status.unlisted), (false, None, named.clone()));
        assert!(status.trouble.unwrap().starts_with(&named[0]));
    };
    for (mend, left) in [(None, &["b.yaml", "c.yaml", "d.yaml"][..]), (Some("b.yaml"), &["c.yaml", "d.yaml"])]
    {
        if let Some(name) = mend {
            fs::write(path(name), namespace("b", "1")).unwrap();
        }
        while state.status().unlisted.len() != left.len() {
            let told = timeout(Duration::from_millis(100), directory.next()).await;
            assert!(told.is_err(), "{told:?}");
        }
        waits(left);
    }
    fs::remove_file(path("c.yaml")).unwrap();
    fs::remove_file(path("d.yaml")).unwrap();
    let batch = timeout(Duration::from_secs(30), directory.next()).await.unwrap();
    assert_eq!(batch.changes.len(), 2);
    let status = state.status();
    assert_eq!((status.live, status.unlisted.len(), status.trouble), (true, 0, None));
}

/// As a shell does it: `: > a.yaml; cat new > a.yaml`.
#[tokio::test]
async fn a_file_that_is_emptied_keeps_what_it_said_until_it_has_content_or_is_removed() {
    let mut it = Followed::with(&[("a.yaml", &namespace("a", "1")), ("b.yaml", "")]).await;
    for empty in ["", " \n\t\n"] {
        it.write("a.yaml", empty);
        it.until("a=1", 1).await;
        assert!(it.refusals[0].contains("this file is empty"), "{:?}", it.refusals);
        it.quiet().await;
        it.write("a.yaml", &namespace("a", "1"));
        it.until("a=1", 0).await;
    }
    // Whoever wants no object of it says so.
    it.write("a.yaml", "# nothing\n");
    it.until("", 0).await;
    it.write("a.yaml", &namespace("a", "2"));
    it.until("a=2", 0).await;
    it.write("a.yaml", "");
    it.until("a=2", 1).await;
    fs::remove_file(it.path("a.yaml")).unwrap();
    it.until("", 0).await;
}

/// As a container engine does it that is to mount a file which is missing.
#[tokio::test]
async fn a_file_that_became_a_directory_keeps_what_it_said_until_that_is_removed_or_a_file() {
    let mut it = Followed::with(&[("a.yaml", &namespace("a", "1"))]).await;
    for _ in 0..2 {
        fs::remove_file(it.path("a.yaml")).unwrap();
        fs::create_dir(it.path("a.yaml")).unwrap();
        it.until("a=1", 1).await;
        assert!(it.refusals[0].contains("this is a directory now"), "{:?}", it.refusals);
        // A look at all of it leaves it so.
        it.write("a.yaml/b.yaml", &namespace("b", "1"));
        it.until("a=1 b=1", 1).await;
        fs::remove_dir_all(it.path("a.yaml")).unwrap();
        it.write("a.yaml", &namespace("a", "1"));
        it.until("a=1", 0).await;
    }
    fs::remove_file(it.path("a.yaml")).unwrap();
    fs::create_dir(it.path("a.yaml")).unwrap();
    it.until("a=1", 1).await;
    fs::remove_dir(it.path("a.yaml")).unwrap();
    it.until("", 0).await;
}

/// As when a volume is unmounted, or another one is mounted over it that is yet to be filled.
#[tokio::test]
async fn another_directory_that_has_nothing_takes_nothing_away() {
    let mut it = Followed::with(&[("a.yaml", &namespace("a", "1"))]).await;
    fs::create_dir_all(it.beside("new/sub")).unwrap();
    fs::rename(it.path(""), it.beside("old")).unwrap();
    fs::rename(it.beside("new"), it.path("")).unwrap();
    while !it.refusals.iter().any(|it| it.contains("is another one than it was")) {
        let batch = timeout(Duration::from_secs(30), it.directory.next()).await.unwrap();
        it.take(batch);
    }
    it.until("a=1", 1).await;
    let status = it.directory.state().unwrap().status();
    assert!(!status.live && status.trouble.unwrap().contains("another one"));
    it.write("b.yaml", &namespace("b", "1"));
    it.until("b=1", 0).await;
    assert!(it.directory.state().unwrap().status().live);
    // One by one they go.
    fs::remove_file(it.path("b.yaml")).unwrap();
    it.until("", 0).await;
}

/// The place of a directory, on the mount whose number a hidden file in it or above it has: only root can mount.
fn place_by_note(directory: &Path) -> Option<mounts::Place> {
    let noted = |above: &Path| fs::read_to_string(above.join(".mount")).ok()?.parse().ok();
    let place = mounts::Place::of(directory)?;
    Some(place.on(directory.ancestors().find_map(noted).unwrap_or(1)))
}

impl Followed {
    /// The same, with such mounts.
    async fn with_mounts(files: &[(&str, &str)]) -> Self {
        let mut it = Self::with(&[]).await;
        it.directory.mounts = Mounts::seen_by(place_by_note);
        it.directory.begin();
        for (path, text) in files {
            it.write(path, text);
        }
        it
    }

    /// Has another file system come over a directory: one with these files. What was there is at `under`.
    fn mount(&self, over: &str, number: u32, under: &str, files: &[(&str, &str)]) {
        let new = self.beside("mounted");
        fs::create_dir(&new).unwrap();
        fs::write(new.join(".mount"), number.to_string()).unwrap();
        for (path, text) in files {
            fs::create_dir_all(new.join(path).parent().unwrap()).unwrap();
            fs::write(new.join(path), text).unwrap();
        }
        // Both at once: between them there is no instant without a directory.
        fs::rename(self.path(over), self.beside(under)).unwrap();
        fs::rename(&new, self.path(over)).unwrap();
    }

    /// Takes that one away again.
    fn unmount(&self, over: &str, under: &str) {
        fs::remove_dir_all(self.path(over)).unwrap();
        fs::rename(self.beside(under), self.path(over)).unwrap();
    }

    /// Waits for a refusal with these words.
    async fn until_refused(&mut self, words: &str) {
        while !self.refusals.iter().any(|it| it.contains(words)) {
            let batch = timeout(Duration::from_secs(30), self.directory.next()).await.unwrap();
            self.take(batch);
        }
    }
}

const COVERED: &str = "another file system is here than before";

#[tokio::test]
async fn another_file_system_in_place_of_the_directory_takes_nothing_away() {
    let (a, b) = (namespace("a", "1"), namespace("b", "1"));
    let mut it = Followed::with_mounts(&[("a.yaml", &a), ("sub/b.yaml", &b)]).await;
    it.until("a=1 b=1", 0).await;
    // One with nothing, one with something else, one with less in files of the same names.
    let c = namespace("c", "1");
    for files in [&[][..], &[("c.yaml", &*c)], &[("a.yaml", &*a), ("sub/b.yaml", "# nothing\n")]] {
        it.mount("", 2, "former", files);
        it.until_refused(COVERED).await;
        it.until("a=1 b=1", 1).await;
        let status = it.directory.state().unwrap().status();
        assert!(!status.live && status.trouble.unwrap().contains("another file system"));
        it.quiet().await;
        it.unmount("", "former");
        it.until("a=1 b=1", 0).await;
        assert!(it.directory.state().unwrap().status().live);
    }
    it.write("a.yaml", &namespace("a", "2"));
    it.until("a=2 b=1", 0).await;
}

#[tokio::test]
async fn another_file_system_counts_once_it_has_all_that_the_former_had() {
    let (a, b) = (namespace("a", "1"), namespace("b", "1"));
    let mut it = Followed::with_mounts(&[("a.yaml", &a), ("sub/b.yaml", &b)]).await;
    it.until("a=1 b=1", 0).await;
    it.mount("", 2, "former", &[("all.yaml", &namespace("a", "2"))]);
    it.until_refused(COVERED).await;
    // As a volume is filled, file by file.
    it.write("b.yaml", &namespace("b", "2"));
    it.until("a=2 b=2", 0).await;
    assert!(it.directory.state().unwrap().status().live);
    // From here on it is the one that is followed.
    fs::remove_file(it.path("b.yaml")).unwrap();
    it.until("a=2", 0).await;
    it.mount("", 3, "second", &[]);
    it.until_refused(COVERED).await;
    it.until("a=2", 1).await;
}

#[tokio::test]
async fn another_file_system_in_place_of_a_directory_below_takes_nothing_away() {
    let (a, b) = (namespace("a", "1"), namespace("b", "1"));
    let mut it = Followed::with_mounts(&[("a.yaml", &a), ("sub/deep/b.yaml", &b)]).await;
    it.until("a=1 b=1", 0).await;
    it.mount("sub", 2, "former", &[("deep/c.yaml", &namespace("c", "1"))]);
    it.until_refused(COVERED).await;
    it.until("a=1 b=1", 1).await;
    // The others are followed meanwhile, and what comes and goes in it is not.
    it.write("a.yaml", &namespace("a", "2"));
    it.write("sub/deep/d.yaml", &namespace("d", "1"));
    it.until("a=2 b=1", 1).await;
    it.unmount("sub", "former");
    it.until("a=2 b=1", 0).await;
    fs::remove_file(it.path("sub/deep/b.yaml")).unwrap();
    it.until("a=2", 0).await;
}

#[tokio::test]
async fn a_directory_that_is_moved_into_its_place_or_linked_to_counts_on_whichever_file_system_it_is() {
    let mut it = Followed::with(&[]).await;
    it.directory.mounts = Mounts::seen_by(place_by_note);
    it.directory.begin();
    for (name, mount) in [("one", "1"), ("two", "2")] {
        fs::create_dir(it.beside(name)).unwrap();
        fs::write(it.beside(name).join(".mount"), mount).unwrap();
        fs::write(it.beside(name).join("x.yaml"), namespace(name, "1")).unwrap();
    }
    symlink(it.beside("one"), it.path("sub")).unwrap();
    it.until("one=1", 0).await;
    symlink(it.beside("two"), it.path(".sub")).unwrap();
    fs::rename(it.path(".sub"), it.path("sub")).unwrap();
    it.until("two=1", 0).await;
    fs::remove_file(it.path("sub")).unwrap();
    it.until("", 0).await;
}

#[tokio::test]
async fn a_list_without_items_takes_nothing_away() {
    let list = |items: &str| format!("{{apiVersion: v1, kind: List, items: {items}}}");
    let a = list("[{apiVersion: v1, kind: Namespace, metadata: {name: a, labels: {l: '1'}}}]");
    let mut it = Followed::with(&[("a.yaml", &a)]).await;
    assert_eq!(it.known(), "a=1");
    for broken in [list("null"), list("[null]"), "{apiVersion: v1, kind: NamespaceList}".into()] {
        it.write("a.yaml", &broken);
        it.until("a=1", 1).await;
        it.write("a.yaml", &a);
        it.until("a=1", 0).await;
    }
    it.write("a.yaml", &list("[]"));
    it.until("", 0).await;
}

#[tokio::test]
async fn a_link_is_followed_when_what_lies_on_its_way_is_replaced() {
    let mut it = Followed::with(&[]).await;
    for (folder, label) in [("old", "1"), ("new", "2")] {
        fs::create_dir(it.beside(folder)).unwrap();
        fs::write(it.beside(folder).join("x.yaml"), namespace("x", label)).unwrap();
        fs::write(it.beside(folder).join("y.yaml"), namespace("y", label)).unwrap();
    }
    // Of the link in the midst inotify tells nothing: it lies beside the directory.
    symlink(it.beside("old"), it.beside("way")).unwrap();
    symlink(it.beside("way/x.yaml"), it.path("file.yaml")).unwrap();
    it.until("x=1", 0).await;
    symlink(it.beside("way"), it.path("folder")).unwrap();
    it.until("x=1 y=1", 1).await;
    symlink(it.beside("new"), it.beside("other")).unwrap();
    fs::rename(it.beside("other"), it.beside("way")).unwrap();
    it.until("x=2 y=2", 1).await;
}

#[tokio::test]
async fn a_link_leads_to_what_is_made_anew_where_it_led() {
    let mut it = Followed::with(&[("one/deep/0.yaml", &namespace("a", "1"))]).await;
    symlink(it.path("one"), it.path("one/deep/er")).unwrap();
    symlink(it.path("one/deep/er"), it.path("two")).unwrap();
    it.until("a=1", 1).await;
    fs::remove_dir_all(it.path("one/deep")).unwrap();
    it.write("one/deep/er/0.yaml", &namespace("b", "1"));
    it.until("b=1", 1).await;
}

/// One change of the directory; the numbers choose among few names.
#[derive(Clone, Copy, Debug)]
enum Step {
    Write(u8, u8, u8),
    Replace(u8, u8, u8),
    Remove(u8, u8),
    RemoveFolder(u8),
    MoveFolder(u8, u8),
    MoveFile(u8, u8, u8),
    LinkFolder(u8, u8),
    Pause,
}

fn step() -> impl Strategy<Value = Step> {
    let (folder, file, label) = (|| 0..5_u8, || 0..3_u8, || 0..4_u8);
    prop_oneof![
        (folder(), file(), label()).prop_map(|(a, b, c)| Step::Write(a, b, c)),
        (folder(), file(), label()).prop_map(|(a, b, c)| Step::Replace(a, b, c)),
        (folder(), file()).prop_map(|(a, b)| Step::Remove(a, b)),
        folder().prop_map(Step::RemoveFolder),
        (folder(), folder()).prop_map(|(a, b)| Step::MoveFolder(a, b)),
        (folder(), folder(), file()).prop_map(|(a, b, c)| Step::MoveFile(a, b, c)),
        (folder(), folder()).prop_map(|(a, b)| Step::LinkFolder(a, b)),
        Just(Step::Pause),
    ]
}

impl Step {
    /// Does it, as far as it can be done.
    fn perform(self, it: &Followed) {
        let folder =
            |number: u8| it.path(["one", "two", "one/deep", "two/deep", "one/deep/er"][usize::from(number)]);
        let file = |in_folder, number: u8| folder(in_folder).join(format!("{number}.yaml"));
        let text =
            |in_folder, number, label: u8| namespace(&format!("n{in_folder}{number}"), &label.to_string());
        let _ = match self {
            Self::Write(a, b, label) => {
                fs::create_dir_all(folder(a)).and_then(|()| fs::write(file(a, b), text(a, b, label)))
            }
            Self::Replace(a, b, label) => fs::write(folder(a).join(".new"), text(a, b, label))
                .and_then(|()| fs::rename(folder(a).join(".new"), file(a, b))),
            Self::Remove(a, b) => fs::remove_file(file(a, b)),
            Self::RemoveFolder(a) => fs::remove_dir_all(folder(a)).or_else(|_| fs::remove_file(folder(a))),
            Self::MoveFolder(a, b) => fs::rename(folder(a), folder(b)),
            Self::MoveFile(a, b, c) => fs::rename(file(a, c), file(b, c)),
            Self::LinkFolder(a, b) => symlink(folder(a), folder(b)),
            Self::Pause => Ok(()),
        };
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    /// However a directory came to be as it is, who followed it knows what one knows who reads it now.
    #[test]
    fn following_leads_where_reading_does(steps in prop::collection::vec(step(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut it = Followed::with(&[]).await;
            for step in &steps {
                step.perform(&it);
                if let Step::Pause = step
                    && let Ok(batch) = timeout(Duration::from_millis(5), it.directory.next()).await
                {
                    it.take(batch);
                }
            }
            let directory = Directory::open(it.path("")).unwrap();
            let folder = tempfile::tempdir().unwrap();
            let mut fresh = Followed { folder, directory, known: BTreeMap::new(), refusals: vec![] };
            let batch = fresh.directory.next().await;
            fresh.take(batch);
            it.until(&fresh.known(), fresh.refusals.len()).await;
            it.quiet().await;
        });
    }
}
