//! Pages that name files.

use std::{fs, path::Path};

#[test]
fn the_page_for_contributors_names_files_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
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
