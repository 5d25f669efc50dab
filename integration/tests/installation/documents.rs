//! Pages that name files.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The root of the tree.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The documents: those at the root, and `docs/`.
fn documents() -> Vec<(PathBuf, String)> {
    let files = [root().to_owned(), root().join("docs")].into_iter().flat_map(|it| fs::read_dir(it).unwrap());
    let pages = files.map(|it| it.unwrap().path()).filter(|it| it.extension().is_some_and(|it| it == "md"));
    pages.map(|page| (page.clone(), fs::read_to_string(page).unwrap())).collect()
}

/// The anchor that a heading gets: its letters, digits, hyphens and underscores in small letters, its spaces as hyphens.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase().replace(' ', "-");
    kept.chars().filter(|it| it.is_alphanumeric() || ['-', '_'].contains(it)).collect()
}

#[test]
fn links_of_documents_lead_somewhere() {
    let mut seen = 0;
    for (page, text) in documents() {
        for link in text.split("](").skip(1).filter_map(|it| it.split_once(')')).map(|(link, _)| link) {
            if link.contains("://") {
                continue;
            }
            seen += 1;
            let (file, place) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { page.clone() } else { page.parent().unwrap().join(file) };
            assert!(target.exists(), "{}: there is no {link}", page.display());
            if !place.is_empty() {
                let text = fs::read_to_string(&target).unwrap();
                let mut headings = text.lines().filter(|it| it.starts_with('#'));
                let found = headings.any(|it| anchor(it.trim_start_matches('#')) == place);
                assert!(found, "{}: {link} names no heading", page.display());
            }
        }
    }
    assert!(seen > 50, "only {seen} links were found");
}

#[test]
fn the_threat_model_names_tests_that_exist() {
    let page = fs::read_to_string(root().join("docs/threats.md")).unwrap();
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut seen = 0;
    for (file, test) in page.split('`').skip(1).step_by(2).filter_map(|it| it.split_once("::")) {
        if (file, test) == ("file", "name") {
            continue;
        }
        seen += 1;
        let places = [format!("{file}.rs"), format!("{file}/main.rs"), format!("{file}/mod.rs")];
        let text = places.iter().find_map(|place| fs::read_to_string(tests.join(place)).ok());
        let text = text.unwrap_or_else(|| panic!("there is no {file} below integration/tests"));
        assert!(text.contains(&format!("fn {test}(")), "{file} has no test {test}");
    }
    assert!(seen > 30, "only {seen} tests were found in the page");
}

#[test]
fn the_page_for_contributors_names_files_that_exist() {
    let root = root();
    let page = fs::read_to_string(root.join("CONTRIBUTING.md")).unwrap();
    let mut seen = 0;
    for name in page.split('`').skip(1).step_by(2) {
        let name = name.split("::").next().unwrap();
        let is_file = name.ends_with('/')
            || name
                .rsplit_once('.')
                .is_some_and(|(_, ending)| ["rs", "h", "c", "md", "toml", "txt"].contains(&ending));
        if !is_file || name.contains(' ') || name == "ipamd.toml" {
            continue;
        }
        seen += 1;
        let places = ["", "bpf/progs"].map(|place| root.join(place).join(name));
        assert!(places.iter().any(|place| place.exists()), "there is no {name}");
    }
    assert!(seen > 30, "only {seen} files were found in the page");
}
