//! `logLevel` and `logFile`: quiet unless asked for, and never on the standard output.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Mutex,
};

use nix::libc;
use tracing::{Level, level_filters::LevelFilter};

use crate::{document::Document, error::CniError};

/// What is logged, and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Logging {
    /// `logLevel`; nothing is logged without it.
    pub level: Option<Level>,
    /// `logFile`, to which lines are added; the standard error output without it.
    pub file: Option<PathBuf>,
}

impl Logging {
    /// Reads the two fields. A file without a level takes `info`.
    pub fn parse(document: &Document) -> Result<Self, CniError> {
        let level = document.field("logLevel");
        let file = document.field("logFile");
        let path = match file.text()? {
            Some(path) if path.starts_with('/') => Some(PathBuf::from(path)),
            None | Some("") => None,
            Some(_) => return Err(file.must("must be an absolute path")),
        };
        let level = match level.text()? {
            None => path.as_ref().map(|_| Level::INFO),
            Some("" | "off") => None,
            Some(text @ ("error" | "warn" | "info" | "debug" | "trace")) => text.parse().ok(),
            Some(_) => return Err(level.must("must be one of off, error, warn, info, debug, trace")),
        };
        Ok(Self { level, file: path })
    }

    /// Starts logging. A file that cannot be opened costs its lines, which then go to the standard error output, and
    /// nothing else.
    pub fn start(&self) {
        let Some(level) = self.level else { return };
        let lines = tracing_subscriber::fmt().with_max_level(LevelFilter::from_level(level)).with_ansi(false);
        // Only a subscriber that is there already makes this fail, and the plugin sets one at most.
        match self.file.as_ref().map(|path| (path, open(path))) {
            None => drop(lines.with_writer(io::stderr).try_init()),
            Some((_, Ok(file))) => drop(lines.with_writer(Mutex::new(file)).try_init()),
            Some((path, Err(error))) => {
                drop(lines.with_writer(io::stderr).try_init());
                tracing::warn!(file = %path.display(), %error, "cannot open the log file");
            }
        }
    }
}

/// Opens a log to add lines to. A pipe that nobody reads would keep us waiting for a reader, and one that is full for its
/// reader: neither is worth a container's network.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_that_nobody_reads_is_not_waited_for() {
        let pipe = std::env::temp_dir().join(format!("cambric-log-pipe-{}", std::process::id()));
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(open(&pipe).unwrap_err().raw_os_error(), Some(libc::ENXIO));
        std::fs::remove_file(&pipe).unwrap();
    }

    fn parse(config: &str) -> Logging {
        Logging::parse(&Document::decode(config.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn quiet_unless_asked_for() {
        assert_eq!(parse("{}").level, None);
        assert_eq!(parse(r#"{"logLevel": "off", "logFile": "/x"}"#).level, None);
        assert_eq!(
            parse(r#"{"logFile": "/x"}"#),
            Logging { level: Some(Level::INFO), file: Some("/x".into()) }
        );
        assert_eq!(parse(r#"{"logLevel": "debug"}"#), Logging { level: Some(Level::DEBUG), file: None });
    }
}
