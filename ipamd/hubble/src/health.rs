//! Whether a service is there: what `hubble status` and Hubble's relay ask first.

use std::pin::Pin;

use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use crate::proto::health::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_server,
};

/// The services by the names that clients ask for. The empty one stands for all.
const SERVICES: [&str; 5] =
    ["", "hubble.server.Observer", "observer.Observer", "hubble.server.Peer", "peer.Peer"];

/// Says that they are: while the thread runs, they do.
#[derive(Clone, Copy, Debug)]
pub struct Health;

fn status_of(service: &str) -> HealthCheckResponse {
    let is_served = SERVICES.contains(&service);
    let status = if is_served { ServingStatus::Serving } else { ServingStatus::ServiceUnknown };
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        match status_of(&service) {
            answer if answer.status() == ServingStatus::Serving => Ok(Response::new(answer)),
            _ => Err(Status::not_found(format!("{service:?} is not served here"))),
        }
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        // It does not change, and the stream does not end.
        let first = tokio_stream::once(Ok(status_of(&request.into_inner().service)));
        Ok(Response::new(Box::pin(first.chain(tokio_stream::pending()))))
    }
}
