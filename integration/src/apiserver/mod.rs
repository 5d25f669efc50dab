//! An API server for tests: it speaks as much of the Kubernetes protocol as a client of lists, watches and single objects
//! meets, over TLS, with bearer tokens; and it can misbehave in every way that a client has to survive.

mod answers;
mod bodies;
mod lists;
mod objects;
mod paths;
mod rbac;
mod selectors;
mod serve;
mod tls;
mod watches;
mod writes;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::sync::watch;

use self::tls::Credentials;
pub use self::{
    objects::{Objects, Streaming},
    rbac::Right,
};
use crate::testbed::Netns;

/// What the clients authenticate with.
const TOKEN: &str = "a-token-of-the-tests";

/// How the server behaves.
#[derive(Clone, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fault of its own, and they go together in any way"
)]
pub struct Behaviour {
    /// How it answers to watches that ask for what there is first.
    pub streaming: Streaming,
    /// How long it takes for each answer.
    pub delay: Duration,
    /// It takes requests and never answers.
    pub hangs: bool,
    /// What watches get instead of JSON, once.
    pub garbage: Option<&'static str>,
    /// Watches end in the middle of an event.
    pub cuts: bool,
    /// Watches tell nothing, not even that time passes.
    pub silent: bool,
    /// Requests of this plural are refused with this code.
    pub refuses: BTreeMap<&'static str, u16>,
    /// Lists of this plural are answered by an empty one that says that it is of another version and kind.
    pub lists_others: BTreeMap<&'static str, (&'static str, &'static str)>,
    /// What clients may do; everything, if nothing is said.
    pub rights: Option<BTreeSet<Right>>,
    /// Next so many requests are refused: they are too many, and may come again after a second.
    pub busy: u32,
    /// Lists of this group are refused as streams, by whoever serves it behind this server.
    pub streams_not: Option<&'static str>,
    /// Next so many rests of lists are forgotten before they are asked for.
    pub forgets_rests: u32,
    /// What it compresses.
    pub compresses: Compresses,
    /// Whether it speaks HTTP/2 on connections that are made from now on.
    pub http2: bool,
    /// Watches that ask for no list never get headers.
    pub hangs_watches: bool,
    /// How often a watch gets a bookmark in which nothing has changed.
    pub bookmarks: Duration,
}

/// Which answers are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compresses {
    /// Those of 128 KiB and more, for whoever asks, as a real server does.
    #[default]
    Large,
    /// All, watches too, whether anybody asked or not.
    All,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            streaming: Streaming::default(),
            delay: Duration::ZERO,
            hangs: false,
            garbage: None,
            cuts: false,
            silent: false,
            refuses: BTreeMap::new(),
            lists_others: BTreeMap::new(),
            rights: None,
            busy: 0,
            streams_not: None,
            forgets_rests: 0,
            compresses: Compresses::default(),
            http2: true,
            hangs_watches: false,
            // A real server sends one a minute.
            bookmarks: Duration::from_secs(1),
        }
    }
}

/// What the server has been asked so far: method, path and query.
pub type Requests = Vec<String>;

/// What all connections share.
#[derive(Debug)]
struct Shared {
    objects: Mutex<Objects>,
    behaviour: Mutex<Behaviour>,
    requests: Mutex<Requests>,
    /// What containers of pods have printed, by the pod's key.
    logs: Mutex<BTreeMap<String, String>>,
    /// What these took.
    used: Mutex<BTreeSet<Right>>,
    /// In which versions of HTTP they came.
    spoken: Mutex<BTreeSet<String>>,
    /// How many answers were compressed.
    compressed: AtomicUsize,
    /// Which requests were refused because they were too many, and when they may come again.
    refused: Mutex<BTreeMap<String, Instant>>,
    /// How many came before.
    early: AtomicUsize,
    /// Counts changes, for whoever waits for one.
    changes: watch::Sender<u64>,
    /// Counts the times that all watches were ended.
    ended: watch::Sender<u64>,
}

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
            shared: Arc::new(Shared {
                objects: Mutex::new(Objects::new()),
                behaviour: Mutex::default(),
                requests: Mutex::default(),
                logs: Mutex::default(),
                used: Mutex::default(),
                spoken: Mutex::default(),
                compressed: AtomicUsize::default(),
                refused: Mutex::default(),
                early: AtomicUsize::default(),
                changes: watch::Sender::new(0),
                ended: watch::Sender::new(0),
            }),
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
        let listener = netns.inside(|| std::net::TcpListener::bind(address)).context("listen")?;
        let (stop, stopped) = watch::channel(false);
        let (shared, credentials) = (Arc::clone(&self.shared), self.credentials.clone());
        let thread = std::thread::Builder::new()
            .name("apiserver".into())
            .spawn(move || serve::run(listener, &shared, &credentials, stopped))?;
        *lock(&self.running) = Some(Running { stop, thread: Some(thread) });
        Ok(())
    }

    /// Ends every connection and takes no new ones. What there is stays.
    pub fn stop(&self) {
        drop(lock(&self.running).take());
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
        lock(&self.shared.logs).insert(pod.to_owned(), text);
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
        lock(&self.shared.requests).clone()
    }

    /// What all requests so far took, whether they were answered or refused.
    pub fn used_rights(&self) -> BTreeSet<Right> {
        lock(&self.shared.used).clone()
    }

    /// In which versions of HTTP it was asked since this was called last, such as `HTTP/2.0`.
    pub fn spoken(&self) -> BTreeSet<String> {
        std::mem::take(&mut lock(&self.shared.spoken))
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

impl Shared {
    fn objects(&self) -> MutexGuard<'_, Objects> {
        lock(&self.objects)
    }

    fn behaviour(&self) -> MutexGuard<'_, Behaviour> {
        lock(&self.behaviour)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
