//! Looks a pod up by name when its container starts. The watch may be late, and the pod decides which policies hold
//! from its first packet on.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ipamd_api::wire::Pod;

use kube::{Api, Client};
use tokio::{
    sync::{
        Semaphore,
        mpsc::{Receiver, Sender, channel},
        oneshot,
    },
    time::timeout,
};

use super::{
    client::{self, ClientError},
    failure::{message_chain, message_of},
    pruned_object::PrunedObject,
    resources::Resource,
};
use ipamd_model::objects::Kind;

/// How long an ADD may wait for the server.
const PATIENCE: Duration = Duration::from_secs(3);
/// Lookups at a time. When a node starts all its pods at once, thousands of other nodes may do so too.
const MAX_CONCURRENT: usize = 8;
/// The queue of answers.
const MAX_PENDING: usize = 256;

/// The answer of a lookup: the objects that exist.
#[derive(Debug)]
pub(super) struct PodAnswer {
    pub objects: Vec<(&'static Resource, PrunedObject)>,
    /// Signalled when the objects are in force.
    pub in_force: oneshot::Sender<()>,
}

/// Looks pods up at the API server.
#[derive(Clone)]
pub struct PodLookup {
    config: kube::Config,
    /// Kept while requests succeed, so that a node that starts many pods makes one TLS handshake.
    client: Arc<Mutex<Option<Client>>>,
    answers: Sender<PodAnswer>,
    local: LocalPods,
    permits: Arc<Semaphore>,
}

impl fmt::Debug for PodLookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PodLookup").field("local", &self.local).finish_non_exhaustive()
    }
}

/// The pods of this node whose state is in force: their UIDs, by namespace and name.
#[derive(Clone, Debug, Default)]
pub(super) struct LocalPods(Arc<Mutex<HashMap<Box<str>, Box<str>>>>);

impl LocalPods {
    /// Notes the pod whose state is in force now; `None` if it is removed.
    pub fn note(&self, key: Box<str>, uid: Option<Box<str>>) {
        let mut pods = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match uid {
            Some(uid) => drop(pods.insert(key, uid)),
            None => drop(pods.remove(&key)),
        }
    }

    fn has(&self, key: &str, uid: &str) -> bool {
        let pods = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pods.get(key).is_some_and(|known| **known == *uid)
    }
}

/// Why a lookup failed.
#[derive(Debug, thiserror::Error)]
#[error("the API server was asked for the pod {pod}, but {reason}")]
pub struct PodLookupError {
    pod: String,
    reason: String,
}

impl PodLookup {
    pub(super) fn new(config: kube::Config, local: LocalPods) -> (Self, Receiver<PodAnswer>) {
        let (answers, receiver) = channel(MAX_PENDING);
        (
            Self {
                config,
                client: Arc::default(),
                answers,
                local,
                permits: Arc::new(Semaphore::new(MAX_CONCURRENT)),
            },
            receiver,
        )
    }

    /// Whether the state of this pod is in force already.
    pub fn knows(&self, pod: &Pod) -> bool {
        self.local.has(&format!("{}/{}", pod.namespace, pod.name), &pod.uid)
    }

    /// Looks up a pod, its namespace and its service account, and returns once their state is in force.
    ///
    /// # Errors
    /// Why it is not: the server does not answer in time, or refuses to. That there is no such pod is no error.
    pub async fn look_up(&self, pod: &Pod) -> Result<(), PodLookupError> {
        let Pod { namespace, name, .. } = pod;
        let failed = |reason: String| PodLookupError { pod: format!("{namespace}/{name}"), reason };
        // Connections belong to the runtime that made them, so this client is separate from the source's.
        let client = self.client().map_err(|error| failed(message_chain(&error)))?;
        let asked = timeout(PATIENCE, async {
            let objects = {
                // Never closed.
                let _permit = self.permits.acquire().await;
                let objects = objects(&client, namespace, name).await.map_err(|error| message_of(&error))?;
                for (resource, pruned) in &objects {
                    resource.object().check(pruned.types()).map_err(|failure| failure.message())?;
                }
                objects
            };
            let (in_force, acknowledged) = oneshot::channel();
            let gone = || "the daemon does not follow the cluster any more".to_owned();
            self.answers.send(PodAnswer { objects, in_force }).await.map_err(|_| gone())?;
            acknowledged.await.map_err(|_| gone())
        });
        let asked = match asked.await {
            Ok(asked) => asked.map_err(failed),
            Err(_) => Err(failed(format!("it did not answer within {PATIENCE:?}"))),
        };
        if asked.is_err() {
            // The connection may be dead; the next lookup makes a new one.
            *self.client.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        asked
    }

    fn client(&self) -> Result<Client, ClientError> {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        match &*client {
            Some(client) => Ok(client.clone()),
            None => Ok(client.insert(client::client(&self.config)?).clone()),
        }
    }
}

async fn objects(
    client: &Client,
    namespace: &str,
    name: &str,
) -> kube::Result<Vec<(&'static Resource, PrunedObject)>> {
    let pods = Resource::of(Kind::Pod);
    let accounts = Resource::of(Kind::ServiceAccount);
    let namespaces = Resource::of(Kind::Namespace);
    let pod_api = Api::<PrunedObject>::namespaced_with(client.clone(), namespace, &pods);
    let namespace_api = Api::<PrunedObject>::all_with(client.clone(), &namespaces);
    let (pod, space) = tokio::try_join!(pod_api.get_opt(name), namespace_api.get_opt(namespace))?;
    let mut objects = Vec::new();
    if let Some(pod) = pod {
        let account = pod.body["spec"]["serviceAccountName"].as_str().unwrap_or("default").to_owned();
        let account_api = Api::<PrunedObject>::namespaced_with(client.clone(), namespace, &accounts);
        let account = account_api.get_opt(&account).await?;
        objects.extend(account.map(|it| (accounts, it)));
        objects.push((pods, pod));
    }
    // The namespace before what is in it.
    objects.extend(space.map(|it| (namespaces, it)));
    objects.reverse();
    Ok(objects)
}
