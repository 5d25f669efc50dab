//! The connection to the API server.

use std::{path::Path, time::Duration};

use http::Request;
use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use kube::{
    Client, Config,
    client::ConfigExt,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use tower::{BoxError, ServiceBuilder, util::MapRequestLayer};

use super::token::TokenFile;

/// When a connection on which nothing comes is asked whether it still is one: a watch may be silent for minutes, and a
/// server that has lost its power says nothing.
const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;
const CONNECT: Duration = Duration::from_secs(5);
/// How long any request may wait for the headers of its answer. Most wait less.
const HEADERS: Duration = Duration::from_secs(35);
/// How much of one answer, and of all on a connection, may be on the way before it is taken.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// Why no client can be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The kubeconfig does not say how to reach a cluster.
    #[error("cannot use the kubeconfig {path}: {source}")]
    Kubeconfig {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: KubeconfigError,
    },
    /// This is not a pod.
    #[error("this is not a pod of a cluster ({0}); name a kubeconfig with --cluster kube:PATH")]
    NotAPod(#[source] kube::config::InClusterError),
    /// Not an address of a server.
    #[error("--kube-api-server {0:?} is not the URL of a server, such as https://10.0.0.1:6443")]
    Server(String),
    /// Not a name that a certificate can have.
    #[error(
        "tls-server-name {0:?} in the kubeconfig is not the name of a server, such as kubernetes.example.org"
    )]
    ServerName(String),
    /// The credentials cannot be used.
    #[error("cannot make a client of the API server: {0}")]
    Credentials(#[from] kube::Error),
}

/// How to reach the cluster: by a kubeconfig, or as a pod of it. `server` takes the place of the server's URL.
pub(super) async fn config(kubeconfig: Option<&Path>, server: Option<&str>) -> Result<Config, ClientError> {
    let mut config = match kubeconfig {
        Some(path) => {
            let error = |source| ClientError::Kubeconfig { path: path.display().to_string(), source };
            let file = Kubeconfig::read_from(path).map_err(error)?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(error)?
        }
        None => Config::incluster().map_err(ClientError::NotAPod)?,
    };
    if let Some(server) = server {
        let url: http::Uri = server.parse().map_err(|_| ClientError::Server(server.into()))?;
        if url.scheme().is_none() || url.host().is_none() {
            return Err(ClientError::Server(server.into()));
        }
        config.cluster_url = url;
    }
    Ok(config)
}

/// A client whose connections notice that the server is gone. It belongs to the runtime that it is used in. It speaks HTTP/2
/// where the server does, and HTTP/1.1 else.
///
/// # Errors
/// The credentials cannot be used.
pub fn client(config: &Config) -> Result<Client, ClientError> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_connect_timeout(Some(CONNECT));
    connector.set_nodelay(true);
    connector.set_keepalive(Some(KEEPALIVE));
    connector.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    connector.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    let mut builder =
        HttpsConnectorBuilder::new().with_tls_config(config.rustls_client_config()?).https_or_http();
    if let Some(name) = &config.tls_server_name {
        let name = name.clone().try_into().map_err(|_| ClientError::ServerName(name.clone()))?;
        builder = builder.with_server_name_resolver(FixedServerNameResolver::new(name));
    }
    let connector = builder.enable_all_versions().wrap_connector(connector);
    let http = HttpClient::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(KEEPALIVE)
        .http2_keep_alive_timeout(KEEPALIVE_INTERVAL * KEEPALIVE_RETRIES)
        .build::<_, kube::client::Body>(connector);
    let token = config.auth_info.token_file.as_deref().map(TokenFile::new);
    let others = if token.is_some() { None } else { config.auth_layer()? };
    let authorize = token.map(|token| {
        MapRequestLayer::new(move |request: Request<kube::client::Body>| token.authorize(request))
    });
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(others)
        .option_layer(authorize)
        .map_err(BoxError::from)
        // Of the wait for the headers; what follows may take as long as a watch.
        .timeout(HEADERS)
        .service(http);
    Ok(Client::new(service, config.default_namespace.clone()))
}
