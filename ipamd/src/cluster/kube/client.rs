//! The connection to the API server.

use std::{path::Path, time::Duration};

use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use kube::{
    Client, Config,
    client::ConfigExt,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use tower::{BoxError, ServiceBuilder};

/// When a connection on which nothing comes is asked whether it still is one: a watch may be silent for minutes, and a
/// server that has lost its power says nothing.
const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;
const CONNECT: Duration = Duration::from_secs(5);

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

/// A client whose connections notice that the server is gone. It belongs to the runtime that it is used in. `answered` is
/// called when the server begins an answer that is no refusal.
pub(super) fn client(
    config: &Config,
    answered: impl Fn() + Clone + Send + 'static,
) -> Result<Client, ClientError> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_connect_timeout(Some(CONNECT));
    connector.set_nodelay(true);
    connector.set_keepalive(Some(KEEPALIVE));
    connector.set_keepalive_interval(Some(KEEPALIVE_INTERVAL));
    connector.set_keepalive_retries(Some(KEEPALIVE_RETRIES));
    let connector = config.rustls_https_connector_with_connector(connector)?;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .map_err(BoxError::from)
        .map_response(move |response: http::Response<Incoming>| {
            if response.status().is_success() {
                answered();
            }
            response
        })
        .service(HttpClient::builder(TokioExecutor::new()).build(connector));
    Ok(Client::new(service, config.default_namespace.clone()))
}
