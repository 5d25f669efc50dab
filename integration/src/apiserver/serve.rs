//! Connections: TLS, then HTTP/1.1 or HTTP/2.

use std::sync::Arc;

use hyper::{
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

use super::{
    answers,
    shared::Shared,
    tls::{Credentials, HTTP2},
};

/// Serves until it is told to stop; then all connections end at once.
pub(super) fn run(
    listener: std::net::TcpListener,
    shared: &Arc<Shared>,
    credentials: &Credentials,
    mut stopped: watch::Receiver<bool>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return };
    runtime.block_on(async {
        if listener.set_nonblocking(true).is_err() {
            return;
        }
        let Ok(listener) = TcpListener::from_std(listener) else { return };
        let mut connections = JoinSet::new();
        loop {
            let stream = tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(_) => continue,
                },
            };
            let (shared, acceptor) = (Arc::clone(shared), credentials.acceptor(shared.behaviour().http2));
            connections.spawn(async move {
                let _ = stream.set_nodelay(true);
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = service_fn(move |request| {
                    let shared = Arc::clone(&shared);
                    async move { answers::answer(&shared, request).await }
                });
                let http2 = stream.get_ref().1.alpn_protocol() == Some(HTTP2);
                let stream = TokioIo::new(stream);
                let _ = if http2 {
                    let mut builder = http2::Builder::new(TokioExecutor::new());
                    builder.timer(TokioTimer::new()).serve_connection(stream, service).await
                } else {
                    http1::Builder::new().timer(TokioTimer::new()).serve_connection(stream, service).await
                };
            });
            while connections.try_join_next().is_some() {}
        }
    });
}
