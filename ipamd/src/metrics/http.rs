//! `GET /metrics` and `GET /healthz`.

use std::{sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::CONTENT_TYPE,
};
use tokio::{net::TcpListener, sync::Semaphore};

use super::Metrics;
use crate::{
    http::{self, Answer, Limits},
    node::Node,
};

/// For Prometheus, which scrapes within 10 seconds, a probe, and a curious person.
const LIMITS: Limits = Limits { connections: 8, stay: Duration::from_secs(15) };

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, metrics: Arc<Metrics>, node: Arc<Node>) {
    // An answer that has begun goes on when its client is gone.
    let answering = Arc::new(Semaphore::new(LIMITS.connections));
    let answer = move |request: Request<Incoming>| {
        let (metrics, node) = (Arc::clone(&metrics), Arc::clone(&node));
        let answering = Arc::clone(&answering);
        async move {
            let Ok(turn) = answering.acquire_owned().await else { return Response::default() };
            // The node may have to wait for a change of policies under way.
            let answer = tokio::task::spawn_blocking(move || {
                let answer = answer(&request, &metrics, &node);
                drop(turn);
                answer
            });
            answer.await.unwrap_or_default()
        }
    };
    http::serve(listener, LIMITS, answer).await;
}

fn answer(request: &Request<Incoming>, metrics: &Metrics, node: &Node) -> Answer {
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
