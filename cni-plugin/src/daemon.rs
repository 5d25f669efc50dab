//! The daemon as the plugin meets it: there, or away.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use ipamd_api::{AttachmentKey, Client, ClientError, ErrorKind, Reply, Request, files};

use crate::{error::CniError, text::cut};

/// The most of an answer that an error quotes, in bytes.
const MAX_QUOTE: usize = 200;
/// How long ADD and CHECK wait for a daemon that is being restarted or upgraded.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// How soon the daemon is asked again at first; then half as often each time, down to [`RARELY`].
const SOON: Duration = Duration::from_millis(25);
/// How rarely at most.
const RARELY: Duration = Duration::from_millis(400);

/// Time that passes, and never goes back.
pub trait Clock {
    /// How long ago it began.
    fn elapsed(&self) -> Duration;
    /// Lets so much of it pass.
    fn pause(&self, pause: Duration);
}

/// The machine's monotonic clock.
impl Clock for Instant {
    fn elapsed(&self) -> Duration {
        self.elapsed()
    }

    fn pause(&self, pause: Duration) {
        thread::sleep(pause);
    }
}

/// Has `ask` ask the daemon until it is answered, or refused for good, or `clock` says that [`PATIENCE`] is over. What it
/// asks must be such that a daemon that has answered, unheard, answers again.
pub fn patiently<T>(
    clock: &impl Clock,
    mut ask: impl FnMut() -> Result<T, ClientError>,
) -> Result<T, ClientError> {
    let mut pause = SOON;
    loop {
        match ask() {
            Err(error) if error.is_passing() && clock.elapsed() + pause <= PATIENCE => {
                tracing::debug!(%error, "asking the daemon again");
                clock.pause(pause);
                pause = (pause * 2).min(RARELY);
            }
            answer => return answer,
        }
    }
}

/// Where keys wait that were released while the daemon was away: it works them off when it is back.
pub fn released_path(socket: &Path, key: &AttachmentKey) -> PathBuf {
    files::released(socket).join(format!("{}.json", key.host_ifname()))
}

/// Leaves the key for the daemon to release.
pub fn leave_released(socket: &Path, key: &AttachmentKey) -> Result<(), CniError> {
    let path = released_path(socket, key);
    let write = || -> io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        // The daemon must never read half a key.
        let unfinished = path.with_extension(format!("{}.tmp", std::process::id()));
        fs::write(&unfinished, serde_json::to_vec(key)?)
            .and_then(|()| fs::rename(&unfinished, &path))
            .inspect_err(
                // On a full disk the empty file is there all the same, and each DEL would leave one more.
                |_| drop(fs::remove_file(&unfinished)),
            )
    };
    write().map_err(CniError::io(format!("leave {} for the daemon to release", path.display())))
}

/// Takes back what an earlier release left, because the attachment is made again.
pub fn forget_released(socket: &Path, key: &AttachmentKey) {
    // Mostly there is none; if it cannot be removed, neither could it be made.
    let _ = fs::remove_file(released_path(socket, key));
}

/// Has the daemon release the attachment. One that it does not know is released.
pub fn release(client: &mut Client, key: &AttachmentKey) -> Result<(), ClientError> {
    match client.call(Request::Release { key: key.clone() }) {
        Ok(Reply::Done) => Ok(()),
        Ok(other) => Err(unexpected(client, "a release", &other)),
        Err(ClientError::Refused(error)) if error.kind == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// The error for an answer that does not belong to the request.
pub fn unexpected(client: &Client, request: &str, reply: &Reply) -> ClientError {
    let mut detail = format!("to {request} it answered {reply:?}");
    cut(&mut detail, MAX_QUOTE);
    client.confused(detail)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use ipamd_api::ApiError;

    use super::*;

    /// A clock that stands still but for pauses.
    #[derive(Default)]
    struct Still(Cell<Duration>);

    impl Clock for Still {
        fn elapsed(&self) -> Duration {
            self.0.get()
        }

        fn pause(&self, pause: Duration) {
            self.0.set(self.0.get() + pause);
        }
    }

    fn away() -> ClientError {
        ClientError::Connect { socket: "/x".into(), source: io::ErrorKind::NotFound.into() }
    }

    fn refused(kind: ErrorKind) -> ClientError {
        ApiError::new(kind, "no").into()
    }

    #[test]
    fn a_daemon_that_comes_back_in_time_is_waited_for() {
        let clock = Still::default();
        let answer = patiently(&clock, || match clock.elapsed() {
            early if early < Duration::from_secs(3) => Err(away()),
            early if early < Duration::from_secs(9) => Err(refused(ErrorKind::TryAgainLater)),
            _ => Ok(7),
        });
        assert_eq!(answer.unwrap(), 7);
        assert!(clock.elapsed() < Duration::from_secs(10), "{:?}", clock.elapsed());
    }

    #[test]
    fn one_that_stays_away_is_given_up_after_ten_seconds() {
        let clock = Still::default();
        let mut asked = 0;
        let answer = patiently(&clock, || -> Result<(), _> {
            asked += 1;
            Err(away())
        });
        assert!(matches!(answer, Err(ClientError::Connect { .. })));
        let waited = clock.elapsed();
        assert!(waited > Duration::from_secs(9) && waited <= PATIENCE, "{waited:?}");
        assert!((20..40).contains(&asked), "it was asked {asked} times");
    }

    #[test]
    fn a_note_that_cannot_be_left_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("ipamd.sock");
        let key = AttachmentKey { network: "net".into(), container_id: "c".into(), ifname: "eth0".into() };
        // A note cannot take the place of a folder.
        let note = released_path(&socket, &key);
        fs::create_dir_all(&note).unwrap();
        assert!(leave_released(&socket, &key).is_err());
        let left: Vec<_> =
            fs::read_dir(note.parent().unwrap()).unwrap().map(|it| it.unwrap().path()).collect();
        assert_eq!(left, [note]);
    }

    #[test]
    fn what_is_refused_for_good_is_not_asked_again() {
        let clock = Still::default();
        let denied =
            ClientError::Connect { socket: "/x".into(), source: io::ErrorKind::PermissionDenied.into() };
        let mut final_ones = vec![refused(ErrorKind::PoolExhausted), refused(ErrorKind::Internal), denied];
        while let Some(error) = final_ones.pop() {
            let said = error.to_string();
            let mut once = Some(error);
            let answer = patiently(&clock, || -> Result<(), _> { Err(once.take().unwrap()) });
            assert_eq!(answer.unwrap_err().to_string(), said);
        }
        assert_eq!(clock.elapsed(), Duration::ZERO);
    }

    #[test]
    fn a_released_key_waits_beside_the_socket_until_it_is_taken_back() {
        let folder = std::env::temp_dir().join(format!("cambric-released-{}", std::process::id()));
        let socket = folder.join("run/ipamd.sock");
        let key = AttachmentKey { network: "net".into(), container_id: "c".into(), ifname: "eth0".into() };
        leave_released(&socket, &key).unwrap();
        leave_released(&socket, &key).unwrap();
        let path = folder.join("run/released").join(format!("{}.json", key.host_ifname()));
        assert_eq!(serde_json::from_slice::<AttachmentKey>(&fs::read(&path).unwrap()).unwrap(), key);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        forget_released(&socket, &key);
        assert!(!path.exists());
        fs::remove_dir_all(&folder).unwrap();
    }
}
