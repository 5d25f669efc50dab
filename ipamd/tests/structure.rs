//! The picture that ARCHITECTURE.md draws of the crates, held against what they are.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

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
        let may = match cells[3] {
            "all" => None,
            "all of the above but `ipamd/ctl`" => {
                Some(crates.keys().filter(|it| *it != "ipamd/ctl").cloned().collect())
            }
            cell => Some(named(cell)),
        };
        if let Some(may) = may {
            crates.insert(name, may);
        }
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
        if name != "ipamd" {
            let fewer = may.difference(&has).collect::<Vec<_>>();
            assert!(fewer.is_empty(), "{name} does not need {fewer:?} of ARCHITECTURE.md");
        }
    }
    for member in fs::read_dir(root().join("ipamd")).unwrap() {
        let path = member.unwrap().path();
        let name = format!("ipamd/{}", path.file_name().unwrap().to_str().unwrap());
        assert!(!path.join("Cargo.toml").exists() || drawn.contains_key(&name), "{name} is not in the table");
    }
}

/// The modules of a crate that stand side by side at its top, each with those of them that it names outside of tests.
fn modules(source: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut files = Vec::new();
    let mut folders = vec![source.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == "rs") {
                files.push(path);
            }
        }
    }
    let top = |path: &Path| {
        let first = path.strip_prefix(source).unwrap().components().next().unwrap();
        first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
    };
    let all = files.iter().map(|path| top(path)).collect::<BTreeSet<_>>();
    let contents = files.iter().map(|path| (path, fs::read_to_string(path).unwrap())).collect::<Vec<_>>();
    let of_tests = contents.iter().flat_map(|(path, text)| {
        let modules = text.split("#[cfg(test)]\nmod ").skip(1).filter_map(|rest| rest.split_once(';'));
        let modules = modules.map(|(name, _)| name).filter(|name| !name.contains(char::is_whitespace));
        let beside = if ["mod.rs", "lib.rs", "main.rs"].iter().any(|name| path.ends_with(name)) {
            path.parent().unwrap().to_owned()
        } else {
            path.with_extension("")
        };
        modules.flat_map(move |name| [beside.join(format!("{name}.rs")), beside.join(name)])
    });
    let of_tests = of_tests.collect::<Vec<_>>();
    let mut needs: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, text) in &contents {
        if of_tests.iter().any(|it| path.starts_with(it)) {
            continue;
        }
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let code = text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n");
        for (at, _) in code.match_indices("crate::") {
            let rest = &code[at + "crate::".len()..];
            let first = |text: &str| {
                let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
                text[..end].to_owned()
            };
            let mut names = Vec::new();
            if let Some(group) = rest.strip_prefix('{') {
                let (mut depth, mut item) = (0, String::new());
                for sign in group.chars() {
                    match sign {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => names.push(std::mem::take(&mut item)),
                        _ if depth == 0 => item.push(sign),
                        _ => {}
                    }
                }
                names.push(item);
            } else {
                names.push(rest.to_owned());
            }
            let from = top(path);
            let others =
                names.iter().map(|name| first(name.trim())).filter(|it| all.contains(it) && *it != from);
            needs.entry(from.clone()).or_default().extend(others);
        }
    }
    needs
}

#[test]
fn no_two_modules_of_a_crate_need_each_other() {
    let crates = drawn().into_keys().chain(["integration".to_owned()]);
    for name in crates {
        let named = modules(&root().join(&name).join("src"));
        for start in named.keys() {
            let (mut seen, mut next) = (BTreeSet::new(), vec![start]);
            while let Some(module) = next.pop() {
                for needed in named.get(module).into_iter().flatten() {
                    assert_ne!(needed, start, "{name}: {start} needs itself by way of {module}");
                    if seen.insert(needed) {
                        next.push(needed);
                    }
                }
            }
        }
    }
}
