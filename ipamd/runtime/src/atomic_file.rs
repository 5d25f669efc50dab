//! Files that are replaced whole: whoever reads one finds the old content or the new one, also after a loss of power.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

/// Writes `content` to `path` with the access `mode`, by way of the file `fresh` beside it, which nobody else may use. Returns
/// when the disk has it.
///
/// # Errors
/// Those of the file system; `path` is as it was then, and `fresh` is not left.
pub fn replace(path: &Path, fresh: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let replaced = write(fresh, content, mode).and_then(|file| {
        // Before the name is: a rename that reaches the disk before its content leaves an empty file.
        file.sync_all()?;
        fs::rename(fresh, path)?;
        File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    });
    forget_failed(fresh, replaced)
}

/// As [`replace`], for what need not survive the machine: does not wait for a disk.
///
/// # Errors
/// As [`replace`].
pub fn replace_until_reboot(path: &Path, fresh: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let replaced = write(fresh, content, mode).and_then(|_| fs::rename(fresh, path));
    forget_failed(fresh, replaced)
}

fn write(fresh: &Path, content: &[u8], mode: u32) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(fresh)?;
    // The umask, or an older file, may have made it another one.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(content)?;
    Ok(file)
}

fn forget_failed(fresh: &Path, result: io::Result<()>) -> io::Result<()> {
    if result.is_err() {
        // On a full disk half a file is in everybody's way.
        let _ = fs::remove_file(fresh);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_or_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (path, fresh) = (dir.path().join("file"), dir.path().join("file.new"));
        for content in ["one", "another"] {
            replace(&path, &fresh, content.as_bytes(), 0o600).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // What cannot be renamed over: a directory that is not empty.
        fs::remove_file(&path).unwrap();
        fs::create_dir_all(path.join("x")).unwrap();
        assert!(replace_until_reboot(&path, &fresh, b"third", 0o600).is_err());
        assert!(path.join("x").exists() && !fresh.exists());
    }
}
