//! A blocking client of the daemon's socket.

use std::{
    fs, io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{fs::FileTypeExt, net::UnixStream},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt},
        time::{TimeVal, TimeValLike},
    },
};

use crate::{
    frame,
    wire::{ApiError, Envelope, ErrorKind, Reply, Request},
};

/// How long the daemon may take for one answer. The CNI runtime waits minutes; a daemon that needs longer than this
/// for one answer is as good as away.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a daemon that has more callers than it takes may keep one waiting before that is told.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why an exchange with the daemon failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody listens, or nobody takes the call.
    #[error("cannot reach the Cambric daemon on {}: {}", socket.display(), unreached(socket, source))]
    Connect {
        /// Where the client knocked.
        socket: PathBuf,
        /// Why in vain.
        source: io::Error,
    },
    /// The connection broke, or the daemon took too long.
    #[error("the Cambric daemon on {} broke off: {}", socket.display(), broken_off(source))]
    Exchange {
        /// The socket.
        socket: PathBuf,
        /// What happened to it.
        source: io::Error,
    },
    /// The daemon's answer makes no sense to this client.
    #[error("the Cambric daemon on {} gave an answer that this client does not understand: {detail}", socket.display())]
    Confused {
        /// The socket.
        socket: PathBuf,
        /// What was wrong with the answer.
        detail: String,
    },
    /// The daemon refused.
    #[error(transparent)]
    Refused(#[from] ApiError),
}

impl ClientError {
    /// Whether the same request may succeed in a moment, because the daemon is away for now or just starts.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Connect { source, .. } => {
                matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
                    || is_timeout(source)
            }
            // One that took too long once does so again.
            Self::Exchange { source, .. } => !is_timeout(source),
            Self::Refused(error) => error.kind == ErrorKind::TryAgainLater,
            Self::Confused { .. } => false,
        }
    }
}

/// A socket's deadline that has passed: the kernel says that the resource is temporarily unavailable.
fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn unreached(socket: &Path, source: &io::Error) -> String {
    let is_something_else = || fs::metadata(socket).is_ok_and(|metadata| !metadata.file_type().is_socket());
    match source.kind() {
        io::ErrorKind::ConnectionRefused if is_something_else() => {
            "that path is not a socket; correct the key socket, or remove what is there".to_owned()
        }
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            format!("{source} (is cambric-ipamd running?)")
        }
        io::ErrorKind::PermissionDenied => format!("{source} (only root may ask it)"),
        _ if is_timeout(source) => {
            "it is busy: it took no call in time (its queue of callers is full)".to_owned()
        }
        _ => source.to_string(),
    }
}

fn broken_off(source: &io::Error) -> String {
    match source.kind() {
        _ if is_timeout(source) => format!("it gave no answer within {} s", ANSWER_TIMEOUT.as_secs()),
        io::ErrorKind::UnexpectedEof => "it closed the connection before it answered".to_owned(),
        _ => source.to_string(),
    }
}

/// Connects to a unix socket. One whose queue of callers stays full for `patience` is `WouldBlock`; the standard library's
/// own way waits for ever then.
///
/// # Errors
/// The kernel's.
pub fn connect_within(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let stream: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let patience = TimeVal::microseconds(i64::try_from(patience.as_micros()).unwrap_or(i64::MAX).max(1));
    // What Linux goes by when it waits for a place in the queue.
    setsockopt(&stream, sockopt::SendTimeout, &patience)?;
    let address = UnixAddr::new(path)?;
    loop {
        match connect(stream.as_raw_fd(), &address) {
            Err(Errno::EINTR) => {}
            connected => break connected?,
        }
    }
    Ok(UnixStream::from(stream))
}

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    socket: PathBuf,
}

impl Client {
    /// Connects to the daemon that listens on `socket`.
    ///
    /// # Errors
    /// [`ClientError::Connect`] if nobody listens there, or takes the call within [`CONNECT_TIMEOUT`].
    pub fn connect(socket: &Path) -> Result<Self, ClientError> {
        let connected = connect_within(socket, CONNECT_TIMEOUT).and_then(|stream| {
            stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
            stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
            Ok(stream)
        });
        match connected {
            Ok(stream) => Ok(Self { stream, socket: socket.to_owned() }),
            Err(source) => Err(ClientError::Connect { socket: socket.to_owned(), source }),
        }
    }

    /// Waits no longer than this for each answer from here on.
    pub fn wait_at_most(&self, patience: Duration) {
        // Refused only for a time of zero; then the longer one stands.
        let _ = self.stream.set_read_timeout(Some(patience));
        let _ = self.stream.set_write_timeout(Some(patience));
    }

    /// Sends one request and waits for its answer.
    ///
    /// # Errors
    /// [`ClientError::Refused`] with the daemon's reason, or why the exchange failed.
    pub fn call(&mut self, request: Request) -> Result<Reply, ClientError> {
        self.send(request)?;
        self.receive()
    }

    /// Sends one request whose answer has several parts; [`Self::receive`] gives them.
    ///
    /// # Errors
    /// Why the exchange failed.
    pub fn send(&mut self, request: Request) -> Result<(), ClientError> {
        let body = serde_json::to_vec(&Envelope::from(request)).map_err(|error| self.broken(error.into()))?;
        frame::write(&self.stream, &body).map_err(|source| self.broken(source))
    }

    /// Waits for one (more) part of an answer.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn receive(&mut self) -> Result<Reply, ClientError> {
        let body = frame::read(&self.stream).map_err(|source| self.broken(source))?;
        match serde_json::from_slice(&body) {
            Ok(Reply::Error(error)) => Err(error.into()),
            Ok(reply) => Ok(reply),
            Err(error) => Err(self.confused(error.to_string())),
        }
    }

    /// The error for an answer of the wrong sort.
    pub fn confused(&self, detail: String) -> ClientError {
        ClientError::Confused { socket: self.socket.clone(), detail }
    }

    fn broken(&self, source: io::Error) -> ClientError {
        ClientError::Exchange { socket: self.socket.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixListener, time::Instant};

    use super::*;

    /// A path of the test's own.
    fn path(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("cambric-client-{name}-{}", std::process::id()));
        let _ = fs::remove_file(&path);
        path
    }

    fn unreached_error(kind: io::ErrorKind) -> ClientError {
        ClientError::Connect { socket: "/nonexistent/x.sock".into(), source: kind.into() }
    }

    #[test]
    fn a_full_queue_of_callers_keeps_nobody_for_ever() {
        let path = path("full");
        let listener = UnixListener::bind(&path).unwrap();
        // SAFETY: this only sets the length of the queue of an open socket.
        assert_eq!(unsafe { nix::libc::listen(listener.as_raw_fd(), 0) }, 0);
        let _first = connect_within(&path, Duration::from_secs(1)).unwrap();
        let began = Instant::now();
        let mut others = (0..4).map(|_| connect_within(&path, Duration::from_millis(100)));
        let full = others.find_map(Result::err).unwrap();
        assert!(is_timeout(&full), "{full:?}");
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        let error = ClientError::Connect { socket: path.clone(), source: full };
        assert!(error.to_string().ends_with("(its queue of callers is full)"), "{error}");
        assert!(error.is_passing());
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn why_nobody_answers_is_said_in_words() {
        for (kind, said, passes) in [
            (io::ErrorKind::NotFound, "is cambric-ipamd running?", true),
            (io::ErrorKind::ConnectionRefused, "is cambric-ipamd running?", true),
            (io::ErrorKind::PermissionDenied, "only root may ask it", false),
            (io::ErrorKind::WouldBlock, "it is busy", true),
        ] {
            let error = unreached_error(kind);
            assert!(error.to_string().contains(said), "{error}");
            assert!(error.to_string().contains("/nonexistent/x.sock"), "{error}");
            assert_eq!(error.is_passing(), passes, "{error}");
        }
        let denied = unreached_error(io::ErrorKind::PermissionDenied).to_string();
        assert!(!denied.contains("running?"), "{denied}");
    }

    #[test]
    fn a_path_of_something_else_is_said() {
        let path = path("file");
        fs::write(&path, "").unwrap();
        let error = Client::connect(&path).unwrap_err();
        assert!(error.to_string().contains("that path is not a socket"), "{error}");
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_time_out_is_called_one_and_is_not_tried_again() {
        let broken = |kind: io::ErrorKind| ClientError::Exchange { socket: "/x".into(), source: kind.into() };
        let late = broken(io::ErrorKind::WouldBlock);
        assert_eq!(late.to_string(), "the Cambric daemon on /x broke off: it gave no answer within 30 s");
        assert!(!late.is_passing());
        assert!(broken(io::ErrorKind::UnexpectedEof).is_passing());
    }
}
