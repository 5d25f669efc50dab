//! Why the datapath could not be made or changed.

use std::{
    io,
    path::{Path, PathBuf},
};

use bpf::attach::AttachError;

use super::map_error::{self, MapError};

/// Why the datapath could not be made or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatapathError {
    /// The kernel refused the programs.
    #[error("cannot load the programs: {} (see `cambricctl preflight`)", map_error::load(.0))]
    Load(libbpf_rs::Error),
    /// A map could not be made, read or written.
    #[error(transparent)]
    Map(#[from] MapError),
    /// A map is not what this version expects.
    #[error("the map {map} has an unexpected layout")]
    Layout {
        /// Its name.
        map: String,
    },
    /// What is pinned is of a release that this one does not know.
    #[error(
        "what is pinned in {} is of a newer Cambric (layout {found}, this one knows {known}); start that version, or drain the node, run \
         `cambricctl uninstall` of that version, and start again",
        path.display()
    )]
    Newer {
        /// The directory of the pins.
        path: PathBuf,
        /// Its layout.
        found: u32,
        /// The newest layout that this release knows.
        known: u32,
    },
    /// A file on the bpffs could not be made, read or removed.
    #[error("cannot use {path} (is a bpffs mounted there?): {source}")]
    Pin {
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The program that forgets flows failed.
    #[error("cannot run the program that forgets connections: {source}")]
    Age {
        /// The kernel's reason.
        source: io::Error,
    },
    /// The program that goes through DNS names failed.
    #[error("cannot run the program that goes through DNS names: {source}")]
    SweepNames {
        /// The kernel's reason.
        source: io::Error,
    },
    /// The program that tells of routes failed.
    #[error("cannot run the program that tells how often routes have changed: {source}")]
    Routes {
        /// The kernel's reason.
        source: io::Error,
    },
    /// A program could not be attached.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The program of the deny sets could not be attached to an uplink.
    #[error(
        "what deny sets name is not dropped at {ifname}: {source}; remove the XDP program that is there (`ip link set dev {ifname} xdp off`), \
         or see whether deny-mode fits the driver"
    )]
    Deny {
        /// The uplink.
        ifname: String,
        /// The kernel's reason.
        source: AttachError,
    },
}

impl DatapathError {
    /// A map of that name could not be opened or read.
    pub(super) fn map(name: &str) -> impl FnOnce(libbpf_rs::Error) -> Self {
        move |source| MapError::used(name, &source).into()
    }

    /// What is pinned there could not be used.
    pub(super) fn pin(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Pin { path: path.to_owned(), source }
    }
}
