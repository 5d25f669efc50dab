//! Binding the socket's path.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use ipamd_api::client::connect_within;

use tokio::net::UnixListener;

/// How long another daemon may take to take a call before it counts as there all the same.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// Why the socket cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// Another daemon does.
    #[error("another daemon answers on {}; stop it, or give this one another path", path.display())]
    Taken {
        /// The socket.
        path: PathBuf,
    },
    /// The path is that of something else.
    #[error("{} is not a socket; move it away, or choose another path", path.display())]
    NotASocket {
        /// What is in the way.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was being done, as a verb.
        action: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// The socket's file; removed when this is dropped, if it is still the same file.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode) {
            // The next daemon replaces a file that nobody answers on.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Listens on `path`, in a directory that is made if it is missing. A socket that nobody answers on is replaced.
///
/// # Errors
/// Why not.
pub fn listen(path: &Path) -> Result<(UnixListener, SocketFile), ListenError> {
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |source| ListenError::Io { action, path, source }
    };
    if let Some(dir) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(dir)
            .map_err(failed("make the directory", dir))?;
    }
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("look at", path)(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(ListenError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => match connect_within(path, ANSWERS_WITHIN) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path).map_err(failed("remove the abandoned socket", path))?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // Also where the connection fails in another way, as by a queue of callers that stays full: somebody is there.
            Ok(_) | Err(_) => return Err(ListenError::Taken { path: path.to_owned() }),
        },
    }
    let listener = UnixListener::bind(path).map_err(failed("listen on", path))?;
    // Whoever connects before this is turned away by the user that the kernel says it is.
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed("restrict", path))?;
    let inode = fs::symlink_metadata(path).map_err(failed("look at", path))?.ino();
    Ok((listener, SocketFile { path: path.to_owned(), inode }))
}
