//! The manifests that a command line names.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

use ipamd_sources::directory::read_once;

/// What the standard input is called.
const STANDARD_INPUT: &str = "stdin";

/// Shows each manifest's name, and its text or why that cannot be read, to `take`: the files as they are named, and what
/// is in the directories among them. Each is read when its turn comes.
pub(super) fn each(
    paths: &[PathBuf],
    mut take: impl FnMut(&Path, Result<String, String>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let message_of = |result: Result<String, read_once::ReadError>| result.map_err(|error| error.to_string());
    for path in paths {
        if path == Path::new("-") {
            take(Path::new(STANDARD_INPUT), message_of(read_once::read_from(io::stdin())))?;
        } else if path.is_dir() {
            let found = read_once::find(path);
            for file in &found.files {
                take(file, message_of(read_once::read(file)))?;
            }
            for (directory, reason) in found.troubles {
                take(&directory, Err(reason))?;
            }
        } else {
            // It may be a pipe: whoever names one means it.
            let text = match File::open(path) {
                Ok(file) => message_of(read_once::read_from(file)),
                Err(error) => Err(format!("this file cannot be read: {error}")),
            };
            take(path, text)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn files_are_read_as_named_and_directories_for_their_manifests() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("d")).unwrap();
        for name in ["d/b.yaml", "d/a.json", "d/notes.txt", "named.txt"] {
            fs::write(path(name), name).unwrap();
        }
        let mut seen = Vec::new();
        let named = [path("named.txt"), path("d"), path("missing.yaml")];
        each(&named, |path, text| {
            seen.push((path.to_path_buf(), text.is_ok()));
            Ok(())
        })
        .unwrap();
        let expected = [("named.txt", true), ("d/a.json", true), ("d/b.yaml", true), ("missing.yaml", false)]
            .map(|(name, is_read)| (path(name), is_read));
        assert_eq!(seen, expected);
    }
}
