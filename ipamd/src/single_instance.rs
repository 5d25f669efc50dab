//! At most one daemon in a network namespace and at most one on a folder of the bpffs. Two daemons would assign the
//! same addresses, and each would remove the programs of the other.

use std::{
    fs::{self, File},
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

/// An abstract socket name. One socket of a network namespace can have it at a time, and the kernel frees it when the
/// process ends.
const NAME: &str = "cambric-ipamd";

/// Why this daemon cannot be the only one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SingleInstanceError {
    /// Another daemon runs in the network namespace.
    #[error(
        "another cambric-ipamd serves this network namespace; stop it, or start this one in a namespace of its own"
    )]
    Namespace,
    /// Another daemon has locked the folder.
    #[error("another cambric-ipamd has its programs in {}; stop it, or give this one a --bpffs of its own", path.display())]
    Bpffs {
        /// The folder.
        path: PathBuf,
    },
    /// It is not known whether another daemon runs.
    #[error("cannot see whether another cambric-ipamd runs, by {what}: {source}")]
    Unseen {
        /// What was tried.
        what: String,
        /// Why not.
        source: io::Error,
    },
}

/// Keeps other daemons out until it is dropped, or the process ends in any way.
#[derive(Debug)]
pub struct SingleInstance {
    _namespace: UnixListener,
    _bpffs: Flock<File>,
}

impl SingleInstance {
    /// Locks the calling thread's network namespace and the folder `bpffs`, which is created if it is missing.
    ///
    /// # Errors
    /// Which of the two another daemon has.
    pub fn take(bpffs: &Path) -> Result<Self, SingleInstanceError> {
        Ok(Self { _namespace: take_namespace(NAME)?, _bpffs: take_folder(bpffs)? })
    }
}

fn take_namespace(name: &str) -> Result<UnixListener, SingleInstanceError> {
    let bound = SocketAddr::from_abstract_name(name).and_then(|address| UnixListener::bind_addr(&address));
    bound.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => SingleInstanceError::Namespace,
        _ => SingleInstanceError::Unseen { what: format!("the socket @{name}"), source },
    })
}

fn take_folder(path: &Path) -> Result<Flock<File>, SingleInstanceError> {
    let unseen = |source| SingleInstanceError::Unseen { what: path.display().to_string(), source };
    fs::create_dir_all(path).map_err(unseen)?;
    let folder = File::open(path).map_err(unseen)?;
    Flock::lock(folder, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        Errno::EWOULDBLOCK => SingleInstanceError::Bpffs { path: path.to_owned() },
        other => unseen(other.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_the_namespace_and_the_folder_until_it_is_gone() {
        let name = format!("cambric-test-{}", std::process::id());
        let first = take_namespace(&name).unwrap();
        assert!(matches!(take_namespace(&name), Err(SingleInstanceError::Namespace)));
        drop(first);
        take_namespace(&name).unwrap();

        let dir = tempfile::tempdir().unwrap();
        let first = take_folder(&dir.path().join("b")).unwrap();
        let second = take_folder(&dir.path().join("b")).unwrap_err().to_string();
        assert!(second.contains("/b; stop it, or give this one a --bpffs of its own"), "{second}");
        drop(first);
        take_folder(&dir.path().join("b")).unwrap();
    }
}
