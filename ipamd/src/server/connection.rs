//! One client: its requests, one after the other.

use std::{io, time::Duration};

use ipamd_api::{ApiError, ErrorKind, PROTOCOL_VERSION, Reply, Request, frame, wire::Envelope};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{
    io::AsyncReadExt,
    net::{UnixStream, unix::ReadHalf},
    sync::watch,
    time::timeout,
};

use super::{idle_connections::IdleConnections, limits::Limits, replies::Replies, service::Service};

/// What comes next from a client.
enum Next {
    Request(Box<Request>),
    /// The client gets an error and may continue.
    Misunderstood(ApiError),
    /// The client gets an error, but the rest of the stream is lost.
    Unreadable(ApiError),
}

pub(super) async fn serve<S: Service>(
    mut stream: UnixStream,
    service: &S,
    limits: Limits,
    idle: &IdleConnections,
    mut stop: watch::Receiver<bool>,
) {
    let user = stream.peer_cred().map(|credentials| credentials.uid());
    let (mut requests, replies) = stream.split();
    let mut replies = Replies::new(replies, limits);
    if !matches!(user, Ok(user) if user == limits.user) {
        let who = user.map_or_else(
            |error| format!("a client of unknown user ({error})"),
            |user| format!("user {user}"),
        );
        let refused = ApiError::new(
            ErrorKind::InvalidRequest,
            format!("{who} may not talk to the Cambric daemon, only root may"),
        );
        let _ = replies.send(&Reply::Error(refused)).await;
        return;
    }
    let mut session = S::Session::default();
    loop {
        let silence = if service.is_under_way(&session) { limits.under_way } else { limits.idle };
        let next = tokio::select! {
            biased;
            next = receive(&mut requests, limits, silence, idle) => next,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let outcome = match next {
            // It has gone, or is too slow.
            Err(error) => Err(error),
            Ok(Next::Request(request)) => service.answer(*request, &mut session, &mut replies).await,
            Ok(Next::Misunderstood(error)) => {
                service.misunderstood();
                replies.send(&Reply::Error(error)).await
            }
            Ok(Next::Unreadable(error)) => {
                service.misunderstood();
                let _ = replies.send(&Reply::Error(error)).await;
                return;
            }
        };
        if let Err(error) = outcome {
            if has_gone(&error) {
                service.gone(&mut session).await;
            }
            return;
        }
    }
}

/// Whether the client has closed its end, and is not merely slow.
fn has_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | BrokenPipe | ConnectionReset)
}

async fn receive(
    stream: &mut ReadHalf<'_>,
    limits: Limits,
    silence: Duration,
    idle: &IdleConnections,
) -> io::Result<Next> {
    let mut prefix = [0; 4];
    // Silence is fine for a while, between requests, unless somebody else needs the place.
    {
        let place = idle.add();
        tokio::select! {
            biased;
            begun = timeout(silence, stream.read_exact(&mut prefix[..1])) => drop(begun??),
            () = place.closed() => return Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }
    timeout(limits.transfer, async {
        stream.read_exact(&mut prefix[1..]).await?;
        let length = match frame::decode_length(prefix) {
            Ok(length) => length,
            Err(error) => {
                return Ok(Next::Unreadable(ApiError::new(ErrorKind::InvalidRequest, error.to_string())));
            }
        };
        // Memory is taken as bytes arrive, not as they are announced.
        let mut body = Vec::new();
        stream.take(length as u64).read_to_end(&mut body).await?;
        if body.len() < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(match parse(&body) {
            Ok(request) => Next::Request(Box::new(request)),
            Err(error) => Next::Misunderstood(error),
        })
    })
    .await?
}

/// Reads a request; the version first, for the rest may make sense to another version only.
pub(super) fn parse(body: &[u8]) -> Result<Request, ApiError> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let malformed = |error: serde_json::Error| {
        ApiError::new(ErrorKind::InvalidRequest, format!("the request is malformed: {error}"))
    };
    let Version { version } = serde_json::from_slice(body).map_err(malformed)?;
    if version != PROTOCOL_VERSION {
        return Err(ApiError::new(
            ErrorKind::UnsupportedVersion,
            format!(
                "the client speaks version {version} of the protocol, this daemon version {PROTOCOL_VERSION}; \
                 install both from one release"
            ),
        ));
    }
    let envelope: Envelope<&RawValue> = serde_json::from_slice(body).map_err(malformed)?;
    serde_json::from_str(envelope.request.get()).map_err(|error| {
        ApiError::new(ErrorKind::InvalidRequest, format!("the request is not known or malformed: {error}"))
    })
}
