//! Answers on their way: as JSON, compressed or not.

use std::{
    io::{self, Write},
    sync::atomic::Ordering,
    time::Duration,
};

use flate2::{Compression, write::GzEncoder};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    Response, StatusCode,
    body::{Bytes, Frame},
    header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER},
};
use serde_json::{Value, json};
use tokio::sync::mpsc::Receiver;

use super::{behaviour::Compresses, shared::Shared};

pub(super) type Body = BoxBody<Bytes, io::Error>;

/// A real server compresses what is not smaller than this.
const LARGE: usize = 128 << 10;

pub(super) fn status(code: u16, reason: &str, message: &str) -> Response<Body> {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": reason,
        "message": message, "code": code,
    });
    whole(code, &status)
}

pub(super) fn whole(code: u16, value: &Value) -> Response<Body> {
    said(code, value.to_string().into())
}

pub(super) fn said(code: u16, text: Bytes) -> Response<Body> {
    response(code, Full::new(text).map_err(|never| match never {}).boxed())
}

/// How long a busy server wants to be left alone.
pub(super) const BUSY: Duration = Duration::from_secs(1);

/// The refusal of a server that is busy, as real ones word it.
pub(super) fn busy() -> Response<Body> {
    let mut response = said(429, "Too many requests, please try again later.\n".into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(RETRY_AFTER, BUSY.as_secs().into());
    response
}

/// A list, compressed for whoever wants that if it is large.
pub(super) fn list(shared: &Shared, text: Bytes, wants_gzip: bool) -> Response<Body> {
    let compresses = match shared.behaviour().compresses {
        Compresses::Large => wants_gzip && text.len() >= LARGE,
        Compresses::All => true,
    };
    if !compresses {
        return said(200, text);
    }
    shared.compressed.fetch_add(1, Ordering::Relaxed);
    encoded(said(200, gzip(&text)))
}

/// A watch of which the events come by and by; compressed, each is a gzip of its own.
pub(super) fn stream(shared: &Shared, mut pieces: Receiver<Bytes>) -> Response<Body> {
    let compresses = shared.behaviour().compresses == Compresses::All;
    let stream = futures_util::stream::poll_fn(move |context| {
        let packed = |bytes: Bytes| if compresses { gzip(&bytes) } else { bytes };
        pieces.poll_recv(context).map(|piece| piece.map(|bytes| Ok(Frame::data(packed(bytes)))))
    });
    let response = response(200, BodyExt::boxed(StreamBody::new(stream)));
    if !compresses {
        return response;
    }
    shared.compressed.fetch_add(1, Ordering::Relaxed);
    encoded(response)
}

fn encoded(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    response
}

fn gzip(text: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    // Memory takes everything.
    let _ = encoder.write_all(text);
    encoder.finish().unwrap_or_default().into()
}

fn response(code: u16, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}
