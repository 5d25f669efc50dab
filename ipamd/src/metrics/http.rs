//! `GET /metrics`, `GET /healthz` and `GET /readyz`.
//!
//! *Alive* (`/healthz`): no thread of the daemon hangs. A daemon that waits for the API server is alive. *Ready*
//! (`/readyz`): the daemon serves ADD. Both answer at once, whatever is under way.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ACCEPT, CONTENT_TYPE, HeaderValue},
};
use tokio::{net::TcpListener, sync::Semaphore};

use super::{registry::Metrics, text_format};
use crate::{node::Node, startup_reason::StartupReason};
use ipamd_runtime::{
    http::{self, Answer, Limits},
    supervisor,
};

/// For Prometheus, which scrapes within 10 seconds, probes, and a curious person.
const LIMITS: Limits = Limits { connections: 16, stay: Duration::from_secs(15) };
/// How many scrapes are answered at a time.
const SCRAPES: usize = 4;

const PLAIN: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What is answered from: before there is a node, what the daemon waits for.
#[derive(Debug)]
pub struct Served {
    waiting: Arc<StartupReason>,
    node: OnceLock<(Arc<Metrics>, Arc<Node>)>,
    stopping: AtomicBool,
}

impl Served {
    /// Nothing is served yet.
    pub fn new(waiting: Arc<StartupReason>) -> Self {
        Self { waiting, node: OnceLock::new(), stopping: AtomicBool::new(false) }
    }

    /// The node is served from here on.
    pub fn open(&self, metrics: Arc<Metrics>, node: Arc<Node>) {
        // There is one node.
        let _ = self.node.set((metrics, node));
    }

    /// And not any more.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Why no ADD is served now, a sentence; `None`: it is.
    fn unready(&self) -> Option<String> {
        match self.node.get() {
            _ if self.stopping.load(Ordering::Relaxed) => Some("the daemon stops".to_owned()),
            None => Some(self.waiting.missing()),
            Some((_, node)) => node.unready(),
        }
    }
}

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, served: Arc<Served>) {
    // A scrape that has begun goes on when its client is gone.
    let scraping = Arc::new(Semaphore::new(SCRAPES));
    let answer = move |request: Request<Incoming>| {
        let (served, scraping) = (Arc::clone(&served), Arc::clone(&scraping));
        async move { answer(&request, &served, scraping).await }
    };
    http::serve(listener, LIMITS, answer).await;
}

async fn answer(request: &Request<Incoming>, served: &Served, scraping: Arc<Semaphore>) -> Answer {
    // The head of an answer to HEAD is that of GET, and hyper leaves out the body.
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are served".to_owned());
    }
    match request.uri().path() {
        "/healthz" => healthz(),
        "/readyz" => match served.unready() {
            None => text(StatusCode::OK, "ok".to_owned()),
            Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, why),
        },
        "/metrics" => match served.node.get() {
            None => text(StatusCode::SERVICE_UNAVAILABLE, served.waiting.missing()),
            Some((metrics, node)) => {
                let format = Format::accepted(request);
                scrape(Arc::clone(metrics), Arc::clone(node), scraping, format).await
            }
        },
        _ => text(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz".to_owned()),
    }
}

fn healthz() -> Answer {
    // A thread that is late ends the daemon; this is for the last second before that, and for who watches it come.
    let late = supervisor::busy().into_iter().find(|it| it.busy_seconds > it.deadline_seconds);
    match late {
        None => text(StatusCode::OK, "ok".to_owned()),
        Some(it) => {
            let why = format!("{} has not got on for {} s", it.name, it.busy_seconds);
            text(StatusCode::INTERNAL_SERVER_ERROR, why)
        }
    }
}

/// How metrics are written.
#[derive(Clone, Copy, Debug)]
enum Format {
    OpenMetrics,
    Text,
}

impl Format {
    /// Who does not say that it reads OpenMetrics gets what everybody reads.
    fn accepted(request: &Request<Incoming>) -> Self {
        let mut accepted = request.headers().get_all(ACCEPT).iter().filter_map(|it| it.to_str().ok());
        if accepted.any(|it| it.contains("application/openmetrics-text")) {
            Self::OpenMetrics
        } else {
            Self::Text
        }
    }
}

async fn scrape(metrics: Arc<Metrics>, node: Arc<Node>, scraping: Arc<Semaphore>, format: Format) -> Answer {
    let Ok(turn) = scraping.acquire_owned().await else { return Response::default() };
    // Reading the programs' counters takes a while.
    let rendered = tokio::task::spawn_blocking(move || {
        let rendered = metrics.render(&node);
        drop(turn);
        rendered
    });
    let rendered = rendered.await.unwrap_or_default();
    match format {
        Format::OpenMetrics => response(StatusCode::OK, OPEN_METRICS, rendered),
        Format::Text => response(StatusCode::OK, TEXT_FORMAT, text_format::of(&rendered)),
    }
}

fn text(status: StatusCode, line: String) -> Answer {
    response(status, PLAIN, line + "\n")
}

fn response(status: StatusCode, kind: &'static str, body: String) -> Answer {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
