//! What clients ask of a node, answered from the ring.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::{
    cluster_name::CLUSTER,
    filter::Filters,
    flow::timestamp,
    proto::{
        flow::{LostEvent, LostEventSource},
        observer::{
            GetAgentEventsRequest, GetAgentEventsResponse, GetDebugEventsRequest, GetDebugEventsResponse,
            GetFlowsRequest, GetFlowsResponse, GetNamespacesRequest, GetNamespacesResponse, GetNodesRequest,
            GetNodesResponse, Namespace, Node, ServerStatusRequest, ServerStatusResponse,
            get_flows_response::ResponseTypes, observer_server,
        },
        relay::NodeState,
    },
    ring::{Entry, Ring},
    select::Query,
};

/// How many requests for flows are answered at one time, by all clients together.
const STREAMS: usize = 64;
/// How many flows wait for a client that reads slowly. The others wait in the ring.
const WAITING: usize = 64;
/// How many entries of the ring are looked at before others have their turn.
const TOGETHER: usize = 128;

/// This node, as clients are told of it.
#[derive(Clone, Debug)]
pub struct ThisNode {
    /// Its name.
    pub name: String,
    /// The daemon's version.
    pub version: String,
}

/// Answers clients.
#[derive(Clone, Debug)]
pub struct Observer {
    ring: Arc<Ring>,
    node: Arc<ThisNode>,
    started: Instant,
    streams: Arc<Semaphore>,
}

impl Observer {
    /// Answers from that ring.
    pub fn new(ring: Arc<Ring>, node: ThisNode) -> Self {
        let streams = Arc::new(Semaphore::new(STREAMS));
        Self { ring, node: Arc::new(node), started: Instant::now(), streams }
    }

    fn uptime(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Microseconds since the Unix epoch.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

type Answers<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl observer_server::Observer for Observer {
    type GetFlowsStream = Answers<GetFlowsResponse>;
    type GetAgentEventsStream = Answers<GetAgentEventsResponse>;
    type GetDebugEventsStream = Answers<GetDebugEventsResponse>;

    async fn get_flows(
        &self,
        request: Request<GetFlowsRequest>,
    ) -> Result<Response<Self::GetFlowsStream>, Status> {
        let request = request.into_inner();
        let query = Query::read(&request).map_err(Status::invalid_argument)?;
        let filters =
            Filters::read(&request.whitelist, &request.blacklist).map_err(Status::invalid_argument)?;
        let busy =
            || Status::resource_exhausted(format!("{STREAMS} requests for flows are being answered already"));
        let permit = Arc::clone(&self.streams).try_acquire_owned().map_err(|_| busy())?;
        let (answers, received) = mpsc::channel(WAITING);
        let reader =
            Reader { ring: Arc::clone(&self.ring), node: Arc::clone(&self.node), query, filters, answers };
        tokio::spawn(reader.answer(permit));
        Ok(Response::new(ReceiverStream::new(received)))
    }

    async fn get_agent_events(
        &self,
        _: Request<GetAgentEventsRequest>,
    ) -> Result<Response<Self::GetAgentEventsStream>, Status> {
        Err(Status::unimplemented("this node tells flows only, and no events of its agent"))
    }

    async fn get_debug_events(
        &self,
        _: Request<GetDebugEventsRequest>,
    ) -> Result<Response<Self::GetDebugEventsStream>, Status> {
        Err(Status::unimplemented("this node tells flows only, and no events for debugging"))
    }

    async fn get_nodes(&self, _: Request<GetNodesRequest>) -> Result<Response<GetNodesResponse>, Status> {
        let amount = self.ring.amount(now());
        let node = Node {
            name: self.node.name.clone(),
            version: self.node.version.clone(),
            state: NodeState::NodeConnected.into(),
            uptime_ns: self.uptime(),
            num_flows: amount.flows,
            max_flows: amount.room,
            seen_flows: amount.seen,
            ..Node::default()
        };
        Ok(Response::new(GetNodesResponse { nodes: vec![node] }))
    }

    async fn get_namespaces(
        &self,
        _: Request<GetNamespacesRequest>,
    ) -> Result<Response<GetNamespacesResponse>, Status> {
        let named = |namespace| Namespace { cluster: CLUSTER.to_owned(), namespace };
        let namespaces = self.ring.namespaces(now()).into_iter().map(named).collect();
        Ok(Response::new(GetNamespacesResponse { namespaces }))
    }

    async fn server_status(
        &self,
        _: Request<ServerStatusRequest>,
    ) -> Result<Response<ServerStatusResponse>, Status> {
        let amount = self.ring.amount(now());
        Ok(Response::new(ServerStatusResponse {
            num_flows: amount.flows,
            max_flows: amount.room,
            seen_flows: amount.seen,
            uptime_ns: self.uptime(),
            num_connected_nodes: Some(1),
            num_unavailable_nodes: Some(0),
            unavailable_nodes: Vec::new(),
            version: self.node.version.clone(),
            flows_rate: amount.rate,
        }))
    }
}

/// Answers one request for flows.
struct Reader {
    ring: Arc<Ring>,
    node: Arc<ThisNode>,
    query: Query,
    filters: Filters,
    answers: mpsc::Sender<Result<GetFlowsResponse, Status>>,
}

/// The client has left.
struct Left;

impl Reader {
    async fn answer(self, _permit: OwnedSemaphorePermit) {
        let answers = self.answers.clone();
        tokio::select! {
            () = answers.closed() => {}
            // Whether the client has left or has got all, nothing remains to be done.
            _ = self.send_all() => {}
        }
    }

    async fn send_all(&self) -> Result<(), Left> {
        // Before the ring is read, so that nothing that comes in between is missed.
        let mut grown = self.ring.grown();
        let mut next = self.send_past().await?;
        while self.query.follow && !self.is_over() {
            grown.mark_unchanged();
            let batch = self.ring.from(next, TOGETHER);
            next = batch.next;
            if batch.missed > 0 {
                self.send_lost(LostEventSource::HubbleRingBuffer, batch.missed, now()).await?;
            }
            if batch.entries.is_empty() {
                tokio::select! {
                    changed = grown.changed() => changed.map_err(|_| Left)?,
                    () = self.end() => {}
                }
                continue;
            }
            for entry in batch.entries {
                let is_wanted = match &entry {
                    Entry::Flow(flow) => {
                        self.query.spans(crate::ring::micros(flow)) && self.filters.admits(flow)
                    }
                    Entry::Lost { .. } => true,
                };
                if is_wanted {
                    self.send(entry).await?;
                }
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Sends what is there, and returns the number of what comes next. Only the numbers are kept meanwhile: a client that does not read
    /// holds none of the flows.
    async fn send_past(&self) -> Result<u64, Left> {
        let (entries, next) = self.ring.all();
        let first = next - entries.len() as u64;
        let past = self.query.past(&entries, &self.filters);
        drop(entries);
        let mut missed = 0;
        for place in past {
            match self.ring.get(first + place as u64) {
                Some(entry) => self.send(entry).await?,
                None => missed += 1,
            }
        }
        if missed > 0 {
            self.send_lost(LostEventSource::HubbleRingBuffer, missed, now()).await?;
        }
        Ok(next)
    }

    fn is_over(&self) -> bool {
        self.query.until.is_some_and(|until| until < now())
    }

    /// Waits until nothing that comes is wanted any more.
    async fn end(&self) {
        match self.query.until {
            Some(until) => {
                tokio::time::sleep(Duration::from_micros(until.saturating_sub(now()) + 1)).await;
            }
            None => std::future::pending().await,
        }
    }

    async fn send(&self, entry: Entry) -> Result<(), Left> {
        match entry {
            Entry::Flow(flow) => {
                let time = flow.time;
                self.send_response(ResponseTypes::Flow(Arc::unwrap_or_clone(flow)), time).await
            }
            Entry::Lost { events, time } => {
                self.send_lost(LostEventSource::PerfEventRingBuffer, events, time).await
            }
        }
    }

    async fn send_lost(&self, source: LostEventSource, events: u64, time: u64) -> Result<(), Left> {
        let time = Some(timestamp(time));
        let lost =
            LostEvent { source: source.into(), num_events_lost: events, cpu: None, first: time, last: time };
        self.send_response(ResponseTypes::LostEvents(lost), time).await
    }

    async fn send_response(
        &self,
        response: ResponseTypes,
        time: Option<prost_types::Timestamp>,
    ) -> Result<(), Left> {
        let response =
            GetFlowsResponse { response_types: Some(response), node_name: self.node.name.clone(), time };
        self.answers.send(Ok(response)).await.map_err(|_| Left)
    }
}
