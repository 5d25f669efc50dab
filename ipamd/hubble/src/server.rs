//! The thread that serves clients. It has a runtime of its own, so that neither many clients nor slow ones are felt elsewhere.

pub mod tls;

use std::{
    io,
    net::TcpListener as StdTcpListener,
    os::unix::net::UnixListener as StdUnixListener,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    thread::JoinHandle,
    time::Duration,
};

use ipamd_runtime::supervisor;
use nix::unistd::geteuid;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, UnixListener, UnixStream},
    runtime::Builder,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    service::Routes,
    transport::{Server as Transport, server::Connected},
};

use crate::{
    health::Health,
    observer::Observer,
    peers::PeerService,
    proto::{
        health::health_server::HealthServer, observer::observer_server::ObserverServer,
        peer::peer_server::PeerServer,
    },
};
use tls::Handshakes;

/// How many connections there may be by each listener. Who has not shown a certificate yet counts, too.
const CONNECTIONS: usize = 64;
/// How many requests one connection may have open.
const REQUESTS: u32 = 32;
/// How long a request may be: room for some filters with many values.
const REQUEST: usize = 256 * 1_024;
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How often it is asked whether a silent client is still there, and how long it may take to answer.
const ASK_EVERY: Duration = Duration::from_secs(30);
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// How long it is waited after an accept that failed: with no descriptor left, the next one fails as well.
const REST: Duration = Duration::from_millis(100);
/// How long answers under way are waited for at the end.
const FAREWELL: Duration = Duration::from_millis(50);

/// Where clients come from.
#[derive(Debug, Default)]
pub struct Listeners {
    /// A unix socket, of which only the daemon's own user and root are served.
    pub unix: Option<StdUnixListener>,
    /// A port of TCP, and the certificates that clients are shown and let in by.
    pub tls: Option<(StdTcpListener, Handshakes)>,
}

/// The running thread. It ends when this is dropped.
#[derive(Debug)]
pub struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves the clients of these listeners.
    ///
    /// # Errors
    /// Why that cannot be.
    pub fn start(listeners: Listeners, observer: Observer, peers: PeerService) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let (clients, arrived) = mpsc::channel(1);
        let entrance =
            || Entrance { clients: clients.clone(), places: Arc::new(Semaphore::new(CONNECTIONS)) };
        if let Some(listener) = listeners.unix {
            listener.set_nonblocking(true)?;
            let _guard = runtime.enter();
            runtime.spawn(entrance().serve_unix(UnixListener::from_std(listener)?));
        }
        if let Some((listener, handshakes)) = listeners.tls {
            listener.set_nonblocking(true)?;
            let _guard = runtime.enter();
            runtime.spawn(entrance().serve_tls(TcpListener::from_std(listener)?, handshakes));
        }
        drop(clients);
        let routes = Routes::new(ObserverServer::new(observer).max_decoding_message_size(REQUEST))
            .add_service(HealthServer::new(Health).max_decoding_message_size(REQUEST))
            .add_service(PeerServer::new(peers).max_decoding_message_size(REQUEST));
        let thread = supervisor::spawn("hubble", move || {
            runtime.block_on(async {
                tokio::spawn(supervisor::heart());
                tokio::select! {
                    () = serve(routes, arrived) => {}
                    _ = stopped => {}
                }
            });
            runtime.shutdown_timeout(FAREWELL);
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // One that has failed has ended the daemon.
            let _ = thread.join();
        }
    }
}

async fn serve(routes: Routes, arrived: mpsc::Receiver<io::Result<Client>>) {
    let served = Transport::builder()
        .max_concurrent_streams(REQUESTS)
        .http2_keepalive_interval(Some(ASK_EVERY))
        .http2_keepalive_timeout(Some(ANSWERS_WITHIN))
        .add_routes(routes)
        .serve_with_incoming(ReceiverStream::new(arrived))
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "Hubble's API is served no more");
    }
}

/// Lets clients in, as many as there is room for.
#[derive(Clone, Debug)]
struct Entrance {
    clients: mpsc::Sender<io::Result<Client>>,
    places: Arc<Semaphore>,
}

impl Entrance {
    async fn serve_unix(self, listener: UnixListener) {
        loop {
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) if is_admitted(&stream) => {
                    let client = Client { stream: Box::new(stream), _place: place };
                    if self.clients.send(Ok(client)).await.is_err() {
                        return;
                    }
                }
                Ok(_) => tracing::warn!(
                    "a client of Hubble's API was turned away: it is neither root's nor this daemon's user's"
                ),
                Err(error) => {
                    tracing::warn!(%error, "a client of Hubble's API cannot be let in");
                    tokio::time::sleep(REST).await;
                }
            }
        }
    }

    async fn serve_tls(self, listener: TcpListener, handshakes: Handshakes) {
        loop {
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, from)) => {
                    let (clients, handshake) = (self.clients.clone(), handshakes.acceptor().accept(stream));
                    tokio::spawn(async move {
                        match timeout(HANDSHAKE, handshake).await {
                            Ok(Ok(stream)) => {
                                // Nobody takes it at the daemon's end.
                                let _ = clients
                                    .send(Ok(Client { stream: Box::new(stream), _place: place }))
                                    .await;
                            }
                            Ok(Err(error)) => {
                                tracing::debug!(%from, %error, "a client of Hubble's API is not let in");
                            }
                            Err(_) => tracing::debug!(%from, "a client of Hubble's API says nothing"),
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a client of Hubble's API cannot be let in");
                    tokio::time::sleep(REST).await;
                }
            }
        }
    }
}

/// Whether the kernel says that the client is root's, or the daemon's own user's.
fn is_admitted(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == 0 || peer.uid() == geteuid().as_raw())
}

/// What a connection is read from and written to.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A client's connection, and its place.
struct Client {
    stream: Box<dyn Stream>,
    _place: OwnedSemaphorePermit,
}

impl Connected for Client {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Client {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Client {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
