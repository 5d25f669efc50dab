//! Plain HTTP for probes and scrapes: one answer a connection, so many connections and so long.

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};

/// What a request's head may have, in bytes.
const HEAD: usize = 16 * 1024;
/// How long is waited after a connection could not be accepted: files may have run out.
const BREATH: Duration = Duration::from_millis(100);

/// What an answer is.
pub type Answer = Response<Full<Bytes>>;

/// How much clients may ask for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many are served at a time. One more ends the one that has been there longest and has asked nothing yet. Where all
    /// have asked, it is turned away: nobody is cut off who is being answered.
    pub connections: usize,
    /// How long each may stay.
    pub stay: Duration,
}

/// Answers requests until it is dropped, and its connections with it.
pub async fn serve<F>(
    listener: TcpListener,
    limits: Limits,
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
) where
    F: Future<Output = Answer> + Send + 'static,
{
    let mut open = Open::default();
    let mut failing = false;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                failing = false;
                open.add(limits, stream, answer.clone());
            }
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, at = ?listener.local_addr(), "cannot accept a connection; trying again");
                }
                tokio::time::sleep(BREATH).await;
            }
        }
    }
}

/// The connections, the oldest first.
#[derive(Debug, Default)]
struct Open {
    tasks: JoinSet<()>,
    order: VecDeque<Client>,
}

/// A connection, and whether anything was asked on it.
#[derive(Debug)]
struct Client {
    task: AbortHandle,
    has_asked: Arc<AtomicBool>,
}

impl Open {
    fn add<F>(
        &mut self,
        limits: Limits,
        stream: TcpStream,
        answer: impl Fn(Request<Incoming>) -> F + Send + 'static,
    ) where
        F: Future<Output = Answer> + Send + 'static,
    {
        while self.tasks.try_join_next().is_some() {}
        self.order.retain(|client| !client.task.is_finished());
        if self.order.len() >= limits.connections {
            let idle = self.order.iter().position(|client| !client.has_asked.load(Ordering::Relaxed));
            let Some(idle) = idle.and_then(|at| self.order.remove(at)) else { return };
            idle.task.abort();
        }
        let has_asked = Arc::new(AtomicBool::new(false));
        let task = self.tasks.spawn(connection(stream, limits.stay, Arc::clone(&has_asked), answer));
        self.order.push_back(Client { task, has_asked });
    }
}

async fn connection<F>(
    stream: TcpStream,
    stay: Duration,
    has_asked: Arc<AtomicBool>,
    answer: impl Fn(Request<Incoming>) -> F + Send,
) where
    F: Future<Output = Answer> + Send,
{
    let answer = service_fn(move |request| {
        has_asked.store(true, Ordering::Relaxed);
        let answer = answer(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(HEAD)
        .serve_connection(TokioIo::new(stream), answer);
    // A client that breaks off or stays too long has had its chance.
    let _ = tokio::time::timeout(stay, connection).await;
}
