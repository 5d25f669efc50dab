use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use ipamd_api::{
    Client, ClientError, ErrorKind, Reply, Request, frame,
    wire::{ConntrackFilter, ConntrackPage},
};
use ipamd_waiting::{eventually, time_passes_async};
use tokio::sync::watch;

use super::{serve::CONNECTIONS, *};

/// Answers `Pools` after a while, `Endpoints` at once, `Conntrack` by three frames.
#[derive(Default)]
struct Echo {
    /// `Pools` was asked for.
    is_asked: Arc<AtomicBool>,
}

impl Service for Echo {
    type Session = ();

    async fn answer(&self, request: Request, (): &mut (), replies: &mut Replies<'_>) -> io::Result<()> {
        match request {
            Request::Pools => {
                self.is_asked.store(true, Ordering::Relaxed);
                time_passes_async(Duration::from_millis(200), "the test goes on meanwhile").await;
                replies.send(&Reply::Pools(vec![])).await
            }
            Request::Conntrack(_) => {
                for last in [false, false, true] {
                    replies.send(&Reply::Conntrack(ConntrackPage { connections: vec![], last })).await?;
                }
                Ok(())
            }
            Request::Endpoints => replies.send(&Reply::Endpoints(vec![])).await,
            _ => replies.send(&Reply::Done).await,
        }
    }
}

struct Running {
    socket: PathBuf,
    is_asked: Arc<AtomicBool>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

impl Running {
    fn start(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("run/ipamd.sock");
        let (stop, stopped) = watch::channel(false);
        let (ready, is_ready) = std::sync::mpsc::channel();
        let at = socket.clone();
        let is_asked = Arc::<AtomicBool>::default();
        let echo = Echo { is_asked: Arc::clone(&is_asked) };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (listener, _file) = listen(&at).unwrap();
                ready.send(()).unwrap();
                serve(listener, Arc::new(echo), limits, stopped).await;
            });
        });
        is_ready.recv().unwrap();
        Self { socket, is_asked, stop, thread: Some(thread), _dir: dir }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A test may have stopped it already.
        self.stop.send_replace(true);
        self.thread.take().unwrap().join().unwrap();
        assert!(!self.socket.exists(), "the socket is left behind");
    }
}

fn limits() -> Limits {
    Limits { user: nix::unistd::getuid().as_raw(), ..Limits::default() }
}

fn reply(stream: &UnixStream) -> Reply {
    serde_json::from_slice(&frame::read(stream).unwrap()).unwrap()
}

fn refusal(stream: &UnixStream) -> (ErrorKind, String) {
    match reply(stream) {
        Reply::Error(error) => (error.kind, error.message),
        other => panic!("{other:?}"),
    }
}

fn closed(mut stream: &UnixStream) -> bool {
    matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_))
}

#[test]
fn requests_of_one_connection_are_answered_in_order() {
    let server = Running::start(limits());
    let stream = server.connect();
    let mut pipelined = Vec::new();
    for request in [r#"{"version":1,"request":"pools"}"#, r#"{"version":1,"request":"endpoints"}"#] {
        pipelined.extend(frame::encode(request.as_bytes()).unwrap());
    }
    (&stream).write_all(&pipelined).unwrap();
    assert_eq!(reply(&stream), Reply::Pools(vec![]));
    assert_eq!(reply(&stream), Reply::Endpoints(vec![]));
}

#[test]
fn an_answer_may_have_several_parts() {
    let server = Running::start(limits());
    let mut client = Client::connect(&server.socket).unwrap();
    client.send(Request::Conntrack(ConntrackFilter::default())).unwrap();
    let lasts = [(); 3].map(|()| match client.receive().unwrap() {
        Reply::Conntrack(page) => page.last,
        other => panic!("{other:?}"),
    });
    assert_eq!(lasts, [false, false, true]);
    assert_eq!(client.call(Request::Endpoints).unwrap(), Reply::Endpoints(vec![]));
}

#[test]
fn what_cannot_be_understood_is_said_and_the_connection_goes_on() {
    let server = Running::start(limits());
    let stream = server.connect();
    for (body, kind, said) in [
        ("{", ErrorKind::InvalidRequest, "malformed"),
        ("[]", ErrorKind::InvalidRequest, "malformed"),
        ("", ErrorKind::InvalidRequest, "malformed"),
        (r#"{"request":"status"}"#, ErrorKind::InvalidRequest, "version"),
        (r#"{"version":2,"request":{"from":"the future"}}"#, ErrorKind::UnsupportedVersion, "version 2"),
        (r#"{"version":1,"request":"fly"}"#, ErrorKind::InvalidRequest, "fly"),
        (r#"{"version":1,"request":{"release":{}}}"#, ErrorKind::InvalidRequest, "key"),
    ] {
        frame::write(&stream, body.as_bytes()).unwrap();
        let (got, message) = refusal(&stream);
        assert_eq!(got, kind, "{body}");
        assert!(message.contains(said), "{body}: {message}");
    }
    let more = r#"{"version":1,"request":"endpoints","new":"field"}"#;
    frame::write(&stream, more.as_bytes()).unwrap();
    assert_eq!(reply(&stream), Reply::Endpoints(vec![]));
}

#[test]
fn a_frame_beyond_the_limit_ends_the_connection() {
    let server = Running::start(limits());
    let stream = server.connect();
    (&stream).write_all(&u32::MAX.to_be_bytes()).unwrap();
    assert_eq!(refusal(&stream).0, ErrorKind::InvalidRequest);
    assert!(closed(&stream));
}

#[test]
fn slow_and_silent_clients_are_dropped_and_hold_up_nobody() {
    let short = Duration::from_millis(300);
    let server = Running::start(Limits { idle: short, transfer: short, ..limits() });
    let silent = server.connect();
    let slow = server.connect();
    (&slow).write_all(&[0, 0, 0, 9, b'{']).unwrap();
    let crowd = (0..100).map(|_| server.connect()).collect::<Vec<_>>();
    let mut client = Client::connect(&server.socket).unwrap();
    assert_eq!(client.call(Request::Endpoints).unwrap(), Reply::Endpoints(vec![]));
    assert!(closed(&silent) && closed(&slow));
    assert!(crowd.iter().all(closed));
}

#[test]
fn a_crowd_that_asks_for_nothing_keeps_nobody_waiting() {
    let patient = Duration::from_mins(10);
    let server = Running::start(Limits { idle: patient, under_way: patient, ..limits() });
    let crowd = (0..CONNECTIONS).map(|_| server.connect()).collect::<Vec<_>>();
    // Who has asked last is idle for less long than the others.
    let last = crowd.last().unwrap();
    frame::write(last, br#"{"version":1,"request":"endpoints"}"#).unwrap();
    assert_eq!(reply(last), Reply::Endpoints(vec![]));
    let began = std::time::Instant::now();
    for _ in 0..10 {
        let mut client = Client::connect(&server.socket).unwrap();
        assert_eq!(client.call(Request::Endpoints).unwrap(), Reply::Endpoints(vec![]));
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(closed(&crowd[0]), "the oldest goes first");
    frame::write(last, br#"{"version":1,"request":"endpoints"}"#).unwrap();
    assert_eq!(reply(last), Reply::Endpoints(vec![]), "the others stay");
}

#[test]
fn other_users_are_turned_away_with_a_reason() {
    let server = Running::start(Limits { user: u32::MAX - 1, ..Limits::default() });
    let mut client = Client::connect(&server.socket).unwrap();
    match client.receive() {
        Err(ClientError::Refused(error)) => assert!(error.message.contains("only root"), "{error}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_request_that_is_being_answered_is_answered_before_the_end() {
    let server = Running::start(limits());
    let stream = server.connect();
    frame::write(&stream, br#"{"version":1,"request":"pools"}"#).unwrap();
    assert!(eventually(Duration::from_secs(5), || server.is_asked.load(Ordering::Relaxed)));
    server.stop.send(true).unwrap();
    assert_eq!(reply(&stream), Reply::Pools(vec![]));
    assert!(closed(&stream));
}

#[tokio::test]
async fn a_socket_is_taken_over_only_if_nobody_answers() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    // Abandoned by a daemon that was killed.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let (first, file) = listen(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(listen(&path), Err(ListenError::Taken { .. })));
    drop((first, file));
    assert!(!path.exists());
    std::fs::write(&path, "a letter").unwrap();
    assert!(matches!(listen(&path), Err(ListenError::NotASocket { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), b"a letter");
}
