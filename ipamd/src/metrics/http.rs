//! `GET /metrics` and `GET /healthz`, over plain HTTP.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::CONTENT_TYPE,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, sync::Semaphore};

use super::Metrics;
use crate::node::Node;

/// How many clients are served at a time: Prometheus, a probe, a curious person.
const CONNECTIONS: usize = 8;
/// How long a client may stay. Prometheus scrapes within 10 seconds.
const STAY: Duration = Duration::from_secs(15);

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, metrics: Arc<Metrics>, node: Arc<Node>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection for metrics");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (metrics, node) = (Arc::clone(&metrics), Arc::clone(&node));
        tokio::spawn(async move {
            let answer = service_fn(|request: Request<Incoming>| {
                let (metrics, node) = (Arc::clone(&metrics), Arc::clone(&node));
                // The node may have to wait for a change of policies under way.
                let answer = tokio::task::spawn_blocking(move || answer(&request, &metrics, &node));
                async { Ok::<_, Infallible>(answer.await.unwrap_or_default()) }
            });
            let connection =
                http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), answer);
            // A client that breaks off or stays too long has had its chance.
            let _ = tokio::time::timeout(STAY, connection).await;
            drop(slot);
        });
    }
}

fn answer(request: &Request<Incoming>, metrics: &Metrics, node: &Node) -> Response<Full<Bytes>> {
    let (status, kind, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => (
            StatusCode::OK,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            metrics.render(node),
        ),
        (&Method::GET, "/healthz") => {
            let status = node.status();
            let code = if status.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            let body = if status.ready { "ok\n".to_owned() } else { status.problems.join("\n") + "\n" };
            (code, "text/plain; charset=utf-8", body)
        }
        (&Method::GET, _) => {
            (StatusCode::NOT_FOUND, "text/plain", "there are /metrics and /healthz\n".to_owned())
        }
        _ => (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET is served\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}
