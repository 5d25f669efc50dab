//! The API server, as far as a test needs it: objects as JSON, by their paths.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::Context;
use http::{Method, Request, header::CONTENT_TYPE};
use kube::{Client, Config};
use serde_json::Value;

use ipamd_sources::kube::client;

/// How to reach a cluster.
#[derive(Debug)]
pub(in crate::connectivity) enum Access {
    /// By this kubeconfig.
    Kubeconfig(PathBuf),
    /// As everybody does: by `$KUBECONFIG`, `~/.kube/config` or as a pod.
    Usual,
}

impl Access {
    /// How to reach the cluster; `None` if there is none, or none is wanted.
    pub fn find(bare: bool, kubeconfig: Option<&Path>) -> anyhow::Result<Option<Self>> {
        if let Some(path) = kubeconfig {
            anyhow::ensure!(path.exists(), "there is no {}", path.display());
            return Ok(Some(Self::Kubeconfig(path.to_owned())));
        }
        let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        let home = set("HOME").map(|home| Path::new(&home).join(".kube/config"));
        let usual = set("KUBECONFIG").is_some()
            || home.is_some_and(|path| path.exists())
            || set("KUBERNETES_SERVICE_HOST").is_some();
        Ok((usual && !bare).then_some(Self::Usual))
    }

    /// A client, for the runtime that this is called in.
    pub(super) async fn api(self) -> anyhow::Result<Api> {
        let config = match self {
            Self::Kubeconfig(path) => {
                ipamd_sources::kube::Access { kubeconfig: Some(path), server: None }.config().await?
            }
            Self::Usual => {
                Config::infer().await.context("neither a kubeconfig nor the rights of a pod can be used")?
            }
        };
        Ok(Api { client: client(&config)? })
    }
}

/// A connection to the API server.
#[derive(Clone)]
pub(super) struct Api {
    client: Client,
}

impl Api {
    pub async fn get(&self, path: &str) -> kube::Result<Value> {
        self.client.request(request(Method::GET, path, None)?).await
    }

    /// The items of a list.
    pub async fn list(&self, path: &str) -> kube::Result<Vec<Value>> {
        let mut list = self.get(path).await?;
        Ok(list["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
    }

    pub async fn text(&self, path: &str) -> kube::Result<String> {
        self.client.request_text(request(Method::GET, path, None)?).await
    }

    /// Creates an object, and returns it as the server has completed it.
    pub async fn create(&self, path: &str, object: &Value) -> kube::Result<Value> {
        self.client.request(request(Method::POST, path, Some(object))?).await
    }

    /// Deletes an object. One that is not there is deleted.
    pub async fn delete(&self, path: &str) -> kube::Result<()> {
        match self.client.request::<Value>(request(Method::DELETE, path, None)?).await {
            Err(error) if !is(&error, 404) => Err(error),
            _ => Ok(()),
        }
    }
}

/// Whether the server has answered with that code.
pub(super) fn is(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

fn request(method: Method, path: &str, body: Option<&Value>) -> kube::Result<Request<Vec<u8>>> {
    let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
    Request::builder()
        .method(method)
        .uri(path)
        .header(CONTENT_TYPE, "application/json")
        .body(body)
        .map_err(kube::Error::HttpError)
}
