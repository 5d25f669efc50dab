use std::collections::BTreeMap;

use proptest::prelude::*;

use super::files::Files;
use crate::manifest::{self, Manifest};
use ipamd_model::objects::{Batch, Change, Kind, Object, ObjectId};
use std::path::Path;

fn namespace(name: &str, label: &str) -> String {
    // A label that is no string is not understood.
    let label = if label == "true" { label.to_owned() } else { format!("'{label}'") };
    format!("---\napiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels: {{l: {label}}}\n")
}

fn put(files: &mut Files, path: &str, text: &str) {
    files.put(Path::new(path), manifest::read(Path::new(path), text));
}

/// The changes, such as `+a=1` and `-a`, and the refusals where they have changed.
fn told(batch: &Batch) -> (String, Option<Vec<String>>) {
    let change = |change: &Change| match change {
        Change::Put(Object::Namespace(it)) => format!("+{}={}", it.name, it.labels.get("l").unwrap()),
        Change::Put(other) => format!("+{}", other.id()),
        Change::Remove(id) => format!("-{}", id.name),
    };
    let changes: Vec<_> = batch.changes.iter().map(change).collect();
    let refusals = batch.refusals.as_ref().map(|all| all.iter().map(ToString::to_string).collect());
    (changes.join(" "), refusals)
}

fn changes(files: &mut Files) -> String {
    let (changes, refusals) = told(&files.take());
    assert_eq!(refusals, None);
    changes
}

fn changes_and_refusals(files: &mut Files) -> (String, Vec<String>) {
    let (changes, refusals) = told(&files.take());
    (changes, refusals.expect("the refusals have changed"))
}

#[test]
fn only_what_changes_is_told() {
    let mut files = Files::default();
    put(&mut files, "a", &(namespace("x", "1") + &namespace("y", "1")));
    assert_eq!(changes(&mut files), "+x=1 +y=1");
    put(&mut files, "a", &(namespace("x", "1") + &namespace("y", "2")));
    assert_eq!(changes(&mut files), "+y=2");
    put(&mut files, "a", &(namespace("x", "1") + &namespace("y", "2")));
    assert_eq!(changes(&mut files), "");
    put(&mut files, "a", &(namespace("y", "2") + &namespace("z", "1")));
    assert_eq!(changes(&mut files), "-x +z=1");
    files.remove(Path::new("a"));
    assert_eq!(changes(&mut files), "-y -z");
    files.remove(Path::new("a"));
    assert_eq!(changes(&mut files), "");
}

#[test]
fn an_object_that_moves_to_another_file_in_one_go_does_not_change() {
    let mut files = Files::default();
    put(&mut files, "a", &namespace("x", "1"));
    changes(&mut files);
    files.remove(Path::new("a"));
    put(&mut files, "b", &namespace("x", "1"));
    assert_eq!(changes(&mut files), "");
}

#[test]
fn an_object_that_cannot_be_understood_stays_as_it_was() {
    let mut files = Files::default();
    put(&mut files, "a", &(namespace("x", "1") + &namespace("y", "1")));
    changes(&mut files);
    put(&mut files, "a", &(namespace("x", "true") + &namespace("y", "2")));
    let refusal = "a:6: Namespace x: metadata.labels.l: true is not a string; quotes make it one";
    assert_eq!(changes_and_refusals(&mut files), ("+y=2".into(), vec![refusal.into()]));
    put(&mut files, "a", &namespace("x", "true"));
    assert_eq!(changes(&mut files), "-y");
    // It is known by its id still, however often the file is read.
    put(&mut files, "a", &namespace("x", "3"));
    assert_eq!(changes_and_refusals(&mut files), ("+x=3".into(), vec![]));
}

#[test]
fn an_object_that_moves_and_cannot_be_understood_any_more_stays_as_it_was() {
    for first_removed in [true, false] {
        let mut files = Files::default();
        put(&mut files, "a", &namespace("x", "1"));
        changes(&mut files);
        if first_removed {
            files.remove(Path::new("a"));
        }
        put(&mut files, "b", &namespace("x", "true"));
        files.remove(Path::new("a"));
        let (changes, refusals) = changes_and_refusals(&mut files);
        assert_eq!((changes.as_str(), refusals.len()), ("", 1));
        files.remove(Path::new("b"));
        assert_eq!(changes_and_refusals(&mut files), ("-x".into(), vec![]));
    }
}

#[test]
fn of_a_file_that_is_not_understood_as_a_whole_nothing_goes() {
    let mut files = Files::default();
    put(&mut files, "a", &(namespace("x", "1") + &namespace("y", "1")));
    changes(&mut files);
    for broken in ["a: [", "kind: Namespace\n"] {
        put(&mut files, "a", broken);
        let (changes, refusals) = changes_and_refusals(&mut files);
        assert_eq!((changes.as_str(), refusals.len()), ("", 1), "{refusals:?}");
    }
    files.put(Path::new("a"), Manifest::unread(Path::new("a"), 1, "cannot be read"));
    assert_eq!(changes_and_refusals(&mut files), (String::new(), vec!["a:1: cannot be read".into()]));
    // Beside a document without an id, what can be understood is.
    put(&mut files, "a", &("kind: Namespace\n".to_owned() + &namespace("x", "2")));
    assert_eq!(changes_and_refusals(&mut files).0, "+x=2");
    put(&mut files, "a", "");
    assert_eq!(changes_and_refusals(&mut files), ("-x -y".into(), vec![]));
}

#[test]
fn of_two_files_with_one_object_the_first_counts() {
    let mut files = Files::default();
    put(&mut files, "b", &namespace("x", "2"));
    assert_eq!(changes(&mut files), "+x=2");
    put(&mut files, "a", &(namespace("w", "1") + &namespace("x", "1")));
    let refusal = |file: &str, first: &str| {
        format!("{file}:2: Namespace x: this object is in {first} already, which counts")
    };
    assert_eq!(changes_and_refusals(&mut files), ("+w=1 +x=1".into(), vec![refusal("b", "a:8")]));
    put(&mut files, "c", &namespace("x", "3"));
    assert_eq!(
        changes_and_refusals(&mut files),
        (String::new(), vec![refusal("b", "a:8"), refusal("c", "a:8")])
    );
    put(&mut files, "b", &namespace("x", "4"));
    assert_eq!(changes(&mut files), "");
    files.remove(Path::new("a"));
    assert_eq!(changes_and_refusals(&mut files), ("-w +x=4".into(), vec![refusal("c", "b:2")]));
    put(&mut files, "b", "");
    assert_eq!(changes_and_refusals(&mut files), ("+x=3".into(), vec![]));
}

#[test]
fn what_is_wrong_with_a_directory_is_told_until_it_is_mended() {
    let mut files = Files::default();
    files.set_trouble(Path::new("d/e"), Some("cannot be read".into()));
    assert_eq!(changes_and_refusals(&mut files), (String::new(), vec!["d/e:1: cannot be read".into()]));
    files.set_trouble(Path::new("d/e"), Some("cannot be read".into()));
    assert_eq!(changes(&mut files), "");
    files.clear_troubles(Path::new("d"));
    assert_eq!(changes_and_refusals(&mut files), (String::new(), vec![]));
}

#[test]
fn the_files_below_a_path_are_known() {
    let mut files = Files::default();
    for path in ["d", "d/a", "d/e/b", "d.x", "da", "e"] {
        put(&mut files, path, "");
    }
    let below: Vec<_> = files.below(Path::new("d")).iter().map(|it| it.display().to_string()).collect();
    assert_eq!(below, ["d", "d/a", "d/e/b"]);
    assert!(files.has(Path::new("da")) && !files.has(Path::new("f")));
}

proptest! {
    /// Whoever follows the batches knows what the files say, whatever happens to them in whatever order.
    #[test]
    fn the_batches_add_up_to_the_files(
        steps in prop::collection::vec(
            (0..4_usize, prop::option::of(prop::collection::btree_map(0..5_u8, 0..3_u8, 0..4)), any::<bool>()), 1..40),
    ) {
        let mut files = Files::default();
        let mut texts: BTreeMap<String, BTreeMap<u8, u8>> = BTreeMap::new();
        let mut followed: BTreeMap<ObjectId, String> = BTreeMap::new();
        for (file, content, take) in steps {
            let path = format!("{file}.yaml");
            if let Some(content) = content {
                    let text: String =
                        content.iter().map(|(name, label)| namespace(&format!("n{name}"), &format!("l{label}"))).collect();
                    put(&mut files, &path, &text);
                    texts.insert(path, content);
            }
            else {
                files.remove(Path::new(&path));
                texts.remove(&path);
            }
            if !take {
                continue;
            }
            for change in files.take().changes {
                match change {
                    Change::Put(Object::Namespace(it)) => {
                        let label = it.labels.get("l").unwrap().to_owned();
                        let id = ObjectId::global(Kind::Namespace, &it.name);
                        prop_assert_ne!(followed.insert(id, label.clone()), Some(label));
                    }
                    Change::Put(other) => panic!("{other:?}"),
                    Change::Remove(id) => prop_assert!(followed.remove(&id).is_some()),
                }
            }
            let mut expected = BTreeMap::new();
            for (name, label) in texts.values().flatten() {
                let id = ObjectId::global(Kind::Namespace, &format!("n{name}"));
                expected.entry(id).or_insert_with(|| format!("l{label}"));
            }
            prop_assert_eq!(&followed, &expected);
        }
    }
}
