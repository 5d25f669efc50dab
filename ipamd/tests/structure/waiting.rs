//! Tests wait by `ipamd/waiting`: for a condition, or with a reason why only time serves. What sleeps by itself is in a short list.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Files of tests in which something sleeps, and why.
const SLEEPS: [(&str, &str); 2] = [
    ("integration/src/apiserver/answers.rs", "the server is as slow as a test wants it"),
    (
        "integration/src/apiserver/watches.rs",
        "bookmarks come at a pace; a silent watch looks whether it still is",
    ),
];
/// Folders that hold tests alone, and what they are made of.
const OF_TESTS: [&str; 3] = ["integration/src/testbed", "integration/src/apiserver", "integration/tests"];

/// The files in which tests sleep, among those of the workspace at `root`.
pub fn sleeping(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for folder in ["bpf", "cni-plugin", "fuzz", "integration", "ipamd"] {
        for file in sources(&root.join(folder)) {
            let name = file.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            if sleeps(of_tests(&name, &fs::read_to_string(&file).unwrap())) {
                found.push(name);
            }
        }
    }
    found.sort();
    found
}

/// The files in which tests may sleep.
pub fn may_sleep() -> Vec<&'static str> {
    SLEEPS.iter().map(|(file, _)| *file).collect()
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    found
}

fn sleeps(text: &str) -> bool {
    let is_part_of_a_name =
        |at: usize| text[..at].ends_with(|sign: char| sign.is_alphanumeric() || sign == '_');
    text.match_indices("sleep(").any(|(at, _)| !is_part_of_a_name(at))
}

/// The part of a file that is of tests.
fn of_tests<'a>(name: &str, text: &'a str) -> &'a str {
    let is_all = OF_TESTS.iter().any(|folder| name.starts_with(folder))
        || name.contains("/tests/")
        || name.ends_with("tests.rs");
    if name == "ipamd/tests/structure/waiting.rs" {
        return "";
    }
    let begins = if is_all { Some(0) } else { text.find("#[cfg(test)]\nmod tests {") };
    begins.map_or("", |at| &text[at..])
}
