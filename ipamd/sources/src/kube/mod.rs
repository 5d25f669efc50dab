//! The Kubernetes API as a cluster: each resource is listed once and watched from then on.
//!
//! Whatever becomes of the server, what it said last stays: in force, and in a copy on disk, from which a daemon goes on
//! that starts while the server is away.

mod asking;
mod cache;
mod client;
mod collection;
mod condition;
mod contact;
mod definitions;
mod events;
mod exchange;
mod failure;
mod keys;
mod pause;
mod reflector;
mod resources;
mod seen;
mod streams;
mod token;
mod told;
mod types;

use std::{
    collections::BTreeMap,
    mem,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{
        mpsc::{Receiver, Sender, channel},
        oneshot,
    },
    task::JoinSet,
    time::{Instant, sleep_until},
};

use self::{
    asking::{Answer, LocalPods},
    cache::Cache,
    collection::Collection,
    contact::Contact,
    definitions::Definitions,
    keys::{Keys, News},
    reflector::{Absence, Audience, Reflector, Told, Unheard},
    resources::{RESOURCES, Resource},
    seen::Seen,
    streams::Streams,
};
pub use self::{
    asking::{AskError, Asking},
    client::ClientError,
    condition::NetworkCondition,
    events::{Events, Notice},
};
use super::{Source, SourceState, manifest, place::Place, v1};
use ipamd_model::{
    interned::Interned,
    objects::{Batch, Change, Kind, ObjectId, Origin, Refusal},
};

/// What stands for the file that an object was read from.
const ORIGIN: &str = "the API server";
/// Reports that wait to be taken in.
const ROOM: usize = 512;
/// Most reports that are taken together.
const MOST_AT_ONCE: usize = 4096;
/// How long a start waits for a server that says nothing before it goes on with the copy of its last state.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often is noted on disk that the server is there.
const NOTE_HEARD: Duration = Duration::from_secs(30);

/// How to reach a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// A kubeconfig; `None` in a pod of the cluster.
    pub kubeconfig: Option<PathBuf>,
    /// URL of the server, in place of the one that follows from that.
    pub server: Option<String>,
}

impl Access {
    /// The configuration of a client.
    ///
    /// # Errors
    /// What is wrong with it.
    pub async fn config(&self) -> Result<kube::Config, ClientError> {
        client::config(self.kubeconfig.as_deref(), self.server.as_deref()).await
    }
}

/// A client of a cluster, for the runtime that this is called in.
///
/// # Errors
/// The credentials cannot be used.
pub fn client(config: &kube::Config) -> Result<kube::Client, ClientError> {
    client::client(config)
}

/// What is told, and of which resource.
#[derive(Debug)]
struct Report {
    resource: &'static Resource,
    told: Told,
}

/// Takes what is told of a resource to the cluster.
#[derive(Debug)]
struct Reporter {
    resource: &'static Resource,
    reports: Sender<Report>,
}

impl Audience for Reporter {
    async fn hear(&mut self, told: Told) -> Result<(), Unheard> {
        self.reports.send(Report { resource: self.resource, told }).await.map_err(|_| Unheard)
    }
}

/// The API of a cluster.
#[derive(Debug)]
pub struct Kube {
    reports: Receiver<Report>,
    answers: Receiver<Answer>,
    /// Those who wait until what they asked for is in force.
    asked: Vec<oneshot::Sender<()>>,
    mirror: Mirror,
    local: LocalPods,
    begun: bool,
    /// What was told may not be in force yet.
    told: bool,
    note_heard: Instant,
    /// Ends with this.
    _tasks: JoinSet<()>,
}

impl Kube {
    /// Begins to watch, on the runtime that this is called in, for the node of that name. The copy of the last state is
    /// at `copy`.
    ///
    /// # Errors
    /// The credentials cannot be used.
    pub fn open(
        config: &kube::Config,
        node: &str,
        copy: &Path,
    ) -> Result<(Self, Asking, NetworkCondition), ClientError> {
        let server = config.cluster_url.to_string();
        let server = server.trim_end_matches('/');
        let cache = Cache::open(copy, server);
        let contact = Arc::new(Contact::new(server.into(), cache.heard(), cache.state()));
        let (reporting, reports) = channel(ROOM);
        // All share one client, and over HTTP/2 one connection.
        let client = client(config)?;
        let streams = Arc::new(Streams::default());
        let definitions = Definitions::new();
        let mut tasks = JoinSet::new();
        for resource in &RESOURCES {
            let defined = definitions.follow(resource).filter(|_| resource.optional);
            let reporter = Reporter { resource, reports: reporting.clone() };
            let (collection, streams) = (Collection::of(resource), Arc::clone(&streams));
            let reflector = Reflector::new(collection, client.clone(), streams, reporter).defined(defined);
            tasks.spawn(reflector.follow());
        }
        let collection = Collection::of_definitions();
        tasks.spawn(Reflector::new(collection, client, streams, definitions).follow());
        let local = LocalPods::default();
        let (asking, answers) = Asking::new(config.clone(), local.clone());
        let kube = Self {
            reports,
            answers,
            asked: Vec::new(),
            mirror: Mirror::new(cache, contact, node),
            local,
            begun: false,
            told: false,
            note_heard: Instant::now(),
            _tasks: tasks,
        };
        Ok((kube, asking, NetworkCondition::new(config.clone(), node)))
    }

    /// The whole cluster: as the server tells it, or if that says nothing for a while, as it was told last.
    async fn begin(&mut self) -> Batch {
        let has_copy = self.mirror.load();
        let mut progress = Instant::now();
        while !self.mirror.is_whole() {
            tokio::select! {
                report = self.reports.recv() => {
                    // Nothing comes any more, and half of a cluster must not be taken for all of it.
                    let Some(report) = report else { return std::future::pending().await };
                    // What happens to resources that are known already is none.
                    if matches!(report.told, Told::Listed(_) | Told::Done(_) | Told::Missing(Absence::Certain, _)) {
                        progress = Instant::now();
                    }
                    self.mirror.take(report);
                }
                answer = self.answers.recv() => self.answered(answer),
                () = sleep_until(progress + PATIENCE), if has_copy => {
                    self.mirror.contact.goes_by_copy();
                    tracing::warn!(server = self.mirror.contact.server(), "the API server tells nothing; going on with what it told last");
                    break;
                }
            }
        }
        self.note_heard();
        self.mirror.batch()
    }

    fn answered(&mut self, answer: Option<Answer>) {
        let Some(answer) = answer else { return };
        for (resource, seen) in &answer.objects {
            self.mirror.asked_for(resource, seen);
        }
        self.asked.push(answer.in_force);
    }

    /// Takes what is there already, too: a list or a burst of changes is one batch.
    fn take_waiting(&mut self) {
        for _ in 0..MOST_AT_ONCE {
            let Ok(report) = self.reports.try_recv() else { return };
            self.mirror.take(report);
        }
    }

    fn note_heard(&mut self) {
        if Instant::now() < self.note_heard {
            return;
        }
        self.note_heard = Instant::now() + NOTE_HEARD;
        if let Some(at) = self.mirror.contact.known_until() {
            self.mirror.cache.set_heard(at);
        }
    }
}

impl Source for Kube {
    async fn next(&mut self) -> Batch {
        if !self.begun {
            let batch = self.begin().await;
            self.begun = true;
            return batch;
        }
        loop {
            tokio::select! {
                report = self.reports.recv() => {
                    // The tasks end with this.
                    let Some(report) = report else { return std::future::pending().await };
                    self.mirror.take(report);
                    self.take_waiting();
                }
                answer = self.answers.recv() => self.answered(answer),
                () = sleep_until(self.note_heard) => {}
            }
            self.note_heard();
            let batch = self.mirror.batch();
            if !batch.changes.is_empty() || batch.refusals.is_some() {
                self.told = true;
                return batch;
            }
            // What was asked for is known already, unless it is on its way.
            if !self.told {
                self.in_force();
            }
        }
    }

    fn in_force(&mut self) {
        self.told = false;
        for (key, uid) in self.mirror.local.drain(..) {
            self.local.note(key, uid);
        }
        for asked in self.asked.drain(..) {
            // Whoever asked may have given up.
            let _ = asked.send(());
        }
    }

    fn state(&self) -> Option<Arc<dyn SourceState>> {
        Some(Arc::clone(&self.mirror.contact) as _)
    }
}

/// What the server has told, as far as it takes to see what changes.
#[derive(Debug)]
struct Mirror {
    /// In the order of the resources.
    keys: Vec<Keys>,
    cache: Cache,
    contact: Arc<Contact>,
    changes: Vec<Change>,
    refusals: BTreeMap<(String, Box<str>), Refusal>,
    refusals_changed: bool,
    /// This node.
    node: Box<str>,
    /// Which of its pods have come, with their UIDs, and gone.
    local: Vec<(Box<str>, Option<Box<str>>)>,
    interned: Interned,
}

impl Mirror {
    fn new(cache: Cache, contact: Arc<Contact>, node: &str) -> Self {
        Self {
            keys: RESOURCES.iter().map(|_| Keys::default()).collect(),
            cache,
            contact,
            changes: Vec::new(),
            refusals: BTreeMap::new(),
            refusals_changed: true,
            node: node.into(),
            local: Vec::new(),
            interned: Interned::default(),
        }
    }

    /// Takes the copy of the last state, and returns whether it is whole.
    fn load(&mut self) -> bool {
        let mut is_whole = true;
        for resource in &RESOURCES {
            let loaded = self.cache.load(resource);
            is_whole &= loaded.complete;
            for body in loaded.bodies {
                let seen = Seen::of(body);
                self.keys(resource).seen(&seen);
                self.read(resource, &seen);
            }
        }
        is_whole
    }

    /// Whether everything was told since the start.
    fn is_whole(&self) -> bool {
        self.keys.iter().all(Keys::are_whole)
    }

    fn keys(&mut self, resource: &Resource) -> &mut Keys {
        let at = RESOURCES.iter().position(|it| it == resource).unwrap_or(0);
        &mut self.keys[at]
    }

    fn take(&mut self, Report { resource, told }: Report) {
        match told {
            // That a list begins says nothing yet: it may be refused in its midst.
            Told::Begin => self.keys(resource).begin(),
            Told::Listed(seen) => {
                if self.keys(resource).listed(&seen) == News::Changed {
                    self.put(resource, &seen);
                }
            }
            Told::Put(seen) => {
                self.heard(resource, false);
                if self.keys(resource).seen(&seen) == News::Changed {
                    self.put(resource, &seen);
                }
            }
            Told::Gone(seen) => {
                self.heard(resource, false);
                if self.keys(resource).gone(&seen) == News::Changed {
                    self.remove(resource, &seen.key());
                }
            }
            Told::Done(version) => {
                self.heard(resource, true);
                self.done(resource, Some(&version));
            }
            Told::Answered => self.heard(resource, false),
            Told::Missing(absence, why) => self.missing(resource, absence, &why),
            Told::Expired(why) => self.trouble(resource, &why, true),
            Told::Trouble(why) => self.trouble(resource, &why, false),
        }
    }

    fn heard(&self, resource: &Resource, whole: bool) {
        if self.contact.heard(resource, whole) {
            tracing::info!(%resource, "the API server tells of this resource again");
        }
    }

    fn trouble(&self, resource: &Resource, why: &str, expired: bool) {
        if self.contact.trouble(resource, why.to_owned(), expired) {
            tracing::warn!(%resource, why, "the API server does not tell of this resource; what it told stays");
        }
    }

    /// A resource is not there. What is in force goes only when it is certain that the resource is gone: a server that starts
    /// says so for a moment of what is there. Where nothing is known of it yet, that is no longer than a moment.
    fn missing(&mut self, resource: &'static Resource, absence: Absence, why: &str) {
        match absence {
            Absence::Certain => {}
            Absence::Lasting if self.keys(resource).are_none() => {
                tracing::warn!(%resource, why, "the API server does not serve this resource; it is taken to have no objects");
            }
            Absence::Lasting | Absence::Unclear => return self.trouble(resource, why, false),
        }
        self.heard(resource, true);
        self.keys(resource).begin();
        self.done(resource, None);
    }

    fn asked_for(&mut self, resource: &'static Resource, seen: &Seen) {
        if self.keys(resource).asked_for(seen) == News::Changed {
            self.put(resource, seen);
        }
    }

    /// A list has ended; it was of that version.
    fn done(&mut self, resource: &Resource, version: Option<&str>) {
        for key in self.keys(resource).done(version) {
            self.remove(resource, &key);
        }
        self.cache.set_complete(resource);
    }

    fn put(&mut self, resource: &Resource, seen: &Seen) {
        // What is refused changes nothing, so the copy keeps what was in force, for the next start, too.
        if self.read(resource, seen) {
            self.cache.put(resource, &seen.key(), &seen.body);
        }
    }

    /// Reads an object; whether it could be understood. One that could not changes nothing.
    fn read(&mut self, resource: &Resource, seen: &Seen) -> bool {
        let refused = (resource.to_string(), seen.key());
        let origin = Origin { file: Path::new(ORIGIN).into(), line: 0 };
        match manifest::typed(resource.kind, &seen.body, origin) {
            Ok(mut object) => {
                self.interned.share(&mut object);
                self.refusals_changed |= self.refusals.remove(&refused).is_some();
                self.changes.push(Change::Put(object));
                if resource.kind == Kind::Pod && seen.body["spec"]["nodeName"] == *self.node {
                    self.local.push((seen.key(), Some(seen.uid().into())));
                }
                true
            }
            Err(error) => {
                self.refusals_changed = true;
                let refusal = Refusal {
                    file: ORIGIN.into(),
                    line: 0,
                    object: v1::id(resource.kind, &Place::root(&seen.body)).ok(),
                    field: error.field,
                    reason: error.reason,
                };
                self.refusals.insert(refused, refusal);
                false
            }
        }
    }

    fn remove(&mut self, resource: &Resource, key: &str) {
        self.refusals_changed |= self.refusals.remove(&(resource.to_string(), key.into())).is_some();
        self.changes.push(Change::Remove(id(resource.kind, key)));
        if resource.kind == Kind::Pod {
            self.local.push((key.into(), None));
        }
        self.cache.remove(resource, key);
    }

    /// What has changed since the last batch.
    fn batch(&mut self) -> Batch {
        let refusals =
            mem::take(&mut self.refusals_changed).then(|| self.refusals.values().cloned().collect());
        Batch { changes: mem::take(&mut self.changes), refusals }
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        if let Some(at) = self.contact.known_until() {
            self.cache.set_heard(at.min(SystemTime::now()));
        }
    }
}

/// The id of an object that is gone. NetworkPolicies have theirs from their reader.
fn id(kind: Kind, key: &str) -> ObjectId {
    match key.split_once('/') {
        Some((namespace, name)) => ObjectId::namespaced(kind, namespace, name),
        None => ObjectId::global(kind, key),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mirror(folder: &Path) -> Mirror {
        let cache = Cache::open(folder, "https://a");
        let contact = Arc::new(Contact::new("https://a".into(), None, cache.state()));
        Mirror::new(cache, contact, "node")
    }

    /// Of every resource: what is in force in the kernel stays until all are known.
    #[test]
    fn a_resource_that_is_not_told_of_keeps_a_start_without_a_copy_waiting() {
        let folder = tempfile::tempdir().unwrap();
        for (at, resource) in RESOURCES.iter().enumerate() {
            let mut mirror = mirror(&folder.path().join(at.to_string()));
            assert!(!mirror.load());
            for other in RESOURCES.iter().filter(|it| *it != resource) {
                mirror.take(Report { resource: other, told: Told::Begin });
                mirror.take(Report { resource: other, told: Told::Done("1".into()) });
            }
            for told in [
                Told::Begin,
                Told::Trouble("it says: no (403)".into()),
                Told::Expired("it says: old (410)".into()),
                Told::Missing(Absence::Unclear, "it says: no (404)".into()),
            ] {
                mirror.take(Report { resource, told });
                assert!(!mirror.is_whole() && !mirror.load(), "{resource}");
                let status = mirror.contact.status();
                assert_eq!((status.live, &*status.unlisted), (false, &[resource.to_string()][..]));
            }
            let trouble = mirror.contact.status().trouble.unwrap();
            assert_eq!(trouble, format!("{resource}: it says: no (404)"));
            mirror.take(Report { resource, told: Told::Begin });
            mirror.take(Report { resource, told: Told::Done("1".into()) });
            assert!(mirror.is_whole() && mirror.contact.status().live, "{resource}");
        }
    }

    #[test]
    fn what_is_known_goes_only_when_it_is_certain_that_its_resource_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let mut mirror = mirror(&folder.path().join("copy"));
        let resource = Resource::of(Kind::Tier);
        let tier = json!({"metadata": {"name": "t", "resourceVersion": "1"}, "spec": {"order": 1}});
        mirror.take(Report { resource, told: Told::Begin });
        mirror.take(Report { resource, told: Told::Listed(Seen::of(tier)) });
        mirror.take(Report { resource, told: Told::Done("1".into()) });
        assert_eq!(mirror.batch().changes.len(), 1);
        for absence in [Absence::Unclear, Absence::Lasting] {
            mirror.take(Report { resource, told: Told::Missing(absence, "no".into()) });
            assert!(mirror.batch().changes.is_empty(), "{absence:?}");
        }
        mirror.take(Report { resource, told: Told::Missing(Absence::Certain, "no".into()) });
        assert_eq!(mirror.batch().changes, [Change::Remove(ObjectId::global(Kind::Tier, "t"))]);
        // And of what nobody knows an object, what is not served for long has none.
        mirror.take(Report { resource, told: Told::Missing(Absence::Lasting, "no".into()) });
        assert!(mirror.batch().changes.is_empty() && mirror.contact.status().trouble.is_none());
    }
}
