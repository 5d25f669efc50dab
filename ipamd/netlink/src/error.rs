//! Why a request failed.

use std::{fmt, io};

use nix::errno::Errno;

/// A request that failed, or the socket that did.
#[derive(Debug)]
pub struct NetlinkError {
    /// What was asked for: "create …".
    asked: String,
    /// The kernel's number for it, or why there is no answer.
    reason: io::Error,
    /// The kernel's own words, where it has any.
    words: Option<String>,
    /// How many more requests of the same batch failed.
    pub(crate) others: usize,
}

impl NetlinkError {
    /// `asked` reads on from "cannot".
    pub fn new(asked: impl Into<String>, reason: io::Error) -> Self {
        Self { asked: asked.into(), reason, words: None, others: 0 }
    }

    /// The kernel would not do it.
    pub(crate) fn refused(asked: impl Into<String>, refusal: Refusal) -> Self {
        let Refusal { reason, words } = refusal;
        Self { asked: asked.into(), reason, words, others: 0 }
    }

    /// The kernel's number for it; `EIO` if it did not say one.
    pub fn errno(&self) -> Errno {
        self.reason.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
    }

    /// Whether what was to be removed or changed is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self.errno(), Errno::ESRCH | Errno::ENODEV | Errno::ENOENT | Errno::EADDRNOTAVAIL)
    }
}

impl fmt::Display for NetlinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: ", self.asked)?;
        match self.reason.raw_os_error().map(Errno::from_raw) {
            None | Some(Errno::UnknownErrno) => write!(f, "{}", self.reason)?,
            Some(errno) => f.write_str(errno.desc())?,
        }
        if let Some(words) = &self.words {
            write!(f, " ({words})")?;
        }
        match self.others {
            0 => Ok(()),
            others => write!(f, "; {others} more requests failed with it"),
        }
    }
}

impl std::error::Error for NetlinkError {}

/// The reason alone, for a caller that says what was asked.
impl From<NetlinkError> for io::Error {
    fn from(error: NetlinkError) -> Self {
        error.reason
    }
}

/// The kernel's "no" to a request.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// Its number.
    pub(crate) reason: io::Error,
    /// Its words, where it has any.
    pub(crate) words: Option<String>,
}
