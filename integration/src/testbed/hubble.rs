//! A client of Hubble's API, other than the program `hubble`: it shows every field.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use hyper_util::rt::TokioIo;
use ipamd_hubble::proto::{
    flow::{Flow, FlowFilter},
    observer::{
        GetFlowsRequest, GetFlowsResponse, GetNamespacesRequest, GetNodesRequest, GetNodesResponse,
        ServerStatusRequest, ServerStatusResponse, get_flows_response::ResponseTypes,
        observer_client::ObserverClient,
    },
    peer::{NotifyRequest, peer_client::PeerClient},
};
use tokio::{
    net::{TcpStream, UnixStream},
    runtime::{Builder, Runtime},
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{ClientConfig, pki_types::ServerName},
};
use tokio_stream::StreamExt as _;
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint},
};

use super::machine::Machine;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection. It is served only while one of its functions runs: between them it reads nothing.
#[derive(Debug)]
pub struct HubbleClient {
    runtime: Runtime,
    observer: ObserverClient<Channel>,
    channel: Channel,
}

/// The flows of a request that goes on.
#[derive(Debug)]
pub struct Following(Streaming<GetFlowsResponse>);

impl HubbleClient {
    /// Connects to a unix socket.
    pub fn connect(socket: &Path) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let socket = socket.to_owned();
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(socket).await?)) }
        });
        let endpoint = Endpoint::from_static("http://localhost").timeout(PATIENCE);
        let channel = runtime.block_on(endpoint.connect_with_connector(connector)).context("connect")?;
        Ok(Self { runtime, observer: ObserverClient::new(channel.clone()), channel })
    }

    /// Connects to a port of a node by TLS, to a server of that name.
    pub fn connect_tls(
        machine: &impl Machine,
        address: SocketAddr,
        name: &str,
        config: ClientConfig,
    ) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let stream = machine.netns().inside(|| std::net::TcpStream::connect(address))?;
        stream.set_nonblocking(true)?;
        let name = ServerName::try_from(name.to_owned())?;
        let channel = runtime.block_on(async {
            let stream = TcpStream::from_std(stream)?;
            let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
            // There is one connection, and none after it.
            let mut stream = Some(TokioIo::new(stream));
            let connector = tower::service_fn(move |_| {
                let stream = stream.take();
                async move { stream.ok_or_else(|| std::io::Error::other("the connection has ended")) }
            });
            let endpoint = Endpoint::from_static("http://localhost").timeout(PATIENCE);
            anyhow::Ok(endpoint.connect_with_connector(connector).await?)
        })?;
        Ok(Self { runtime, observer: ObserverClient::new(channel.clone()), channel })
    }

    /// The nodes that the server tells of, as soon as there are so many: names, addresses, and the names in their certificates.
    pub fn peers(&mut self, count: usize) -> Result<Vec<(String, String, String)>> {
        let mut peers = PeerClient::new(self.channel.clone());
        self.runtime.block_on(async {
            let mut stream = peers.notify(NotifyRequest {}).await?.into_inner();
            let mut told = Vec::new();
            while told.len() < count {
                let next = timeout(PATIENCE, stream.message()).await??.context("the stream has ended")?;
                told.push((next.name, next.address, next.tls.unwrap_or_default().server_name));
            }
            Ok(told)
        })
    }

    /// All answers to a request that ends.
    pub fn answers(&mut self, request: GetFlowsRequest) -> Result<Vec<GetFlowsResponse>, Status> {
        self.runtime.block_on(async {
            let mut stream = self.observer.get_flows(request).await?.into_inner();
            let mut answers = Vec::new();
            while let Some(answer) = stream.message().await? {
                answers.push(answer);
            }
            Ok(answers)
        })
    }

    /// The flows of the ring that one of these filters matches.
    pub fn flows(&mut self, white: &[FlowFilter]) -> Result<Vec<Flow>, Status> {
        let answers = self.answers(GetFlowsRequest { whitelist: white.to_vec(), ..Default::default() })?;
        Ok(answers.into_iter().filter_map(flow_of).collect())
    }

    /// Begins to follow.
    pub fn follow(&mut self, request: GetFlowsRequest) -> Result<Following> {
        let request = GetFlowsRequest { follow: true, ..request };
        Ok(Following(self.runtime.block_on(self.observer.get_flows(request))?.into_inner()))
    }

    /// The next answer that comes within so long; `None`: none does, or it has ended.
    pub fn next(&mut self, following: &mut Following, within: Duration) -> Option<GetFlowsResponse> {
        self.runtime.block_on(async { timeout(within, following.0.next()).await.ok()??.ok() })
    }

    /// The server's status.
    pub fn status(&mut self) -> Result<ServerStatusResponse> {
        Ok(self.runtime.block_on(self.observer.server_status(ServerStatusRequest {}))?.into_inner())
    }

    /// The nodes.
    pub fn nodes(&mut self) -> Result<GetNodesResponse> {
        Ok(self.runtime.block_on(self.observer.get_nodes(GetNodesRequest {}))?.into_inner())
    }

    /// The namespaces that had flows.
    pub fn namespaces(&mut self) -> Result<Vec<String>> {
        let asked = self.runtime.block_on(self.observer.get_namespaces(GetNamespacesRequest {}))?;
        Ok(asked.into_inner().namespaces.into_iter().map(|it| it.namespace).collect())
    }
}

/// The flow of an answer, if it is one.
pub fn flow_of(answer: GetFlowsResponse) -> Option<Flow> {
    match answer.response_types {
        Some(ResponseTypes::Flow(flow)) => Some(flow),
        _ => None,
    }
}
