//! The picture that ARCHITECTURE.md draws of the crates, held against what they are; that no two files of a crate need each other; and
//! that tests wait for what they want instead of sleeping.

mod files;
mod names;
mod waiting;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use files::circles;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The crates of the table, each with those that it may depend on, by their folders.
fn drawn() -> BTreeMap<String, BTreeSet<String>> {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let rows = page.lines().skip_while(|line| !line.starts_with("| crate | what it is")).skip(2);
    let mut crates = BTreeMap::new();
    for row in rows.take_while(|line| line.starts_with('|')) {
        let cells = row.split('|').map(str::trim).collect::<Vec<_>>();
        let named = |cell: &str| {
            let names = cell.split('`').skip(1).step_by(2).filter(|name| !name.contains("::"));
            names.map(ToOwned::to_owned).collect::<BTreeSet<_>>()
        };
        let name = cells[1].trim_matches('`').to_owned();
        crates.insert(name, named(cells[3]));
    }
    crates
}

/// What of this workspace a crate depends on, tests left out, by the folders.
fn dependencies(folder: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
    let section = text.split("\n[dependencies]\n").nth(1).unwrap_or_default();
    let section = section.split("\n[").next().unwrap_or_default();
    let names = section.lines().filter_map(|line| line.split(['.', ' ', '=']).next());
    let ours = names.filter(|name| *name == "bpf" || name.starts_with("ipamd") || *name == "fuzz");
    ours.map(|name| name.replacen("ipamd-", "ipamd/", 1)).collect()
}

#[test]
fn crates_depend_on_what_the_picture_says() {
    let drawn = drawn();
    assert!(drawn.len() > 15, "the table has only {} crates", drawn.len());
    for (name, may) in &drawn {
        let has = dependencies(name);
        let more = has.difference(may).collect::<Vec<_>>();
        assert!(more.is_empty(), "{name} depends on {more:?}, which ARCHITECTURE.md does not say");
        let fewer = may.difference(&has).collect::<Vec<_>>();
        assert!(fewer.is_empty(), "{name} does not need {fewer:?} of ARCHITECTURE.md");
    }
    for member in fs::read_dir(root().join("ipamd")).unwrap() {
        let path = member.unwrap().path();
        let name = format!("ipamd/{}", path.file_name().unwrap().to_str().unwrap());
        assert!(!path.join("Cargo.toml").exists() || drawn.contains_key(&name), "{name} is not in the table");
    }
}

#[test]
fn no_two_files_of_a_crate_need_each_other() {
    let crates = drawn().into_keys();
    let mut found = String::new();
    for name in crates {
        let circles = circles(&root().join(&name).join("src"));
        found.extend(circles.iter().map(|circle| format!("{name}: {circle}\n")));
    }
    assert!(found.is_empty(), "files that need themselves by way of others:\n{found}");
}

#[test]
fn no_test_sleeps_where_it_can_wait() {
    assert_eq!(
        waiting::sleeping(&root()),
        waiting::may_sleep(),
        "tests wait by ipamd/waiting: for a condition (eventually), or with a reason why only time serves (time_passes)"
    );
}
