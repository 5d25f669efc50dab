//! The container's network namespace.

use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    thread,
};

use ipamd_api::wire::NetnsId;
use nix::sched::{CloneFlags, setns};

use crate::{environment::Sandbox, error::CniError};

/// An open network namespace that is not the plugin's own, unless that was allowed.
#[derive(Debug)]
pub struct Netns {
    file: File,
    path: PathBuf,
    id: NetnsId,
}

impl Netns {
    /// Opens the namespace that `CNI_NETNS` names.
    pub fn open(sandbox: &Sandbox) -> Result<Self, CniError> {
        let path = &sandbox.netns;
        let wrong = |why: String| {
            CniError::Environment(vec![format!(
                "CNI_NETNS must be the path of a network namespace, and {path:?} {why}"
            )])
        };
        let opened = ipamd_api::netns::open(path);
        let opened = opened.map_err(|error| wrong(format!("cannot be opened: {error}")))?;
        let file = opened.ok_or_else(|| wrong("is something else".to_owned()))?;
        let id = identity(&file).map_err(|error| wrong(format!("cannot be looked at: {error}")))?;
        if !sandbox.may_be_own_netns {
            let own = std::fs::metadata("/proc/thread-self/ns/net")
                .map_err(CniError::io("look at the plugin's own network namespace"))?;
            if (own.dev(), own.ino()) == (id.dev, id.ino) {
                return Err(wrong("is the one that the plugin itself stands in".to_owned()));
            }
        }
        Ok(Self { file, path: path.clone(), id })
    }

    /// Its path, as the runtime gave it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its identity.
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// Moves the calling thread into the namespace, for good.
    pub fn enter(&self) -> Result<(), CniError> {
        setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(|error| {
            CniError::Kernel(format!("cannot enter the network namespace {}: {error}", self.path.display()))
        })
    }

    /// Does `work` on a thread that stands in the namespace; the calling thread stays where it is.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T, CniError> + Send) -> Result<T, CniError> {
        thread::scope(|scope| {
            let worker = thread::Builder::new()
                .spawn_scoped(scope, || self.enter().and_then(|()| work()))
                .map_err(CniError::io("start a thread"))?;
            worker
                .join()
                .unwrap_or_else(|_| Err(CniError::Kernel("a thread of the plugin ended early".to_owned())))
        })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn identity(file: &File) -> io::Result<NetnsId> {
    let metadata = file.metadata()?;
    Ok(NetnsId { dev: metadata.dev(), ino: metadata.ino() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cni_args::Requested, environment::Target};

    fn open(path: &str, may_be_own_netns: bool) -> Result<Netns, String> {
        let target = Target { container_id: "c".into(), ifname: "eth0".into() };
        Netns::open(&Sandbox {
            target,
            netns: path.into(),
            may_be_own_netns,
            pod: None,
            requested: Requested::default(),
        })
        .map_err(|error| {
            assert_eq!(error.code(), 4);
            error.to_string()
        })
    }

    #[test]
    fn only_another_network_namespace_will_do() {
        assert!(
            open("/nonexistent/netns", false)
                .unwrap_err()
                .contains("\"/nonexistent/netns\" cannot be opened")
        );
        let pipe = std::env::temp_dir().join(format!("cambric-plugin-pipe-{}", std::process::id()));
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for other in ["/etc/passwd", "/etc", "/dev/null", "/dev/tty", &pipe.to_string_lossy()] {
            assert!(open(other, false).unwrap_err().contains("is something else"), "{other}");
        }
        std::fs::remove_file(&pipe).unwrap();
        assert!(open("/proc/self/ns/mnt", false).unwrap_err().contains("is something else"));
        assert!(open("/proc/self/ns/net", false).unwrap_err().contains("plugin itself stands in"));
        assert_eq!(open("/proc/self/ns/net", true).unwrap().path(), Path::new("/proc/self/ns/net"));
    }
}
