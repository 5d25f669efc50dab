//! Asks for a pod by its name when a container of it begins: the watch may be late, and what the pod is decides which
//! policies hold from its first packet on.

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
    client::ClientError,
    failure::{words, words_of},
    resources::Resource,
    seen::Seen,
};
use ipamd_model::objects::Kind;

/// How long an ADD may wait for the server.
const PATIENCE: Duration = Duration::from_secs(3);
/// How many are asked for at a time: a node that starts all its pods at once is one of thousands that may.
const AT_ONCE: usize = 8;
/// Answers that wait to be taken in.
const ROOM: usize = 256;

/// What the server said of a pod: each object, or that there is none.
#[derive(Debug)]
pub(super) struct Answer {
    pub objects: Vec<(&'static Resource, Seen)>,
    /// Told once the objects are in force.
    pub in_force: oneshot::Sender<()>,
}

/// Asks the API server by name.
#[derive(Clone)]
pub struct Asking {
    config: kube::Config,
    /// Kept as long as the server answers by it, so that a node that starts its pods shakes hands once.
    client: Arc<Mutex<Option<Client>>>,
    answers: Sender<Answer>,
    local: LocalPods,
    turns: Arc<Semaphore>,
}

impl fmt::Debug for Asking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asking").field("local", &self.local).finish_non_exhaustive()
    }
}

/// The pods of this node whose state is in force: their UIDs, by namespace and name.
#[derive(Clone, Debug, Default)]
pub(super) struct LocalPods(Arc<Mutex<HashMap<Box<str>, Box<str>>>>);

impl LocalPods {
    /// Notes what is in force of a pod now; `None` if it is gone.
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

/// Why a pod is not known better than before.
#[derive(Debug, thiserror::Error)]
#[error("the API server was asked for the pod {pod}, but {reason}")]
pub struct AskError {
    pod: String,
    reason: String,
}

impl Asking {
    pub(super) fn new(config: kube::Config, local: LocalPods) -> (Self, Receiver<Answer>) {
        let (answers, receiver) = channel(ROOM);
        (
            Self { config, client: Arc::default(), answers, local, turns: Arc::new(Semaphore::new(AT_ONCE)) },
            receiver,
        )
    }

    /// Whether what the pod is was told already, and is in force.
    pub fn knows(&self, pod: &Pod) -> bool {
        self.local.has(&format!("{}/{}", pod.namespace, pod.name), &pod.uid)
    }

    /// Asks for a pod, its namespace and its service account, and returns once what they are is in force.
    ///
    /// # Errors
    /// Why it is not: the server does not answer in time, or refuses to. That there is no such pod is no error.
    pub async fn ask(&self, pod: &Pod) -> Result<(), AskError> {
        let Pod { namespace, name, .. } = pod;
        let failed = |reason: String| AskError { pod: format!("{namespace}/{name}"), reason };
        // Connections belong to the runtime that made them, so this one is not the source's.
        let client = self.client().map_err(|error| failed(words(&error)))?;
        let asked = timeout(PATIENCE, async {
            let objects = {
                // Never closed.
                let _turn = self.turns.acquire().await;
                let objects = objects(&client, namespace, name).await.map_err(|error| words_of(&error))?;
                for (resource, seen) in &objects {
                    resource.object().check(seen.types()).map_err(|failure| failure.words())?;
                }
                objects
            };
            let (in_force, told) = oneshot::channel();
            let gone = || "the daemon does not follow the cluster any more".to_owned();
            self.answers.send(Answer { objects, in_force }).await.map_err(|_| gone())?;
            told.await.map_err(|_| gone())
        });
        let asked = match asked.await {
            Ok(asked) => asked.map_err(failed),
            Err(_) => Err(failed(format!("it did not answer within {PATIENCE:?}"))),
        };
        if asked.is_err() {
            // Its connection may lead nowhere; the next one finds out whether the server is there.
            *self.client.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        asked
    }

    fn client(&self) -> Result<Client, ClientError> {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        match &*client {
            Some(client) => Ok(client.clone()),
            None => Ok(client.insert(super::client(&self.config)?).clone()),
        }
    }
}

async fn objects(
    client: &Client,
    namespace: &str,
    name: &str,
) -> kube::Result<Vec<(&'static Resource, Seen)>> {
    let pods = Resource::of(Kind::Pod);
    let accounts = Resource::of(Kind::ServiceAccount);
    let namespaces = Resource::of(Kind::Namespace);
    let pod_api = Api::<Seen>::namespaced_with(client.clone(), namespace, &pods);
    let namespace_api = Api::<Seen>::all_with(client.clone(), &namespaces);
    let (pod, space) = tokio::try_join!(pod_api.get_opt(name), namespace_api.get_opt(namespace))?;
    let mut objects = Vec::new();
    if let Some(pod) = pod {
        let account = pod.body["spec"]["serviceAccountName"].as_str().unwrap_or("default").to_owned();
        let account_api = Api::<Seen>::namespaced_with(client.clone(), namespace, &accounts);
        let account = account_api.get_opt(&account).await?;
        objects.extend(account.map(|it| (accounts, it)));
        objects.push((pods, pod));
    }
    // The namespace before what is in it.
    objects.extend(space.map(|it| (namespaces, it)));
    objects.reverse();
    Ok(objects)
}
