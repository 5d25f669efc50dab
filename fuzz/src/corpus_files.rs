//! The files of a corpus.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
};

/// The files of the corpus, in the order of their names.
pub fn read_all(directory: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let shown = directory.display();
    let entries =
        fs::read_dir(directory).unwrap_or_else(|error| panic!("cannot read the corpus {shown}: {error}"));
    let mut files: Vec<_> =
        entries.map(|entry| entry.expect("an entry of the corpus can be read").path()).collect();
    files.sort();
    assert!(!files.is_empty(), "the corpus {shown} is empty");
    let read = |file: PathBuf| {
        let input = fs::read(&file).unwrap_or_else(|error| panic!("cannot read {}: {error}", file.display()));
        (file, input)
    };
    files.into_iter().map(read).collect()
}

/// Adds an input to the corpus, and says where.
pub fn keep(directory: &Path, why: &str, input: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    let file = directory.join(format!("{why}-{:016x}", hasher.finish()));
    match fs::write(&file, input) {
        Ok(()) => file.display().to_string(),
        Err(error) => format!("nothing ({error})"),
    }
}
