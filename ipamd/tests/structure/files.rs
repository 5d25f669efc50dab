//! The files of a crate, and which of them names what is in which other. A file names another if it has a path, in code or
//! in `use`, whose longest known part is a module of the other: a name that a module has from one below it counts as the
//! module's. That a file declares a module says nothing.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs,
    path::{Path, PathBuf},
};

use crate::names::{Named, Names, Said, said};

/// A crate or a program of it: its modules by their paths from its root.
#[derive(Default)]
struct Modules(BTreeMap<Names, Module>);

struct Module {
    file: PathBuf,
    used: BTreeMap<String, Names>,
    named: Vec<Named>,
}

/// By file, each other that it names, with one of the paths.
type Needs = BTreeMap<PathBuf, BTreeMap<PathBuf, String>>;

/// A sentence for each circle of files of a crate.
pub fn circles(source: &Path) -> Vec<String> {
    let roots = ["lib.rs", "main.rs"].map(|name| source.join(name)).into_iter();
    let programs = fs::read_dir(source.join("bin")).into_iter().flatten().map(|entry| entry.unwrap().path());
    let programs = programs.map(|path| if path.is_dir() { path.join("main.rs") } else { path });
    let roots = roots.chain(programs).filter(|path| path.exists()).collect::<Vec<_>>();
    assert!(!roots.is_empty(), "{} has no crate", source.display());
    roots.iter().flat_map(|root| smallest_circles(&needs(root), source)).collect()
}

fn needs(root: &Path) -> Needs {
    let mut modules = Modules::default();
    modules.read(root, root.parent().unwrap(), Vec::new());
    let mut needs = Needs::new();
    for (here, module) in &modules.0 {
        for named in &module.named {
            let Some(file) = modules.file_of(here, named).filter(|file| *file != module.file) else {
                continue;
            };
            let others = needs.entry(module.file.clone()).or_default();
            others.entry(file.to_owned()).or_insert_with(|| named.path.join("::"));
        }
    }
    needs
}

impl Modules {
    /// Takes a file and those that it declares, which are in `folder`.
    fn read(&mut self, file: &Path, folder: &Path, here: Names) {
        let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        self.add(file, folder, here, said(&parsed.items));
    }

    fn add(&mut self, file: &Path, folder: &Path, here: Names, said: Said) {
        let below = |name: &str| here.iter().cloned().chain([name.to_owned()]).collect::<Names>();
        for (name, inner) in said.inner {
            self.add(file, &folder.join(&name), below(&name), inner);
        }
        for name in said.declared {
            let own = folder.join(&name);
            let beside = own.with_extension("rs");
            let path = if beside.exists() { beside } else { own.join("mod.rs") };
            self.read(&path, &own, below(&name));
        }
        self.0.insert(here, Module { file: file.to_owned(), used: said.used, named: said.named });
    }

    /// The file of what a path of the module `here` names, if it is of this crate.
    fn file_of(&self, here: &[String], named: &Named) -> Option<&Path> {
        let path = self.resolve(here, &named.path[..named.modules])?;
        let known = (0..=path.len()).rev().find_map(|end| self.0.get(&path[..end]));
        Some(&known.expect("the root is known").file)
    }

    /// A path of the module `here` as one from the root, if it is of this crate.
    fn resolve(&self, here: &[String], named: &[String]) -> Option<Names> {
        let (first, rest) = named.split_first()?;
        let with = |base: &[String], rest: &[String]| Some([base, rest].concat());
        let child = with(here, std::slice::from_ref(first))?;
        let used = self.0[here].used.get(first);
        match first.as_str() {
            "crate" => with(&[], rest),
            "self" => with(here, rest),
            "super" => {
                let ups = named.iter().take_while(|it| *it == "super").count();
                with(&here[..here.len().checked_sub(ups)?], &named[ups..])
            }
            _ if self.0.contains_key(&child) => with(&child, rest),
            // A `use` that leads to itself is of another crate.
            _ => with(&self.resolve(here, used.filter(|it| it.first() != Some(first))?)?, rest),
        }
    }
}

/// For each file that is in a circle, the smallest that it is in, each circle once.
fn smallest_circles(needs: &Needs, source: &Path) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let mut sentences = Vec::new();
    for start in needs.keys() {
        let Some(circle) = smallest_circle(needs, start) else { continue };
        if seen.insert(circle.iter().copied().collect::<BTreeSet<_>>()) {
            let name = |file: &Path| file.strip_prefix(source).unwrap().display().to_string();
            let next = circle.iter().cycle().skip(1);
            let steps = circle
                .iter()
                .zip(next)
                .map(|(from, to)| format!("{} -({})-> ", name(from), needs[*from][*to]));
            sentences.push(steps.collect::<String>() + &name(start));
        }
    }
    sentences
}

fn smallest_circle<'a>(needs: &'a Needs, start: &'a PathBuf) -> Option<Vec<&'a PathBuf>> {
    let mut before = BTreeMap::new();
    let mut next = VecDeque::from([start]);
    while let Some(file) = next.pop_front() {
        for needed in needs.get(file).into_iter().flat_map(BTreeMap::keys) {
            if needed == start {
                let mut circle = vec![file];
                while let Some(earlier) = before.get(circle[circle.len() - 1]) {
                    circle.push(*earlier);
                }
                circle.reverse();
                return Some(circle);
            }
            if !before.contains_key(needed) {
                before.insert(needed, file);
                next.push_back(needed);
            }
        }
    }
    None
}
