//! The running server, as a test has it.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, atomic::Ordering},
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::sync::watch;

use super::{
    behaviour::Behaviour,
    objects::Objects,
    rbac::Right,
    serve,
    shared::{Requests, Shared, locked},
    tls::{Credentials, TOKEN},
};
use crate::testbed::{Netns, eventually};

/// How long the address may belong to somebody else.
const PATIENCE: Duration = Duration::from_secs(5);

/// A running API server. It ends when it is dropped.
#[derive(Debug)]
pub struct ApiServer {
    shared: Arc<Shared>,
    credentials: Credentials,
    address: SocketAddr,
    running: Mutex<Option<Running>>,
    netns: PathBuf,
}

#[derive(Debug)]
struct Running {
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl ApiServer {
    /// A server that listens at an address of a namespace.
    pub fn start(netns: &Netns, address: SocketAddr) -> Result<Self> {
        let server = Self {
            shared: Arc::default(),
            credentials: Credentials::new(address.ip())?,
            address,
            running: Mutex::default(),
            netns: netns.path().to_owned(),
        };
        server.resume(netns)?;
        Ok(server)
    }

    /// Listens again.
    pub fn resume(&self, netns: &Netns) -> Result<()> {
        ensure!(netns.path() == self.netns, "the server stays where it is");
        let address = self.address;
        // A process that another test has just forked has the old listener until it becomes another program.
        let mut listener = Err(std::io::Error::from(std::io::ErrorKind::AddrInUse));
        eventually(PATIENCE, || {
            listener = netns.inside(|| std::net::TcpListener::bind(address));
            listener.is_ok()
        });
        let listener = listener.context("listen")?;
        let (stop, stopped) = watch::channel(false);
        let (shared, credentials) = (Arc::clone(&self.shared), self.credentials.clone());
        let thread = std::thread::Builder::new()
            .name("apiserver".into())
            .spawn(move || serve::run(listener, &shared, &credentials, stopped))?;
        *locked(&self.running) = Some(Running { stop, thread: Some(thread) });
        Ok(())
    }

    /// Ends every connection and takes no new ones. What there is stays.
    pub fn stop(&self) {
        drop(locked(&self.running).take());
    }

    /// Writes a kubeconfig for it.
    pub fn kubeconfig(&self, path: &Path) -> Result<()> {
        let config = self.credentials.kubeconfig(&format!("https://{}", self.address));
        std::fs::write(path, config).context("write the kubeconfig")
    }

    /// Writes what the kubelet mounts into a pod of a service account of that namespace.
    pub fn service_account(&self, folder: &Path, namespace: &str) -> Result<()> {
        let files = [("token", TOKEN), ("ca.crt", self.credentials.authority()), ("namespace", namespace)];
        files.into_iter().try_for_each(|(name, content)| std::fs::write(folder.join(name), content))?;
        Ok(())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Creates or replaces an object, of a manifest's form.
    pub fn put(&self, object: Value) {
        self.change(|objects| objects.put(object));
    }

    /// Deletes an object: `plural.group`, and `namespace/name` or `name`.
    pub fn delete(&self, resource: &str, key: &str) {
        self.change(|objects| objects.delete(resource, key));
    }

    /// An object as it is now.
    pub fn get(&self, resource: &str, key: &str) -> Option<Value> {
        self.shared.objects().get(resource, key).map(|it| it.value())
    }

    /// All objects of a resource.
    pub fn all(&self, resource: &str) -> Vec<Value> {
        self.shared.objects().all(resource).map(|it| it.value()).collect()
    }

    /// Sets what the container of a pod has printed so far, for whoever asks for its log.
    pub fn log(&self, pod: &str, text: String) {
        locked(&self.shared.logs).insert(pod.to_owned(), text);
    }

    /// Has a resource exist, or not.
    pub fn serve(&self, resource: &str, served: bool) {
        self.change(|objects| objects.serve(resource, served));
    }

    /// Forgets its history: whoever follows from a version before now is told that it is gone.
    pub fn compact(&self) {
        self.shared.objects().compact();
    }

    /// Ends all watches.
    pub fn end_watches(&self) {
        self.shared.ended.send_modify(|count| *count += 1);
    }

    /// Changes how it behaves.
    pub fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.shared.behaviour());
    }

    /// What it was asked so far.
    pub fn requests(&self) -> Requests {
        locked(&self.shared.requests).clone()
    }

    /// What all requests so far took, whether they were answered or refused.
    pub fn used_rights(&self) -> BTreeSet<Right> {
        locked(&self.shared.used).clone()
    }

    /// In which versions of HTTP it was asked since this was called last, such as `HTTP/2.0`.
    pub fn spoken(&self) -> BTreeSet<String> {
        std::mem::take(&mut locked(&self.shared.spoken))
    }

    /// How many of its answers were compressed.
    pub fn compressed(&self) -> usize {
        self.shared.compressed.load(Ordering::Relaxed)
    }

    /// How many requests came again before the time that a refusal named.
    pub fn refused_too_early(&self) -> usize {
        self.shared.early.load(Ordering::Relaxed)
    }

    fn change(&self, change: impl FnOnce(&mut Objects)) {
        change(&mut self.shared.objects());
        self.shared.changes.send_modify(|count| *count += 1);
    }
}
